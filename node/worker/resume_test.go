package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/fsm"
)

// fetcher brings checkpoints from this machine's own disk, unless a test wants something else.
type fetcher struct {
	store Store

	mu    sync.Mutex
	asked []string
	do    func(ctx context.Context, k fsm.Checkpoint, into string) error
}

// Fetch implements Checkpoints.
func (f *fetcher) Fetch(ctx context.Context, k fsm.Checkpoint, into string) error {
	f.mu.Lock()
	f.asked = append(f.asked, fmt.Sprintf("%d of %d", k.Seq, k.Attempt))
	do := f.do
	f.mu.Unlock()
	if do != nil {
		return do(ctx, k, into)
	}
	return f.store.Copy(ctx, k, into, nil)
}

func (f *fetcher) change(do func(ctx context.Context, k fsm.Checkpoint, into string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.do = do
}

func (f *fetcher) order() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// tellResume runs a story in which checkpoints can be fetched.
func tellResume(t *testing.T, do func(t *testing.T, l *lab, f *fetcher)) {
	t.Helper()
	tell(t, func(t *testing.T, l *lab) {
		f := &fetcher{store: Store{RunsDir: l.runs, Records: l.machine.dir}}
		l.fetch = f
		do(t, l, f)
	})
}

// failed ends an attempt so that the experiment may be assigned again.
func (l *lab) failed(r *run) {
	l.t.Helper()
	l.machine.exit(r.order.Attempt.Token.String(), exited(1))
	synctest.Wait()
	l.seat.must(&fsm.Retry{Experiments: []uint64{r.order.Experiment.ID}})
}

// again assigns the run's experiment here a further time.
func (l *lab) again(r *run) *run {
	l.t.Helper()
	o := l.seat.assignAgain(r.order.Experiment.ID)
	synctest.Wait()
	return l.runOf(o)
}

// resumesFrom is what the attempt's process was told.
func (l *lab) resumesFrom(o Order) string {
	l.t.Helper()
	l.machine.mu.Lock()
	defer l.machine.mu.Unlock()
	r := l.machine.records[o.Attempt.Token.String()]
	if r == nil {
		l.t.Fatal("the attempt was not prepared")
	}
	for _, kv := range r.job.Env {
		if path, ok := strings.CutPrefix(kv, "CVLAB_RESUME_FROM="); ok {
			return path
		}
	}
	return ""
}

// wantResumed wants the attempt to read this text, from a file of its own.
func (l *lab) wantResumed(o Order, from *run, seq uint64, text string) {
	l.t.Helper()
	path := l.resumesFrom(o)
	got, err := os.ReadFile(path)
	if err != nil || string(got) != text || !strings.HasPrefix(path, filepath.Join(l.runOf(o).dir, resumeDir)+"/") {
		l.t.Errorf("resumes from %s, %q, %v; want %q", path, got, err, text)
	}
	want := &fsm.Resumed{Token: from.order.Attempt.Token, Seq: seq}
	if diff := cmp.Diff(want, l.seat.order(o.Attempt.Token).Attempt.Resumed); diff != "" {
		l.t.Errorf("the facts say (-want +got):\n%s", diff)
	}
}

func (l *lab) wantFresh(o Order) {
	l.t.Helper()
	if path := l.resumesFrom(o); path != "" {
		l.t.Errorf("resumes from %s, want a fresh start", path)
	}
	if r := l.seat.order(o.Attempt.Token).Attempt.Resumed; r != nil {
		l.t.Errorf("the facts say that it resumes from %+v", r)
	}
	if _, err := os.Lstat(filepath.Join(l.runOf(o).dir, resumeDir)); err == nil {
		l.t.Error("half a checkpoint is left behind")
	}
}

func TestTheNextAttemptGetsACopyOfItsOwn(t *testing.T) {
	tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
		l.start()
		r := l.begun()
		l.wantFresh(r.order)
		r.save("e1", "one")
		l.soon()
		r.write(r.ckpt("e2/model"), "two")
		r.write(r.ckpt("e2/more/state"), "adam")
		r.renamed("e2")
		l.soon()
		l.failed(r)
		second := l.again(r)
		at := l.resumesFrom(second.order)
		if filepath.Base(at) != "e2" {
			t.Errorf("resumes from %s", at)
		}
		for name, want := range map[string]string{"model": "two", "more/state": "adam"} {
			copied, err := os.ReadFile(filepath.Join(at, name))
			if err != nil || string(copied) != want {
				t.Errorf("%s: %q, %v", name, copied, err)
			}
		}
		// A zombie that writes on changes nothing here.
		if inode(t, filepath.Join(at, "model")) == inode(t, r.ckpt("e2/model")) {
			t.Error("the copy is the original")
		}
		r.write(r.ckpt("e2/model"), "zombie")
		if got, err := os.ReadFile(filepath.Join(at, "model")); err != nil || string(got) != "two" {
			t.Errorf("now it reads %q, %v", got, err)
		}
		// The third goes on from what the second has written, not from what the first writes now.
		second.save("e3", "three")
		l.soon()
		l.failed(second)
		third := l.again(r)
		l.wantResumed(third.order, second, 1, "three")
		if diff := cmp.Diff([]string{"2 of 1", "1 of 2"}, f.order()); diff != "" {
			t.Errorf("fetched (-want +got):\n%s", diff)
		}
	})
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// What is no longer what was published is passed over, whatever was done to it.
func TestDamagedCheckpointsArePassedOver(t *testing.T) {
	for name, damage := range map[string]func(r *run, manifest string){
		"a byte is another one": func(r *run, _ string) { r.write(r.ckpt("e2"), "tvo") },
		"it is shorter":         func(r *run, _ string) { r.must(os.Truncate(r.ckpt("e2"), 1)) },
		"it is longer":          func(r *run, _ string) { r.write(r.ckpt("e2"), "two and more") },
		"it is gone":            func(r *run, _ string) { r.must(os.Remove(r.ckpt("e2"))) },
		"it is a link to the same": func(r *run, _ string) {
			r.must(os.Rename(r.ckpt("e2"), r.ckpt("e3")))
			r.must(os.Symlink("e3", r.ckpt("e2")))
		},
		"it is a pipe":      func(r *run, _ string) { r.must(os.Remove(r.ckpt("e2"))); r.must(unix.Mkfifo(r.ckpt("e2"), 0o644)) },
		"it is a directory": func(r *run, _ string) { r.must(os.Remove(r.ckpt("e2"))); r.write(r.ckpt("e2/x"), "two") },
		"its directory is a link": func(r *run, _ string) {
			r.must(os.Rename(r.ckpt(""), r.dir+"/c"))
			r.must(os.Symlink("c", r.dir+"/checkpoints"))
		},
		"its run is gone":             func(r *run, _ string) { r.must(os.RemoveAll(r.dir)) },
		"its manifest is gone":        func(r *run, m string) { r.must(os.Remove(m)) },
		"its manifest is another one": func(r *run, m string) { r.write(m, `{"version":1}`) },
		"its manifest names another": func(r *run, m string) {
			data, err := os.ReadFile(m)
			r.must(err)
			r.write(m, strings.ReplaceAll(string(data), "e2", "e1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
				l.start()
				r := l.begun()
				r.save("e1", "one")
				l.soon()
				r.save("e2", "two")
				l.soon()
				l.failed(r)
				damage(r, manifestPath(l.machine.dir(r.order.Attempt.Token.String()), 2))
				second := l.again(r)
				if diff := cmp.Diff([]string{"2 of 1", "1 of 1"}, f.order()); diff != "" {
					t.Errorf("fetched (-want +got):\n%s", diff)
				}
				if _, err := os.Lstat(r.ckpt("e1")); err != nil || strings.Contains(name, "directory is a link") {
					l.wantFresh(second.order) // both are gone
					return
				}
				l.wantResumed(second.order, r, 1, "one")
			})
		})
	}
}

func TestNothingLeftIsAFreshStart(t *testing.T) {
	tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
		l.start()
		r := l.begun()
		r.save("e1", "one")
		l.soon()
		l.failed(r)
		f.change(func(_ context.Context, _ fsm.Checkpoint, into string) error {
			return errors.Join(errors.New("the machine does not answer"), os.MkdirAll(filepath.Join(into, "half"), 0o755))
		})
		second := l.again(r)
		l.wantLaunches(second.order.Attempt.Token, 1)
		l.wantFresh(second.order)
	})
}

// The leader's order is ahead of this machine's replica. What the attempt before published last is found all the same.
func TestTheNewestIsFoundByALateReplica(t *testing.T) {
	tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
		l.start()
		r := l.begun()
		r.save("e1", "one")
		l.soon()
		l.failed(r)
		// The second attempt was elsewhere, and published what this replica does not have yet.
		l.seat.lag()
		token := l.seat.must(&fsm.Assign{Experiment: 1, Node: elsewhere}).Token
		l.seat.must(&fsm.Start{Token: token, Node: elsewhere, BootID: "x"})
		l.seat.must(&fsm.Publish{Token: token, Node: elsewhere, Seq: 1, Path: "checkpoints/e2", Files: 1, Size: 1, Digest: digestOf(nil)})
		l.seat.must(&fsm.Finish{Token: token, Node: elsewhere, Class: fsm.ClassUserError})
		l.seat.must(&fsm.Retry{Experiments: []uint64{1}})
		f.change(func(_ context.Context, k fsm.Checkpoint, into string) error {
			return errors.Join(os.MkdirAll(into, 0o755), os.WriteFile(filepath.Join(into, "e2"), []byte(k.Node), 0o644))
		})
		o := l.seat.assignAgain(1)
		l.orders <- o
		l.after(time.Second)
		if len(f.order()) != 0 {
			t.Errorf("fetched %v before the replica could know", f.order())
		}
		l.seat.follow()
		synctest.Wait()
		if diff := cmp.Diff([]string{"1 of 2"}, f.order()); diff != "" {
			t.Errorf("fetched (-want +got):\n%s", diff)
		}
		l.wantLaunches(o.Attempt.Token, 1)
	})
}

// A copy takes an hour. The lease is kept meanwhile, and a cancel, a withdrawal and the end of the daemon end the copy.
func TestWhileACheckpointIsCopied(t *testing.T) {
	slow := func(ctx context.Context, _ fsm.Checkpoint, into string) error {
		if err := os.MkdirAll(into, 0o755); err != nil {
			return err
		}
		if !pause(ctx, time.Hour) {
			return fmt.Errorf("copy: %w", context.Cause(ctx))
		}
		return nil
	}
	begin := func(t *testing.T, l *lab, f *fetcher) Order {
		l.start()
		r := l.begun()
		r.save("e1", "one")
		l.soon()
		l.failed(r)
		f.change(slow)
		o := l.seat.order(l.seat.must(&fsm.Assign{Experiment: 1, Node: here, Lease: fsm.Duration(5 * time.Minute)}).Token)
		l.after(30 * time.Minute)
		if n := len(l.cluster.questions()); n < 100 {
			t.Errorf("its lease was asked for %d times in half an hour", n)
		}
		return o
	}
	t.Run("it ends", func(t *testing.T) {
		tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
			o := begin(t, l, f)
			l.wantLaunches(o.Attempt.Token, 0)
			l.after(31 * time.Minute)
			l.wantLaunches(o.Attempt.Token, 1)
		})
	})
	for name, end := range map[string]func(o Order) fsm.Command{
		"cancel":   func(Order) fsm.Command { return &fsm.Cancel{Experiments: []uint64{1}} },
		"withdraw": func(o Order) fsm.Command { return &fsm.Withdraw{Token: o.Attempt.Token, Reason: "it is silent"} },
	} {
		t.Run(name, func(t *testing.T) {
			tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
				o := begin(t, l, f)
				l.seat.must(end(o))
				synctest.Wait()
				if _, err := os.Lstat(filepath.Join(l.runOf(o).dir, resumeDir)); err == nil {
					t.Error("half a checkpoint is left behind")
				}
				if held := l.worker.Held(); len(held) != 0 {
					t.Errorf("still holds %v", held)
				}
				l.after(2 * time.Hour)
				l.wantLaunches(o.Attempt.Token, 0)
				if state, _ := l.machine.state(o.Attempt.Token.String()); state >= executor.Prepared {
					t.Error("a record was made")
				}
			})
		})
	}
	t.Run("the daemon ends, and the next one copies anew", func(t *testing.T) {
		tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
			o := begin(t, l, f)
			l.stop()
			f.change(nil)
			l.start()
			l.wantLaunches(o.Attempt.Token, 1)
			if at := l.resumesFrom(o); filepath.Base(at) != "e1" {
				t.Errorf("resumes from %q", at)
			}
		})
	})
}

// To train from the start because this disk is full would cost days; its owner should know.
func TestNoPlaceForTheCopyFailsTheStart(t *testing.T) {
	tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
		l.start()
		r := l.begun()
		r.save("e1", "one")
		l.soon()
		l.failed(r)
		f.change(func(context.Context, fsm.Checkpoint, string) error {
			return fmt.Errorf("%w: %w", ErrWrite, unix.ENOSPC)
		})
		second := l.again(r)
		l.wantLaunches(second.order.Attempt.Token, 0)
		l.wantEnd(second.order.Attempt.Token, fsm.ClassStartFailed, "no space left")
	})
}

// The daemon ends between the record and Start: the next one still says what the attempt goes on from.
func TestResumedIsToldByTheNextDaemon(t *testing.T) {
	tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
		l.start()
		r := l.begun()
		r.save("e1", "one")
		l.soon()
		l.failed(r)
		l.seat.setAway(true)
		second := l.again(r)
		l.stop()
		l.seat.setAway(false)
		l.start()
		l.wantLaunches(second.order.Attempt.Token, 1)
		l.wantResumed(second.order, r, 1, "one")
		if n := len(f.order()); n != 1 {
			t.Errorf("fetched %d times", n)
		}
	})
}

// The machines of a gang go on from the same checkpoint: the others wait for what rank 0 says.
func TestAGangGoesOnFromWhatRank0Says(t *testing.T) {
	for name, c := range map[string]struct {
		says  *fsm.Resumed // without its token
		fails bool
		want  string // the copy, "" for a fresh start
		err   string
	}{
		"an older one":     {says: &fsm.Resumed{Seq: 1}, want: "e1"},
		"the newest":       {says: &fsm.Resumed{Seq: 2}, want: "e2"},
		"begin anew":       {},
		"one that is away": {says: &fsm.Resumed{Seq: 2}, fails: true, err: "cannot be brought here"},
		"one long gone":    {says: &fsm.Resumed{Seq: 9}, err: "cannot be brought here"},
	} {
		t.Run(name, func(t *testing.T) {
			tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
				l.start()
				first := l.gangThatFailed()
				f.change(func(_ context.Context, k fsm.Checkpoint, into string) error {
					if c.fails {
						return errors.New("no answer")
					}
					return nil
				})
				gang := l.seat.must(&fsm.Assign{Experiment: 1, Node: elsewhere, Others: []fsm.Slot{{Node: here}}}).Token
				o := l.seat.order(gang)
				job := executor.Job{Dir: l.runOf(o).dir}
				err := os.MkdirAll(job.Dir, 0o755)
				if err != nil {
					t.Fatal(err)
				}
				var running sync.WaitGroup
				running.Go(func() { err = l.worker.resume(t.Context(), o, &job, &task{}) })
				l.after(time.Minute)
				if len(f.order()) > 0 {
					t.Errorf("fetched %v before rank 0 said a word", f.order())
				}
				if c.says != nil {
					c.says.Token = first
				}
				l.seat.must(&fsm.Start{Token: gang, Node: elsewhere, BootID: "x", Port: 29500, Resumed: c.says})
				running.Wait()
				at := ""
				if len(job.Env) > 0 {
					at = filepath.Base(job.Env[0])
				}
				if at != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
					t.Errorf("resumes from %q, %v; want %q, %q", at, err, c.want, c.err)
				}
			})
		})
	}
}

// gangThatFailed makes experiment 1 on two machines, rank 0 elsewhere, whose first attempt has published two checkpoints.
func (l *lab) gangThatFailed() fsm.Token {
	l.t.Helper()
	s := command()
	s.Device.Nodes = 2
	l.seat.must(&fsm.Submit{Spec: s})
	token := l.seat.must(&fsm.Assign{Experiment: 1, Node: elsewhere, Others: []fsm.Slot{{Node: here}}}).Token
	l.seat.must(&fsm.Start{Token: token, Node: elsewhere, BootID: "x", Port: 29500})
	l.seat.must(&fsm.Start{Token: token, Node: here, BootID: boot})
	for seq := range uint64(2) {
		l.seat.must(&fsm.Publish{Token: token, Node: elsewhere, Seq: seq + 1, Path: fmt.Sprintf("checkpoints/e%d", seq+1), Files: 1, Size: 1, Digest: digestOf(nil)})
	}
	for _, node := range []string{elsewhere, here} {
		l.seat.must(&fsm.Finish{Token: token, Node: node, Class: fsm.ClassUserError})
	}
	l.seat.must(&fsm.Retry{Experiments: []uint64{1}})
	return token
}

// The copy is as large as a checkpoint and goes with its attempt, unless the job has made it its own.
func TestTheCopyGoesWithTheAttempt(t *testing.T) {
	for name, own := range map[string]bool{"": false, "but not when the job publishes out of it": true} {
		t.Run(name, func(t *testing.T) {
			tellResume(t, func(t *testing.T, l *lab, f *fetcher) {
				l.start()
				r := l.begun()
				r.save("e1", "one")
				l.soon()
				l.failed(r)
				second := l.again(r)
				at := l.resumesFrom(second.order)
				if own {
					second.write(at, "one and two")
					second.announce(at)
					l.later()
				}
				l.failed(second)
				if _, err := os.Lstat(at); (err == nil) != own {
					t.Errorf("afterwards the copy: %v", err)
				}
				if own {
					third := l.again(r)
					l.wantResumed(third.order, second, 1, "one and two")
				}
			})
		})
	}
}

// stored publishes one checkpoint of two files on a disk, without a worker.
func stored(t *testing.T) (Store, fsm.Checkpoint, *run) {
	t.Helper()
	l := newLab(t)
	r := &run{l: l, dir: filepath.Join(l.runs, "7", "2")}
	r.write(r.ckpt("e1/a"), strings.Repeat("a", 3<<20))
	r.write(r.ckpt("e1/b"), "bbbb")
	files, err := openRun(l.runs, 7, 2)
	r.must(err)
	defer files.close()
	sums, err := files.sum(t.Context(), "checkpoints/e1", func(context.Context) (func(), error) { return func() {}, nil })
	r.must(err)
	m := Manifest{Experiment: 7, Attempt: 2, Path: "checkpoints/e1", Files: sums}
	data, digest, err := m.Encode()
	r.must(err)
	k := fsm.Checkpoint{Experiment: 7, Attempt: 2, Token: fsm.Token{Epoch: 1, Index: 9}, Seq: 3, Path: m.Path, Files: 2, Size: m.Size(), Digest: digest}
	r.must(os.MkdirAll(l.machine.dir("1-9"), 0o755))
	r.must(os.WriteFile(manifestPath(l.machine.dir("1-9"), 3), data, 0o644))
	return Store{RunsDir: l.runs, Records: l.machine.dir}, k, r
}

func TestReceiveChecksEveryByte(t *testing.T) {
	store, k, _ := stored(t)
	open, err := store.Open(k)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	whole := append(append(slices.Clone(open.Encoded), bytes.Repeat([]byte("a"), 3<<20)...), "bbbb"...)
	size := int64(len(open.Encoded))
	into := filepath.Join(t.TempDir(), "into")
	seen := int64(0)
	if err := Receive(t.Context(), k, size, bytes.NewReader(whole), into, func(n int64) { seen += n }); err != nil || seen != 3<<20+4 {
		t.Fatalf("the whole: %v after %d bytes", err, seen)
	}
	if got, err := os.ReadFile(filepath.Join(into, "e1/b")); err != nil || string(got) != "bbbb" {
		t.Errorf("received %q, %v", got, err)
	}
	if err := Receive(t.Context(), k, size, bytes.NewReader(whole), into, nil); !errors.Is(err, ErrWrite) {
		t.Errorf("into what is there already: %v", err)
	}
	flip := func(at int) []byte {
		c := slices.Clone(whole)
		c[(at+len(c))%len(c)] ^= 1
		return c
	}
	for name, c := range map[string]struct {
		size int64
		body []byte
		want error
	}{
		"a bit of the manifest":  {size, flip(20), ErrDamaged},
		"a bit of a file":        {size, flip(int(size) + 1000), ErrDamaged},
		"the last bit":           {size, flip(-1), ErrDamaged},
		"a byte is missing":      {size, whole[:len(whole)-1], io.ErrUnexpectedEOF},
		"a file is missing":      {size, whole[:len(whole)-4], io.ErrUnexpectedEOF},
		"a file begins later":    {size, append(slices.Clone(whole[:size]), append([]byte("x"), whole[size:]...)...), ErrDamaged},
		"half a manifest":        {size, whole[:size/2], io.ErrUnexpectedEOF},
		"a manifest too short":   {size - 1, whole, ErrDamaged},
		"a manifest without end": {MaxManifest + 1, whole, ErrDamaged},
		"a negative size":        {-1, whole, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Receive(t.Context(), k, c.size, bytes.NewReader(c.body), filepath.Join(t.TempDir(), "into"), nil); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	ended, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no longer wanted")
	cancel(why)
	if err := Receive(ended, k, size, bytes.NewReader(whole), filepath.Join(t.TempDir(), "into"), nil); !errors.Is(err, why) {
		t.Errorf("after its end: %v", err)
	}
}

func TestCopyIntoAFullDisk(t *testing.T) {
	store, k, _ := stored(t)
	dir := t.TempDir()
	if err := unix.Mount("cvlab-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs root to mount: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := store.Copy(t.Context(), k, filepath.Join(dir, "into"), nil); !errors.Is(err, ErrWrite) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("copied into a full disk: %v", err)
	}
}

// A file grows or changes between its opening and its copy: the copy is not taken for whole.
func TestCopySeesChangesOfTheOriginal(t *testing.T) {
	for name, change := range map[string]func(r *run){
		"changed": func(r *run) { r.write(r.ckpt("e1/b"), "BBBB") },
		"grown":   func(r *run) { r.write(r.ckpt("e1/b"), "bbbbb") },
		"gone":    func(r *run) { r.must(os.Remove(r.ckpt("e1/b"))) },
	} {
		t.Run(name, func(t *testing.T) {
			store, k, r := stored(t)
			once := sync.OnceFunc(func() { change(r) })
			err := store.Copy(t.Context(), k, filepath.Join(t.TempDir(), "into"), func(int64) { once() })
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("copied: %v", err)
			}
		})
	}
}
