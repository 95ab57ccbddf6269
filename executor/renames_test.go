package executor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/deveronica/cvlab/executor/supervisor"
)

// renamed are the names that the supervisor of an attempt has noted, in order.
func (b *bench) renamed(token string) []string {
	b.t.Helper()
	r, err := supervisor.ReadRenames(b.dir(token))
	if err != nil {
		b.t.Logf("renames of %s: %v", token, err)
	}
	var names []string
	for _, one := range r.Newest {
		names = append(names, one.Name)
	}
	return names
}

// A job writes in place, renames files and directories, from beside and from elsewhere, and ends at once after the last one: what
// was renamed is noted before its exit record is there, what was not is not.
func TestRenamedCheckpointsAreNoted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	j := b.job("1-1", "sh", "-c", `cd "$CVLAB_CKPT_DIR"
		echo half > inplace; ln inplace linked; mkdir made; touch made/file
		echo 1 > .e1.part; mv .e1.part e1
		mkdir ../e2; touch ../e2/weights; mv ../e2 e2
		echo 3 > .e3; mv .e3 e1
		mv e1 ../away
		mv inplace made/inside
		echo 4 > .e4; mv .e4 "a name with blanks"`)
	dir := filepath.Join(j.Dir, "checkpoints")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	j.Env = append(j.Env, "CVLAB_CKPT_DIR="+dir)
	b.start(j)
	if e := b.wait(j.Token); e.Code != 0 {
		t.Fatalf("ended with %d: %s", e.Code, b.log(j.Token))
	}
	if diff := cmp.Diff([]string{"e2", "e1", "a name with blanks"}, b.renamed(j.Token)); diff != "" {
		t.Errorf("noted (-want +got):\n%s", diff)
	}
}

// The daemon is away, and the job puts another directory in the place of its own: it is watched again.
func TestRenamesAreNotedWithoutADaemonAndInANewDirectory(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]string{"removed": `rm -r checkpoints`, "moved away": `mv checkpoints old`} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			j := b.job("1-1", "sh", "-c", `until [ -e go ]; do sleep 0.02; done; `+replace+`; mkdir checkpoints
				i=0; until [ -e done ]; do i=$((i+1)); echo $i > checkpoints/.e; mv checkpoints/.e checkpoints/e; sleep 0.05; done`)
			if err := os.Mkdir(filepath.Join(j.Dir, "checkpoints"), 0o755); err != nil {
				t.Fatal(err)
			}
			j.Env = append(j.Env, "CVLAB_CKPT_DIR="+filepath.Join(j.Dir, "checkpoints"))
			b.start(j)
			b.stop()
			touch(t, filepath.Join(j.Dir, "go"))
			for deadline := time.Now().Add(patience); len(b.renamed(j.Token)) == 0; {
				if time.Now().After(deadline) {
					t.Fatal("nothing was noted")
				}
				<-time.After(10 * time.Millisecond)
			}
			touch(t, filepath.Join(j.Dir, "done"))
			n, _ := b.again()
			n.wait(j.Token)
			if diff := cmp.Diff([]string{"e"}, n.renamed(j.Token)); diff != "" {
				t.Errorf("noted (-want +got):\n%s", diff)
			}
		})
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}
