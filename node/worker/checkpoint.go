package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

// checkpointDir is CVLAB_CKPT_DIR below the run directory.
const checkpointDir = "checkpoints"

const (
	// lookForCheckpoints is how often a running attempt is looked at: a read of one small file.
	lookForCheckpoints = 500 * time.Millisecond
	// leastBetween keeps a job that finishes a checkpoint with every batch from filling the cluster's log: what comes sooner is
	// overtaken, or waits so long. The last one of an attempt does not wait.
	leastBetween = 2 * time.Second
	// lookForAnnouncements is how often the directory itself is listed, for those that no supervisor has noted.
	lookForAnnouncements = 5 * time.Second
	// lastLook is how long the end of an attempt waits for its last checkpoint to be read; its GPU is not free meanwhile.
	// A minute reads tens of GB.
	lastLook = time.Minute
	// maxNames is how many names of a checkpoint directory are looked through for announcements.
	maxNames = 10_000
)

// publisher makes the checkpoints of one attempt known.
type publisher struct {
	w        *Worker
	token    fsm.Token
	records  string // the attempt's directory among the records
	journal  journal
	listed   time.Time // when announcements were looked for last
	proposed time.Time // when a checkpoint was published last
	failed   string    // the last complaint, so that it is said once
}

// journal is what has been dealt with, over restarts of the daemon. It lies among the records, where no job writes.
type journal struct {
	Handled uint64 `json:"handled"` // renames, as the supervisor counts them
	Seq     uint64 `json:"seq"`     // of the newest publication that was asked for
	Path    string `json:"path"`    // and what it was
	Digest  string `json:"digest"`
}

const journalFile = "published.json"

// candidate is something that may be a whole checkpoint.
type candidate struct {
	path         string    // below the run directory
	announcement string    // the file that names it, "" for what was renamed into place
	at           time.Time // of the announcement
}

// publish makes checkpoints of an attempt known, until ended is closed and what was there then is known too, or ctx ends.
func (w *Worker) publish(ctx context.Context, token fsm.Token, ended <-chan struct{}) {
	p := &publisher{w: w, token: token, records: filepath.Dir(w.o.Records.LogPath(token.String()))}
	p.readJournal(ctx)
	tick := time.NewTicker(lookForCheckpoints)
	defer tick.Stop()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	for {
		over := false
		select {
		case <-ended:
			over = true
			timer := time.AfterFunc(lastLook, stop)
			defer timer.Stop()
		default:
		}
		p.look(ctx, reading, over)
		if over || ctx.Err() != nil {
			return
		}
		// A read that the end interrupts would only begin again, so it goes on; the time limit counts from the end.
		select {
		case <-ctx.Done():
			return
		case <-ended:
		case <-tick.C:
		}
	}
}

// publishLast is publish for an attempt that has ended already.
func (w *Worker) publishLast(ctx context.Context, token fsm.Token) {
	ended := make(chan struct{})
	close(ended)
	w.publish(ctx, token, ended)
}

// look publishes the newest checkpoint that is not known yet. Older ones were overtaken and are left out. Reading ends with
// reading; what was read is proposed for as long as ctx lives.
func (p *publisher) look(ctx, reading context.Context, last bool) {
	a := p.w.o.Cluster.State().View().Attempt(p.token)
	if a == nil || !a.Open() || a.Node != p.w.o.Cluster.ID() {
		return // not known here yet, or closed: then nobody wants its checkpoints any more (R8)
	}
	if !last && time.Since(p.proposed) < leastBetween {
		return
	}
	renames, err := supervisor.ReadRenames(p.records)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.complain(ctx, "the notes of its supervisor", err)
	}
	list := last || time.Since(p.listed) >= lookForAnnouncements
	if renames.Count <= p.journal.Handled && !list {
		return
	}
	run, err := openRun(p.w.o.RunsDir, a.Experiment, a.Number)
	if err != nil {
		p.complain(ctx, "its run directory", err)
		return
	}
	defer run.close()
	candidates := p.candidates(ctx, run, renames)
	if list {
		p.listed = time.Now()
		candidates = append(candidates, p.announced(ctx, run, candidates)...)
	}
	for _, c := range candidates {
		if p.tryPublish(ctx, reading, run, a, c) {
			break
		}
		if reading.Err() != nil {
			return // looked at again by the next daemon, or too late
		}
	}
	for _, c := range candidates {
		if c.announcement != "" {
			_ = run.root.Remove(c.announcement) // a directory that does not let us costs a look now and then
		}
	}
	if renames.Count > p.journal.Handled {
		p.journal.Handled = renames.Count
		p.writeJournal(ctx)
	}
}

// candidates gives what was renamed into place since the last look, the newest first.
func (p *publisher) candidates(ctx context.Context, run runFiles, r supervisor.Renames) []candidate {
	var list []candidate
	for i := len(r.Newest) - 1; i >= 0 && r.Newest[i].N > p.journal.Handled; i-- {
		name := r.Newest[i].Name
		switch at := path.Join(checkpointDir, name); {
		case strings.HasPrefix(name, announcementPrefix):
			if c, ok := p.announcement(ctx, run, at); ok {
				list = append(list, c)
			}
		case !unfinished(name) && validCheckpointPath(at):
			list = append(list, candidate{path: at})
		}
	}
	return list
}

// announced looks for announcements in the directory itself: those that came before somebody watched, or faster than they could be noted.
func (p *publisher) announced(ctx context.Context, run runFiles, known []candidate) []candidate {
	d, _, err := run.open(checkpointDir)
	if err != nil {
		return nil // the job has removed it
	}
	defer d.Close()
	names, err := d.Readdirnames(maxNames)
	if err != nil && !errors.Is(err, io.EOF) {
		p.complain(ctx, "its checkpoint directory", err)
	}
	if len(names) == maxNames {
		p.complain(ctx, "its checkpoint directory", fmt.Errorf("only %d of its names were looked at: %w", maxNames, errTooMany))
	}
	var list []candidate
	for _, name := range names {
		at := path.Join(checkpointDir, name)
		isKnown := slices.ContainsFunc(known, func(k candidate) bool { return k.announcement == at })
		if strings.HasPrefix(name, announcementPrefix) && !isKnown {
			if c, ok := p.announcement(ctx, run, at); ok {
				list = append(list, c)
			}
		}
	}
	slices.SortFunc(list, func(a, b candidate) int { return b.at.Compare(a.at) })
	return list
}

// announcement reads one; what makes no sense is removed, so that it is complained about once.
func (p *publisher) announcement(ctx context.Context, run runFiles, at string) (candidate, bool) {
	f, info, err := run.open(at)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			p.complain(ctx, at, errors.Join(err, run.root.Remove(at))) // a link itself, never what it points to
		}
		return candidate{}, false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAnnouncement+1))
	if err == nil && len(data) > maxAnnouncement {
		err = fmt.Errorf("it is longer than %d bytes", maxAnnouncement)
	}
	var to string
	if err == nil {
		to, err = decodeAnnouncement(data)
	}
	if err != nil {
		p.complain(ctx, at, errors.Join(err, run.root.Remove(at)))
		return candidate{}, false
	}
	return candidate{path: to, announcement: at, at: info.ModTime()}, true
}

// tryPublish reads one candidate and proposes it. It says whether the look is done: with this one, or with all of them.
func (p *publisher) tryPublish(ctx, reading context.Context, run runFiles, a *fsm.Attempt, c candidate) bool {
	at, begun := c.path, time.Now()
	files, err := run.sum(reading, at, p.w.takeTurn)
	if err != nil {
		if ctx.Err() == nil {
			p.complain(ctx, at, err)
		}
		return false
	}
	m := Manifest{Experiment: a.Experiment, Attempt: a.Number, Path: at, Files: files}
	data, digest, err := m.Encode()
	if err != nil {
		p.complain(ctx, at, err)
		return false
	}
	if c.announcement != "" && at == p.journal.Path && digest == p.journal.Digest {
		return true // renamed and announced
	}
	p.journal.Seq = max(p.journal.Seq, p.published()) + 1
	if err := p.keep(data); err != nil {
		p.complain(ctx, at, err)
		return false
	}
	p.w.log(ctx, p.token, "checkpoint read", "path", at, "files", len(files), "bytes", m.Size(), "took", time.Since(begun).Round(time.Millisecond))
	r, err := p.w.insist(ctx, &fsm.Publish{
		Token: p.token, Node: p.w.o.Cluster.ID(), Seq: p.journal.Seq, Path: at, Files: len(files), Size: m.Size(), Digest: digest,
	})
	if err != nil {
		return false // the daemon ends; the next one reads it again
	}
	if r.Refused() {
		p.complain(ctx, at, errors.New(r.Message))
		return true
	}
	p.journal.Path, p.journal.Digest, p.proposed = at, digest, time.Now()
	p.writeJournal(ctx)
	p.failed = ""
	p.w.log(ctx, p.token, "checkpoint published", "path", at, "seq", p.journal.Seq)
	return true
}

// published is the greatest number that this machine's replica knows of the attempt.
func (p *publisher) published() uint64 {
	v := p.w.o.Cluster.State().View()
	a := v.Attempt(p.token)
	if a == nil {
		return 0
	}
	for _, k := range v.Checkpoints(a.Experiment) {
		if k.Token == p.token {
			return k.Seq
		}
	}
	return 0
}

// keep writes the manifest of the next publication, and then its number: whoever reads the facts finds the manifest, and a
// number is never used for two.
func (p *publisher) keep(manifest []byte) error {
	if err := replaceFile(manifestPath(p.records, p.journal.Seq), manifest); err != nil {
		return err
	}
	if old := p.journal.Seq; old > fsm.KeptCheckpoints {
		// The facts have forgotten it.
		if err := remove(manifestPath(p.records, old-fsm.KeptCheckpoints)); err != nil {
			return fmt.Errorf("remove an old manifest: %w", err)
		}
	}
	return p.storeJournal()
}

func manifestPath(records string, seq uint64) string {
	return filepath.Join(records, fmt.Sprintf("checkpoint-%d.json", seq))
}

func (p *publisher) readJournal(ctx context.Context) {
	data, err := os.ReadFile(filepath.Join(p.records, journalFile))
	if err == nil {
		err = json.Unmarshal(data, &p.journal)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// What is there is read and published once more under greater numbers.
		p.journal = journal{}
		p.complain(ctx, journalFile, err)
	}
}

func (p *publisher) writeJournal(ctx context.Context) {
	if err := p.storeJournal(); err != nil {
		p.complain(ctx, journalFile, err)
	}
}

func (p *publisher) storeJournal() error {
	data, err := json.Marshal(p.journal)
	if err != nil {
		return fmt.Errorf("write what is published: %w", err)
	}
	return replaceFile(filepath.Join(p.records, journalFile), data)
}

// complain says why something is not published, once.
func (p *publisher) complain(ctx context.Context, what string, why error) {
	if text := what + ": " + why.Error(); text != p.failed {
		p.failed = text
		p.w.log(ctx, p.token, "no checkpoint was published", "path", what, "why", why)
	}
}

// takeTurn waits until no other checkpoint's file is read on this machine: reading is nothing urgent and should disturb nobody.
func (w *Worker) takeTurn(ctx context.Context) (done func(), err error) {
	select {
	case w.reading <- struct{}{}:
		return func() { <-w.reading }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// replaceFile writes a small file as a whole, and to the disk: a checkpoint whose manifest was lost in a power cut could not be
// told from a damaged one.
func replaceFile(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = supervisor.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
