package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func damageScenarios() []scenario {
	return []scenario{
		{id: "F49", does: "bytes flipped and files cut, all over a data directory", figure: "start to open or refused", on: kind{series: "damage", nodes: 3}, run: damage},
	}
}

// damage is F49. Each time one file of a node that does not run is damaged: the node opens with the same facts as the
// others, or refuses with a sentence. Its job goes on throughout.
func damage(ctx context.Context, b *bed, t times) (got outcome, err error) {
	if err := b.aJobEverywhere(ctx); err != nil {
		return got, err
	}
	if err := b.somethingToDamage(ctx); err != nil {
		return got, err
	}
	_, others, err := b.l.leader(ctx)
	if err != nil {
		return got, err
	}
	victim := others[0]
	if err := victim.kill(); err != nil {
		return got, err
	}
	before := victim.dir + ".before"
	if err := copyFiles(victim.dir, before); err != nil {
		return got, err
	}
	var wrong []error
	for i := 0; b.more(i, t.places); i++ {
		d, err := b.damageOnce(ctx, victim, before)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("place %d: %w", i+1, err))
		}
		if err := b.repair(victim, before); err != nil {
			return got, errors.Join(append(wrong, err)...)
		}
		got.add(d)
	}
	if len(wrong) > 0 {
		return got, fmt.Errorf("%d of %d places: %w", len(wrong), got.faults, errors.Join(wrong...))
	}
	return got, b.restart(victim)
}

// repair ends the node if it runs, and gives its files their old content.
func (b *bed) repair(m *member, before string) error {
	if !m.ended() {
		if err := m.kill(); err != nil {
			return err
		}
	}
	return restoreFiles(before, m.dir)
}

// somethingToDamage makes ended attempts on all nodes, and some log.
func (b *bed) somethingToDamage(ctx context.Context) error {
	var ids []uint64
	for i, m := range b.l.nodes {
		id, err := b.job(ctx, m.name, 0, i)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	c, err := b.everyone(b.l.nodes[0])
	if err != nil {
		return err
	}
	for range 50 {
		if _, err := b.submit(ctx, c, held()); err != nil {
			return err
		}
	}
	return b.waitEnded(ctx, ids...)
}

// damageOnce damages one place, starts the node and judges what it does.
func (b *bed) damageOnce(ctx context.Context, m *member, before string) (took time.Duration, err error) {
	place, err := b.spoil(before, m.dir)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", place, err)
		}
	}()
	said, err := os.Stat(m.log())
	if err != nil {
		return 0, fmt.Errorf("look at what %s says: %w", m.name, err)
	}
	began := time.Now()
	if err := b.restart(m); err != nil {
		return 0, err
	}
	if err := b.openedOrRefused(ctx, m, said.Size()); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// spoil damages one place of a node's files and says which.
func (b *bed) spoil(before, dir string) (place string, err error) {
	files, err := filesOf(before)
	if err != nil {
		return "", err
	}
	// The log of changes is the greatest treasure, and one file among many.
	name := files[b.rnd.IntN(len(files))]
	if b.rnd.IntN(3) == 0 {
		name = filepath.Join("raft", "raft.db")
	}
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("damage: %w", err)
	}
	at := b.rnd.IntN(max(1, len(text)))
	if b.rnd.IntN(4) == 0 || len(text) == 0 {
		if err := os.Truncate(path, int64(at)); err != nil {
			return "", fmt.Errorf("damage: %w", err)
		}
		return fmt.Sprintf("%s cut at %d of %d", name, at, len(text)), nil
	}
	text[at] ^= 1 << b.rnd.IntN(8)
	if err := overwrite(path, text); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s with a bit flipped at %d of %d", name, at, len(text)), nil
}

// openedOrRefused waits until the node is one of the cluster again, with the same facts, or has ended with a sentence.
func (b *bed) openedOrRefused(ctx context.Context, m *member, said int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healLimit, errors.New("it did neither in 30 s"))
	defer cancel()
	err := until(ctx, "the node to open or to refuse", func() (bool, error) {
		return m.ended() || b.l.whole(ctx), pause(ctx, 20*time.Millisecond)
	})
	if err != nil {
		return err
	}
	if !m.ended() {
		return b.sameFacts(ctx)
	}
	text, err := os.ReadFile(m.log())
	if err != nil {
		return fmt.Errorf("look at what %s says: %w", m.name, err)
	}
	if text = text[said:]; !refusal(text) {
		return fmt.Errorf("it ended without a sentence: %.300s", text)
	}
	return nil
}

// refusal says whether a program's last words are a sentence for people and not a crash.
func refusal(text []byte) bool {
	if bytes.Contains(text, []byte("panic:")) || bytes.Contains(text, []byte("goroutine 1")) || bytes.Contains(text, []byte("fatal error:")) {
		return false
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "cvlab: ") && len(l) > 20 })
}

// filesOf lists the files of a data directory that are not empty on purpose, by their names in it.
func filesOf(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the files of a node: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// live says whether a file is written while the node's daemon is away, by a supervisor or a job.
func live(name string) bool {
	base := filepath.Base(name)
	return base == "out.log" || base == "lock" || strings.HasSuffix(base, ".sock")
}

// copyFiles copies what can be damaged.
func copyFiles(from, to string) error {
	names, err := filesOf(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if live(name) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), text, 0o600)
		}
		if err != nil {
			return fmt.Errorf("copy the files of a node: %w", err)
		}
	}
	return nil
}

// restoreFiles gives every file its old content and removes what the node has added to its log meanwhile. Files are
// overwritten in place: a supervisor holds on to some.
func restoreFiles(before, dir string) error {
	names, err := filesOf(before)
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(before, name))
		if err != nil {
			return fmt.Errorf("repair: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			return fmt.Errorf("repair: %w", err)
		}
		if err := overwrite(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	now, err := filesOf(dir)
	if err != nil {
		return err
	}
	for _, name := range now {
		if strings.HasPrefix(name, "raft"+string(filepath.Separator)) && !slices.Contains(names, name) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("repair: %w", err)
			}
		}
	}
	return nil
}

func overwrite(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("overwrite: %w", err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("overwrite: %w", err)
	}
	return nil
}
