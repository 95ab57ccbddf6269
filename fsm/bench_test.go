package fsm_test

import (
	"io"
	"testing"

	"github.com/deveronica/cvlab/fsm"
)

// commit applies one entry without keeping it, for benchmarks.
func (l *lab) commit(b *testing.B, c fsm.Command) fsm.Result {
	r, err := l.state.Apply(l.state.Index()+1, encode(b, fsm.Entry{By: "ana", At: l.now, Command: c}))
	if err != nil || r.Refused() {
		b.Fatalf("%s: %+v, %v", c.Kind(), r, err)
	}
	return r
}

// BenchmarkLife is the four entries of one experiment's life in a cluster that has seen 10,000.
func BenchmarkLife(b *testing.B) {
	l := foundedLab(b)
	l.commit(b, &fsm.Submit{Spec: sweep(fsm.MaxBatch)})
	for b.Loop() {
		id := l.commit(b, &fsm.Submit{Spec: sweep(1)}).Experiments[0]
		token := l.commit(b, &fsm.Assign{Experiment: id, Node: "a", GPUs: []string{"a-0"}}).Token
		l.commit(b, &fsm.Start{Token: token, Node: "a", BootID: "boot"})
		l.commit(b, &fsm.Finish{Token: token, Node: "a", Class: fsm.ClassCompleted, ExitCode: ptr(0)})
	}
}

func BenchmarkSubmit(b *testing.B) {
	l := foundedLab(b)
	for b.Loop() {
		l.commit(b, &fsm.Submit{Spec: sweep(1)})
	}
}

func BenchmarkSubmitBatch10000(b *testing.B) {
	for b.Loop() {
		foundedLab(b).commit(b, &fsm.Submit{Spec: sweep(fsm.MaxBatch)})
	}
}

func big(b *testing.B) *lab {
	l := foundedLab(b)
	l.commit(b, &fsm.Submit{Spec: sweep(fsm.MaxBatch)})
	return l
}

func BenchmarkSnapshot10000(b *testing.B) {
	v := big(b).state.View()
	for b.Loop() {
		if err := v.Write(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore10000(b *testing.B) {
	data := snapshot(b, big(b).state)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		restored(b, data)
	}
}
