package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

// run is one attempt's job, as its files show it.
type run struct {
	l     *lab
	order Order
	dir   string
}

// begun starts an attempt of a fresh experiment.
func (l *lab) begun() *run {
	l.t.Helper()
	o := l.seat.assign(command())
	synctest.Wait()
	return l.runOf(o)
}

func (l *lab) runOf(o Order) *run {
	return &run{l: l, order: o, dir: filepath.Join(l.runs, fmt.Sprint(o.Attempt.Experiment), fmt.Sprint(o.Attempt.Number))}
}

func (r *run) must(err error) {
	r.l.t.Helper()
	if err != nil {
		r.l.t.Fatal(err)
	}
}

func (r *run) ckpt(name string) string { return filepath.Join(r.dir, checkpointDir, name) }

// write writes a file in place, with its directories.
func (r *run) write(path, text string) {
	r.l.t.Helper()
	r.must(os.MkdirAll(filepath.Dir(path), 0o755))
	r.must(os.WriteFile(path, []byte(text), 0o644))
}

// renamed is what the supervisor does when it sees that something was renamed into the checkpoint directory.
func (r *run) renamed(names ...string) {
	r.l.t.Helper()
	dir := r.l.machine.dir(r.order.Attempt.Token.String())
	known, err := supervisor.ReadRenames(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.l.t.Fatal(err)
	}
	for _, name := range names {
		known.Note(name)
	}
	r.must(supervisor.WriteRenames(dir, known))
}

// save writes a checkpoint of one file, as a job should.
func (r *run) save(name, text string) {
	r.l.t.Helper()
	r.write(r.ckpt("."+name+".part"), text)
	r.must(os.Rename(r.ckpt("."+name+".part"), r.ckpt(name)))
	r.renamed(name)
}

// announce is `cvlab ckpt done`.
func (r *run) announce(path string) {
	r.l.t.Helper()
	r.must(Announce(r.dir, filepath.Join(r.dir, checkpointDir), path))
}

// say leaves an announcement that `cvlab ckpt done` would not make.
func (r *run) say(text string) { r.write(r.ckpt(announcementPrefix+"X"), text) }

// soon lets the worker look.
func (l *lab) soon() { l.after(leastBetween + 2*lookForCheckpoints) }

// later lets the worker look where nothing is noted by a supervisor.
func (l *lab) later() { l.after(2 * lookForAnnouncements) }

// published is what the facts know of an experiment, the oldest first.
func (l *lab) published(id uint64) []string {
	list := []string{}
	for _, k := range l.seat.leader.View().Checkpoints(id) {
		list = append([]string{fmt.Sprintf("%d of %d: %s, %d files, %d bytes", k.Seq, k.Attempt, k.Path, k.Files, k.Size)}, list...)
	}
	return list
}

func (l *lab) wantPublished(id uint64, want ...string) {
	l.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), l.published(id)); diff != "" {
		l.t.Errorf("published (-want +got):\n%s", diff)
	}
}

func TestWhatIsRenamedOrAnnouncedIsPublished(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		r := l.begun()
		r.write(r.ckpt("inplace"), "half")
		r.write(r.ckpt("dir/inplace"), "half")
		l.later()
		l.wantPublished(1)
		r.save("e1.pt", "one")
		l.soon()
		l.wantPublished(1, "1 of 1: checkpoints/e1.pt, 1 files, 3 bytes")
		r.renamed(".hidden", "e2.tmp", "e2.part", "gone")
		r.write(r.ckpt(".hidden"), "x")
		r.write(r.ckpt("e2.tmp"), "x")
		r.write(r.ckpt("e2.part"), "x")
		l.soon()
		l.wantPublished(1, "1 of 1: checkpoints/e1.pt, 1 files, 3 bytes")
		r.write(r.ckpt("e2/optimizer/state"), "adam")
		r.write(r.ckpt("e2/model"), "two")
		r.renamed("e2")
		l.soon()
		r.write(filepath.Join(r.dir, "logs", "last"), "three")
		r.announce(filepath.Join(r.dir, "logs", "last"))
		l.later()
		l.wantPublished(1, "1 of 1: checkpoints/e1.pt, 1 files, 3 bytes", "2 of 1: checkpoints/e2, 2 files, 7 bytes", "3 of 1: logs/last, 1 files, 5 bytes")

		k := l.seat.leader.View().Checkpoints(1)[1]
		data, err := os.ReadFile(manifestPath(l.machine.dir(k.Token.String()), k.Seq))
		r.must(err)
		m, err := DecodeManifest(data, *k)
		r.must(err)
		want := []ManifestFile{
			{Path: "checkpoints/e2/model", Size: 3, SHA256: digestOf([]byte("two"))},
			{Path: "checkpoints/e2/optimizer/state", Size: 4, SHA256: digestOf([]byte("adam"))},
		}
		if diff := cmp.Diff(want, m.Files); diff != "" {
			t.Errorf("manifest (-want +got):\n%s", diff)
		}
		r.save("e1.pt", "one more") // the same name again
		r.announce(r.ckpt("e1.pt")) // the same thing again
		l.later()
		if got := l.published(1); len(got) != 4 || got[3] != "4 of 1: checkpoints/e1.pt, 1 files, 8 bytes" {
			t.Errorf("published %q", got)
		}
		// Written again, as when it was asked for twice: whoever asked waits for a new number.
		r.save("e1.pt", "one more")
		l.soon()
		if got := l.published(1); len(got) != 5 || got[4] != "5 of 1: checkpoints/e1.pt, 1 files, 8 bytes" {
			t.Errorf("published %q", got)
		}
		if left, err := filepath.Glob(r.ckpt(".done-*")); err != nil || len(left) > 0 {
			t.Errorf("announcements are left: %v, %v", left, err)
		}
	})
}

func TestOvertakenCheckpointsAreLeftOut(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		r := l.begun()
		r.save("e1", "1")
		r.save("e2", "2")
		r.save("e3", "3")
		l.soon()
		l.wantPublished(1, "1 of 1: checkpoints/e3, 1 files, 1 bytes")
		l.worker.reading <- struct{}{} // another checkpoint is being read
		r.save("e4", "4")
		l.soon()
		r.save("e5", "5")
		r.save("e6", "6")
		l.after(time.Minute)
		<-l.worker.reading
		l.soon()
		l.wantPublished(1, "1 of 1: checkpoints/e3, 1 files, 1 bytes", "2 of 1: checkpoints/e4, 1 files, 1 bytes", "3 of 1: checkpoints/e6, 1 files, 1 bytes")
		r.save("e7", "7")
		r.save("e8", "8")
		r.must(os.Remove(r.ckpt("e8"))) // by its own rotation
		l.soon()
		if got := l.published(1); len(got) != 4 || !strings.Contains(got[3], "e7") {
			t.Errorf("published %q", got)
		}
	})
}

// A job that finishes a checkpoint five times a second does not fill the cluster's log, and its last one counts.
func TestManyCheckpointsAreNotAllPublished(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		r := l.begun()
		for i := range 50 {
			r.save(fmt.Sprintf("e%d", i), fmt.Sprint(i))
			l.after(200 * time.Millisecond)
		}
		if n := l.seat.triedTimes("publish"); n < 3 || n > 5 {
			t.Errorf("%d were published in 10 s", n)
		}
		r.save("last", "last")
		l.machine.exit(r.order.Attempt.Token.String(), exited(1))
		synctest.Wait()
		if got := l.published(1); !strings.Contains(got[len(got)-1], "checkpoints/last") {
			t.Errorf("published %q", got)
		}
	})
}

func TestNothingIsMissedOrRepeatedOverRestarts(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		r := l.begun()
		r.save("e1", "1")
		r.write(r.ckpt("inplace"), "half")
		l.soon()
		l.restart()
		l.later()
		l.wantPublished(1, "1 of 1: checkpoints/e1, 1 files, 1 bytes")
		l.stop()
		r.save("e2", "22")
		l.start()
		l.soon()
		l.wantPublished(1, "1 of 1: checkpoints/e1, 1 files, 1 bytes", "2 of 1: checkpoints/e2, 1 files, 2 bytes")
		l.stop()
		r.write(r.ckpt("e3"), "333")
		r.announce(r.ckpt("e3"))
		l.start()
		l.soon()
		want := []string{"1 of 1: checkpoints/e1, 1 files, 1 bytes", "2 of 1: checkpoints/e2, 1 files, 2 bytes", "3 of 1: checkpoints/e3, 1 files, 3 bytes"}
		l.wantPublished(1, want...)
		// The commit is answered by nobody when the daemon ends.
		l.seat.setAway(true)
		r.save("e4", "4444")
		l.soon()
		l.stop()
		l.seat.setAway(false)
		l.start()
		l.soon()
		if got := l.published(1); len(got) != 4 || !strings.Contains(got[3], "checkpoints/e4") {
			t.Errorf("published %q", got)
		}
		// Its memory is damaged: what there is may be published again, under numbers that were not used.
		l.stop()
		r.must(os.WriteFile(filepath.Join(l.machine.dir(r.order.Attempt.Token.String()), journalFile), []byte("{"), 0o600))
		r.save("e5", "55555")
		l.start()
		l.soon()
		if got := l.published(1); len(got) != 5 || !strings.Contains(got[4], "checkpoints/e5") {
			t.Errorf("published %q", got)
		}
	})
}

func TestTheLastCheckpointComesBeforeTheReport(t *testing.T) {
	t.Run("while the daemon runs", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.start()
			r := l.begun()
			r.save("last", "1")
			l.machine.exit(r.order.Attempt.Token.String(), exited(1))
			synctest.Wait()
			l.wantStory("prepared", "start committed", "launched", "exited", "publish committed", "finish committed", "forgotten")
		})
	})
	t.Run("while the daemon is away", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.start()
			r := l.begun()
			l.stop()
			r.write(r.ckpt("last"), "1")
			r.announce(r.ckpt("last"))
			l.machine.exit(r.order.Attempt.Token.String(), exited(1))
			l.start()
			l.wantStory("prepared", "start committed", "launched", "exited", "publish committed", "finish committed", "forgotten")
		})
	})
	t.Run("but the report does not wait for ever", func(t *testing.T) {
		tell(t, func(t *testing.T, l *lab) {
			l.start()
			r := l.begun()
			l.worker.reading <- struct{}{}
			r.save("last", "1")
			l.machine.exit(r.order.Attempt.Token.String(), exited(0))
			l.after(lastLook - time.Second)
			l.wantStory("prepared", "start committed", "launched", "exited")
			l.after(2 * time.Second)
			l.wantStory("prepared", "start committed", "launched", "exited", "finish committed", "forgotten")
		})
	})
}

// What a replaced attempt writes is no longer wanted, whatever this machine knows of it (F40b).
func TestZombiesPublishNothing(t *testing.T) {
	for name, lag := range map[string]bool{"and the machine knows": false, "and the machine does not know": true} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(t *testing.T, l *lab) {
				l.start()
				r := l.begun()
				if lag {
					l.seat.lag()
				}
				l.seat.must(&fsm.Finish{Token: r.order.Attempt.Token, Node: here, Class: fsm.ClassNodeLost})
				r.save("e1", "1")
				l.after(time.Minute)
				l.wantPublished(1)
				if tried := l.seat.triedTimes("publish"); tried > 1 || !lag && tried > 0 {
					t.Errorf("asked %d times", tried)
				}
			})
		})
	}
}

// A job puts what it wants into its directory. Nothing outside of it is read, nothing hangs, and the next good one counts.
func TestBadCheckpoints(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.MkdirAll(filepath.Join(secret, "checkpoints"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"key", "checkpoints/e1"} {
		if err := os.WriteFile(filepath.Join(secret, name), []byte("of somebody else"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	done := func(path string) string { return fmt.Sprintf(`{"version":1,"path":%q}`, path) }
	for name, make := range map[string]func(r *run){
		"a link to a file":      func(r *run) { r.must(os.Symlink(secret+"/key", r.ckpt("e1"))); r.renamed("e1") },
		"a link to a directory": func(r *run) { r.must(os.Symlink(secret, r.ckpt("e1"))); r.renamed("e1") },
		"a link inside the run": func(r *run) { r.write(r.ckpt("e0"), "x"); r.must(os.Symlink("e0", r.ckpt("e1"))); r.renamed("e1") },
		"a link in a directory": func(r *run) {
			r.write(r.ckpt("e1/a"), "x")
			r.must(os.Symlink(secret+"/key", r.ckpt("e1/b")))
			r.renamed("e1")
		},
		"a link on the way": func(r *run) { r.must(os.Symlink(secret, filepath.Join(r.dir, "way"))); r.say(done("way/key")) },
		"a link as the run directory": func(r *run) {
			r.must(os.Rename(r.dir, r.dir+".old"))
			r.must(os.Symlink(secret, r.dir))
			r.renamed("e1")
		},
		"a link as the checkpoint directory": func(r *run) {
			r.must(os.RemoveAll(r.ckpt("")))
			r.must(os.Symlink(secret+"/checkpoints", filepath.Join(r.dir, checkpointDir)))
			r.renamed("e1")
		},
		"a pipe": func(r *run) { r.must(unix.Mkfifo(r.ckpt("e1"), 0o644)); r.renamed("e1") },
		"a pipe in a directory": func(r *run) {
			r.write(r.ckpt("e1/a"), "x")
			r.must(unix.Mkfifo(r.ckpt("e1/b"), 0o644))
			r.renamed("e1")
		},
		"a pipe as announcement":  func(r *run) { r.must(unix.Mkfifo(r.ckpt(announcementPrefix+"X"), 0o644)) },
		"a link as announcement":  func(r *run) { r.must(os.Symlink(secret+"/key", r.ckpt(announcementPrefix+"X"))) },
		"a directory as one":      func(r *run) { r.write(r.ckpt(announcementPrefix+"X/y"), "x") },
		"a device":                func(r *run) { _ = unix.Mknod(r.ckpt("e1"), unix.S_IFCHR|0o644, 1<<8|5); r.renamed("e1") },
		"a socket":                func(r *run) { _ = unix.Mknod(r.ckpt("e1"), unix.S_IFSOCK|0o644, 0); r.renamed("e1") },
		"an empty directory":      func(r *run) { r.must(os.Mkdir(r.ckpt("e1"), 0o755)); r.renamed("e1") },
		"a name that is no text":  func(r *run) { r.write(r.ckpt("e1/\xff"), "x"); r.renamed("e1") },
		"a way out":               func(r *run) { r.say(done("../../../key")) },
		"an absolute path":        func(r *run) { r.say(done(secret + "/key")) },
		"the run itself":          func(r *run) { r.say(done(".")) },
		"nothing there":           func(r *run) { r.say(done("checkpoints/e1")) },
		"no announcement":         func(r *run) { r.say("checkpoints/e1") },
		"a long announcement":     func(r *run) { r.say(done("checkpoints/e1") + strings.Repeat(" ", maxAnnouncement)) },
		"two announcements":       func(r *run) { r.say(done("a") + done("b")) },
		"a field of later":        func(r *run) { r.say(`{"version":1,"path":"checkpoints/e1","x":1}`) },
		"deeper than can be":      func(r *run) { r.write(r.ckpt("e1"+strings.Repeat("/d", maxDepth+1)+"/f"), "x"); r.renamed("e1") },
		"a path that is too long": func(r *run) { r.say(done(strings.Repeat("a/", fsm.MaxCheckpointPath/2) + "b")) },
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(t *testing.T, l *lab) {
				l.start()
				r := l.begun()
				make(r)
				l.later()
				l.wantPublished(1)
				if info, err := os.Lstat(r.dir); err == nil && info.Mode()&os.ModeSymlink != 0 {
					r.must(os.Remove(r.dir))
				}
				r.must(os.RemoveAll(r.ckpt("")))
				r.save("good", "1")
				l.later()
				if got := l.published(1); len(got) != 1 || !strings.Contains(got[0], "checkpoints/good") {
					t.Errorf("afterwards %q", got)
				}
			})
		})
	}
	left, err := os.ReadFile(filepath.Join(secret, "key"))
	if err != nil || string(left) != "of somebody else" {
		t.Errorf("the file outside: %q, %v", left, err)
	}
}

// A job swaps its file for a link to somebody else's, as fast as it can (S20). Never a byte of that is read.
func TestSwappedWhileItIsOpened(t *testing.T) {
	l := newLab(t)
	r := &run{l: l, dir: filepath.Join(l.runs, "1", "1")}
	secret := filepath.Join(t.TempDir(), "secret")
	r.must(os.WriteFile(secret, []byte("secret"), 0o644))
	r.write(filepath.Join(r.dir, "inside"), "inside")
	r.write(r.ckpt("e1"), "public")
	files, err := openRun(l.runs, 1, 1)
	r.must(err)
	defer files.close()
	ended := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-ended:
				return
			default:
			}
			switch i % 4 {
			case 0:
				err = os.Symlink(secret, r.ckpt(".x"))
			case 1:
				err = os.WriteFile(r.ckpt(".x"), []byte("public"), 0o644)
			case 2:
				err = os.Symlink("../inside", r.ckpt(".x"))
			case 3:
				err = unix.Mkfifo(r.ckpt(".x"), 0o644)
			}
			if err := errors.Join(err, os.Rename(r.ckpt(".x"), r.ckpt("e1"))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	read := 0
	for range 10_000 {
		f, _, err := files.open("checkpoints/e1")
		if err != nil {
			continue
		}
		data := make([]byte, 16)
		n, _ := f.Read(data)
		f.Close()
		if n > 0 && string(data[:n]) != "public" {
			t.Fatalf("read %q", data[:n])
		}
		read++
	}
	close(ended)
	swapping.Wait()
	t.Logf("%d of 10,000 were opened", read)
}

func TestTooManyFilesAreNotRead(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		r := l.begun()
		r.must(os.MkdirAll(r.ckpt("e1"), 0o755))
		for i := range MaxCheckpointFiles + 1 {
			r.must(os.WriteFile(r.ckpt(fmt.Sprintf("e1/%d", i)), nil, 0o644))
		}
		r.renamed("e1")
		l.soon()
		l.wantPublished(1)
		r.save("e2", "2")
		l.soon()
		l.wantPublished(1, "1 of 1: checkpoints/e2, 1 files, 1 bytes")
	})
}

// Whatever happens to a checkpoint while it is read, it is not published.
func TestChangedWhileItIsRead(t *testing.T) {
	for name, change := range map[string]func(r *run){
		"it grows":             func(r *run) { r.write(r.ckpt("e1/b"), "longer than it was") },
		"it shrinks":           func(r *run) { r.must(os.Truncate(r.ckpt("e1/b"), 1)) },
		"the same size":        func(r *run) { r.write(r.ckpt("e1/b"), "BBBB") },
		"what was read before": func(r *run) { r.write(r.ckpt("e1/a"), "AAAA") },
		"its time is put back": func(r *run) {
			info, err := os.Stat(r.ckpt("e1/a"))
			r.must(err)
			r.write(r.ckpt("e1/a"), "AAAA")
			r.must(os.Chtimes(r.ckpt("e1/a"), info.ModTime(), info.ModTime()))
		},
		"another takes its place": func(r *run) { r.write(r.ckpt(".x"), "bbbb"); r.must(os.Rename(r.ckpt(".x"), r.ckpt("e1/b"))) },
		"a link takes its place":  func(r *run) { r.must(os.Remove(r.ckpt("e1/b"))); r.must(os.Symlink("a", r.ckpt("e1/b"))) },
		"a pipe takes its place":  func(r *run) { r.must(os.Remove(r.ckpt("e1/b"))); r.must(unix.Mkfifo(r.ckpt("e1/b"), 0o644)) },
		"one is removed":          func(r *run) { r.must(os.Remove(r.ckpt("e1/b"))) },
		"one is added":            func(r *run) { r.write(r.ckpt("e1/c"), "c") },
		"all is removed":          func(r *run) { r.must(os.RemoveAll(r.ckpt("e1"))) },
		"it is moved":             func(r *run) { r.must(os.Rename(r.ckpt("e1"), r.ckpt("e2"))) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			r := &run{l: l, dir: filepath.Join(l.runs, "1", "1")}
			r.write(r.ckpt("e1/a"), "aaaa")
			r.write(r.ckpt("e1/b"), "bbbb")
			files, err := openRun(l.runs, 1, 1)
			r.must(err)
			defer files.close()
			turns := 0
			turn := func(context.Context) (func(), error) {
				if turns++; turns == 2 {
					change(r) // between the first file and the second
				}
				return func() {}, nil
			}
			if sums, err := files.sum(t.Context(), "checkpoints/e1", turn); err == nil {
				t.Errorf("read %+v", sums)
			}
			if turns < 2 {
				t.Error("nothing was changed: the test is no test")
			}
		})
	}
}

func TestOldManifestsAreRemoved(t *testing.T) {
	tell(t, func(t *testing.T, l *lab) {
		l.start()
		r := l.begun()
		for i := range fsm.KeptCheckpoints + 3 {
			r.save(fmt.Sprintf("e%d", i), fmt.Sprint(i))
			l.soon()
		}
		kept := l.seat.leader.View().Checkpoints(1)
		left, err := filepath.Glob(filepath.Join(l.machine.dir(r.order.Attempt.Token.String()), "checkpoint-*.json"))
		if err != nil || len(left) != len(kept) || len(kept) != fsm.KeptCheckpoints {
			t.Errorf("%d manifests of %d checkpoints, %v", len(left), len(kept), err)
		}
	})
}

func TestAnnounceSaysWhatIsWrong(t *testing.T) {
	l := newLab(t)
	r := &run{l: l, dir: filepath.Join(l.runs, "1", "1")}
	r.write(r.ckpt("e1"), "1")
	r.must(os.Symlink("e1", r.ckpt("latest")))
	for path, want := range map[string]string{"/etc/passwd": "not below the run directory", r.dir: "not below", r.ckpt("nothing"): "no such file"} {
		if err := Announce(r.dir, r.ckpt(""), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := Announce(r.dir, r.ckpt("nowhere"), r.ckpt("e1")); err == nil {
		t.Error("announced into a directory that is not there")
	}
	r.announce(r.ckpt("latest")) // a link of its own is resolved by the job, who may
	files, err := filepath.Glob(r.ckpt(".done-*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("announcements %v, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	r.must(err)
	if path, err := decodeAnnouncement(data); err != nil || path != "checkpoints/e1" {
		t.Errorf("announced %q, %v", path, err)
	}
}

func FuzzDecodeAnnouncement(f *testing.F) {
	for _, text := range []string{`{"version":1,"path":"checkpoints/e1"}`, `{"version":1,"path":"../x"}`, `{"version":1,"path":"a//b"}`, `{"version":1,"path":"\u0000"}`, `{}`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path, err := decodeAnnouncement(data)
		if err != nil {
			return
		}
		if !filepath.IsLocal(path) || path == "." || strings.ContainsRune(path, 0) || filepath.Clean(path) != path || len(path) > fsm.MaxCheckpointPath {
			t.Errorf("took the path %q", path)
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	good := Manifest{Version: 1, Experiment: 7, Attempt: 2, Path: "checkpoints/e1", Files: []ManifestFile{
		{Path: "checkpoints/e1/a", Size: 1, SHA256: strings.Repeat("0a", 32)}, {Path: "checkpoints/e1/b", Size: 2, SHA256: strings.Repeat("0b", 32)},
	}}
	data, _, err := good.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, change := range [][2]string{{"e1/a", "e1/../../a"}, {"e1/a", "e1/c"}, {`"size":1`, `"size":18446744073709551615`}, {"0a0a", "xxxx"}, {`"version":1`, `"version":2`}, {`e1"`, `..\/e1"`}} {
		f.Add([]byte(strings.Replace(string(data), change[0], change[1], 1)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var shape Manifest
		_ = json.Unmarshal(data, &shape) // what it claims is put into the facts, so that only the form decides
		k := fsm.Checkpoint{Experiment: shape.Experiment, Attempt: shape.Attempt, Path: shape.Path, Files: len(shape.Files), Size: shape.Size(), Digest: digestOf(data)}
		m, err := DecodeManifest(data, k)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Path) || !strings.HasPrefix(file.Path, m.Path) {
				t.Errorf("took the file %q of %q", file.Path, m.Path)
			}
		}
		if _, err := DecodeManifest(data, fsm.Checkpoint{Digest: strings.Repeat("0", 64)}); !errors.Is(err, ErrDamaged) {
			t.Errorf("another digest: %v", err)
		}
	})
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
