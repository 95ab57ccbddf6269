package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// cachedLogs is how many of the newest entries are kept in memory: what followers at the leader's heels are sent. An entry may
// have 4 MiB, so more would cost more than they save.
const cachedLogs = 16

// consensus is this machine's raft server with what it stands on.
type consensus struct {
	*raft.Raft
	id    string
	store *durable
	watch *watchStore
	trans *transport
	wire  *wire
	// terms tells of every gain and loss of leadership, in order. Raft blocks when nobody reads it.
	terms chan bool
	// leaders tells that the known leader may have changed.
	leaders  chan raft.Observation
	observer *raft.Observer
	waits    waits
	closed   chan struct{}
	stop     func() raft.Future // Shutdown, once: a second one would not wait
}

// raftOptions say how to open a consensus.
type raftOptions struct {
	dir       string
	id        string
	bootstrap bool // found a cluster of this server alone, unless the directory holds one
	member    bool // others count on the log, so it must be there
	// damaged is told when something damaged is read while raft runs.
	damaged func(error)
	fsm     raft.FSM
	wire    *wire
	trans   *transport
	tuning  Tuning
	room    func() bool // makes room on a full disk
	faults  func(logStore) logStore
	log     *slog.Logger
	at      func(step string) // see Options.At
}

func (o raftOptions) config(terms chan bool) *raft.Config {
	c := raft.DefaultConfig()
	c.ProtocolVersion = raft.ProtocolVersionMax // 3: servers have IDs, addresses may change
	c.LocalID = raft.ServerID(o.id)             // hash of the node's key: never a name or an address
	c.HeartbeatTimeout = o.tuning.Heartbeat
	c.ElectionTimeout = o.tuning.Heartbeat
	c.LeaderLeaseTimeout = o.tuning.Lease // must not exceed the heartbeat timeout
	c.CommitTimeout = o.tuning.Commit
	c.MaxAppendEntries = 256 // entries that wait are committed by one fsync; a batch of small ones is one packet train
	c.BatchApplyCh = true    // lets writers queue up behind the fsync; voids an enqueue timeout nobody relies on
	c.SnapshotThreshold = 8192
	c.SnapshotInterval = time.Minute
	c.TrailingLogs = 20480       // > 2 × threshold: a corrupt newest snapshot can be skipped, a short absence needs none
	c.ShutdownOnRemove = false   // the default would silently stop raft when this node is taken out
	c.PreVoteDisabled = false    // a server that was cut off must not end a healthy leader's term on its return
	c.NoLegacyTelemetry = true   // metrics twice
	c.NotifyCh = terms           // buffered: raft blocks on it
	c.Logger = newRaftLog(o.log) // LogLevel is DEBUG by default; slog's handler decides
	return c
}

// openConsensus opens the log and starts raft. The library's goroutines run from here on; close ends them.
func openConsensus(o raftOptions) (_ *consensus, err error) {
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open consensus log: %w", err)
	}
	d, err := openDurable(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	terms := make(chan bool, 16)
	config := o.config(terms)
	if o.bootstrap {
		if err := bootstrap(config, d.store, d.snaps, o); err != nil {
			return nil, err
		}
	}
	server, err := startRaft(config, o.fsm, d, o.dir, o.trans, o.at)
	if err != nil {
		return nil, err
	}
	c := &consensus{Raft: server, id: o.id, store: d, watch: d.watch, trans: o.trans, wire: o.wire, terms: terms,
		leaders: make(chan raft.Observation, 16), closed: make(chan struct{}),
		stop: sync.OnceValue(func() raft.Future { return server.Shutdown() })}
	c.observer = raft.NewObserver(c.leaders, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	server.RegisterObserver(c.observer)
	return c, nil
}

func openStore(path string) (*raftboltdb.BoltStore, error) {
	store, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:        5 * time.Second, // a second daemon holds the lock: say so instead of waiting for ever
			NoFreelistSync: true,            // else every commit rewrites a freelist that never shrinks
			FreelistType:   bbolt.FreelistMapType,
		},
		NoSync: false, // what was acknowledged is on disk
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, fmt.Errorf("open consensus log: another cvlab node uses %s; stop it first: %w", filepath.Dir(path), err)
	}
	if err != nil {
		return nil, fmt.Errorf("open consensus log: %w", openError(path, err))
	}
	return store, nil
}

func bootstrap(config *raft.Config, store logStore, snaps raft.SnapshotStore, o raftOptions) error {
	exists, err := raft.HasExistingState(store, store, snaps)
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	if exists {
		return nil
	}
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: config.LocalID, Address: o.wire.self}}}
	if err := raft.BootstrapCluster(config, store, store, snaps, o.trans, alone); err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	return nil
}

// hasLog says whether the directory holds a consensus log.
func hasLog(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, "raft.db"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// handOver gives leadership to the most up-to-date voter, if this server leads and there is another.
func (c *consensus) handOver(ctx context.Context) error {
	if c.State() != raft.Leader || len(voters(c.servers())) < 2 {
		return nil
	}
	return c.await(ctx, c.LeadershipTransfer())
}

// await waits for a future, but not beyond ctx or the end of the seat.
func (c *consensus) await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !c.waits.start(func() { done <- f.Error() }) {
		return fmt.Errorf("%w: %w", errUndecided, raft.ErrRaftShutdown)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errUndecided, context.Cause(ctx))
	case <-c.closed:
		return fmt.Errorf("%w: %w", errUndecided, raft.ErrRaftShutdown)
	}
}

// errUndecided marks a wait that ended before raft answered.
var errUndecided = errors.New("consensus has not answered")

func (c *consensus) servers() []raft.Server {
	return c.GetConfiguration().Configuration().Servers
}

func voters(servers []raft.Server) []string {
	var ids []string
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	return ids
}

func (c *consensus) isVoter() bool {
	return slices.Contains(voters(c.servers()), c.id)
}

// waits are the goroutines that wait for futures of raft, which know no context.
type waits struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // made by settle, closed when n comes to 0
	group  sync.WaitGroup
}

// start runs f, unless settle was called.
func (w *waits) start(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.n++
	w.group.Go(func() {
		defer w.end()
		f()
	})
	return true
}

func (w *waits) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n--; w.n == 0 && w.closed {
		close(w.idle)
	}
}

// settle starts no more and waits for those that run, but not for ever.
func (w *waits) settle(limit time.Duration) {
	w.mu.Lock()
	w.closed, w.idle = true, make(chan struct{})
	if w.n == 0 {
		close(w.idle)
	}
	w.mu.Unlock()
	select {
	case <-w.idle:
	case <-time.After(limit):
	}
}

const (
	// settleLimit is how long a closing seat waits for what is under way.
	settleLimit = 500 * time.Millisecond
	// closeLimit is how long it waits for raft's end, and then for the log's; failedLimit the same when the disk failed.
	closeLimit, failedLimit = 5 * time.Second, 300 * time.Millisecond
)

// abandon makes this server silent at once, without waiting for anything.
func (c *consensus) abandon() {
	c.stop()
	_ = c.trans.Close() // it never fails
	c.watch.letGo()
}

// close stops raft, then the wire under it, then the log. Raft forgets futures that are on their way to the facts when it
// shuts down, and who waits for one would wait for ever; so those are let through first.
func (c *consensus) close() error {
	limit := closeLimit
	if c.watch.failure() != nil {
		limit = failedLimit
	} else {
		c.waits.settle(settleLimit)
	}
	c.DeregisterObserver(c.observer)
	stopped := c.stop()
	// Replication may wait up to Tuning.RPC for a peer that is gone; without its connections it ends at once.
	wireErr := c.trans.Close()
	c.watch.letGo()
	var raftErr error
	if !c.store.store.isDead() { // else raft waits for what will never be read
		raftErr = bounded("end raft", limit, stopped.Error)
	}
	close(c.closed)
	c.trans.CloseStreams()
	if c.watch.failure() != nil {
		c.waits.settle(settleLimit)
	}
	if err := errors.Join(wireErr, raftErr, bounded("close the log", limit, c.store.close)); err != nil {
		return fmt.Errorf("close consensus: %w", err)
	}
	return nil
}
