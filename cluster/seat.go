package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/deveronica/cvlab/fsm"
)

// protocolPeer is the mesh protocol the node serves its internal HTTP on.
const protocolPeer = "peer"

// handOverLimit bounds how long a stopping leader waits for its successor.
const handOverLimit = 2 * time.Second

// Seat is this machine's place in one cluster. Open makes it, Run lives it; every other method may be called by anybody
// from Open on, and answers usefully while Run runs.
type Seat struct {
	o  Options
	id string
	// instance names this process: two that answer with one key and different instances are two machines with one key.
	instance string
	mesh     string // host:port others reach this node's mesh under
	log      *slog.Logger
	file     *fileStore

	replica  *replica
	raft     *consensus
	leader   *leadership
	barriers *barriers
	forward  *forwarder
	gossip   *gossip
	out      *outbox
	space    *space
	stall    *stall
	handing  atomic.Bool  // leadership is being handed to a voter with room
	applying atomic.Int64 // proposals that wait for this leader's log

	departures *departures

	slots     chan struct{} // one token per change in flight
	listeners map[string]net.Listener
	life
}

// life is how a seat ends.
type life struct {
	stopping chan struct{} // closed when no further change is taken
	stopOnce sync.Once
	closing  sync.Once
	closeErr error
}

func (l *life) stop() { l.stopOnce.Do(func() { close(l.stopping) }) }

func (l *life) isStopping() bool {
	select {
	case <-l.stopping:
		return true
	default:
		return false
	}
}

// Open opens the seat of this data directory, and founds or joins a cluster first if the directory holds none and the
// options say so. Joining talks to the peer, bounded by ctx. No goroutine of this package runs before Run; those of raft
// and memberlist do. A seat that is never run must be closed with Close.
func Open(ctx context.Context, o Options) (_ *Seat, err error) {
	o.Tuning = o.Tuning.withDefaults()
	s := &Seat{
		o: o, id: o.Identity.ID(), instance: rand.Text(), log: o.Logger.With("component", "cluster"),
		replica: newReplica(), leader: newLeadership(), slots: make(chan struct{}, maxInFlight), out: newOutbox(), stall: newStall(),
		departures: newDepartures(),
		listeners:  map[string]net.Listener{}, life: life{stopping: make(chan struct{})},
	}
	s.forward = newForwarder(s.DialPeer)
	s.barriers = &barriers{commit: s.commitBarrier}
	if s.file, err = openFile(o.Dir); err != nil {
		return nil, err
	}
	if err = s.checkOwner(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.space, err = openSpace(o.Dir, o.Disk, s.log); err != nil {
		return nil, err
	}
	if s.gossip, err = bindGossip(o, s.log); err != nil {
		return nil, err
	}
	if err = s.enter(ctx); err != nil {
		return nil, err
	}
	o.Roster.set(s.file.get())
	if err = s.openRaft(); err != nil {
		return nil, err
	}
	if err = s.catchEpoch(); err != nil {
		return nil, err
	}
	o.Roster.join(s.replica.state, s.raft.servers)
	if err = s.openGossip(); err != nil {
		return nil, err
	}
	for _, protocol := range []string{protocolForward, protocolPulse, protocolJoin, protocolPeer} {
		s.listeners[protocol] = o.Mesh.Accept(protocol)
	}
	return s, nil
}

// enter makes sure that the directory belongs to a cluster.
func (s *Seat) enter(ctx context.Context) error {
	s.o.Mesh.Open(protocolJoin)
	f := s.file.get()
	if f.Phase != "" {
		if s.o.Join != nil {
			if err := s.checkPeer(ctx, *s.o.Join, f); err != nil {
				return err
			}
		}
		return s.resume(ctx, f)
	}
	switch {
	case s.o.Join != nil:
		return s.join(ctx, *s.o.Join)
	case s.o.Found != nil:
		return s.found(*s.o.Found)
	}
	return ErrNoCluster
}

// resume takes the seat up again where cluster.json says it was.
func (s *Seat) resume(ctx context.Context, f clusterFile) error {
	s.mesh = s.advertised(s.o.Mesh.Addr(), peerHost(f.Peers))
	s.gossip.addr = s.advertised(s.gossip.bound, peerHost(f.Peers))
	have, err := hasLog(s.raftDir())
	if err != nil {
		return fmt.Errorf("look for consensus log: %w", err)
	}
	if f.Phase == phaseMember && !have {
		return advised(damage(filepath.Join(s.raftDir(), "raft.db"), "", errors.New("it is gone")), f, s.id)
	}
	return s.checkTwin(ctx, f)
}

func (s *Seat) raftDir() string { return filepath.Join(s.o.Dir, "raft") }

func (s *Seat) openRaft() error {
	w := newWire(s.o.Mesh, address(s.id, s.mesh))
	trans := newTransport(w, s.meshAddress, s.o.Tuning.RPC, s.log)
	c, err := openConsensus(raftOptions{
		dir: s.raftDir(), id: s.id, bootstrap: s.file.get().Phase == phaseFounding,
		member: s.file.get().Phase == phaseMember, damaged: s.fellDamaged,
		fsm: s.replica, wire: w, trans: trans, tuning: s.o.Tuning,
		room: s.space.makeRoom, faults: s.o.store, log: s.log, at: s.o.At,
	})
	if err != nil {
		return errors.Join(advised(err, s.file.get(), s.id), trans.Close())
	}
	s.raft = c
	return s.file.update(func(f *clusterFile) { f.Phase, f.Node, f.Mesh = phaseMember, s.id, s.mesh })
}

// Run takes part in the cluster until ctx ends, then hands over leadership (2 s at most), says good-bye to gossip and
// closes everything. Membership does not change by it. The error is not nil when the node must not go on: an entry its
// version does not understand (fsm.ErrUnknownCommand), ErrRemoved, ErrDisk, or something that broke. With ErrDisk the node
// is cut off already, and goroutines that wait for the disk may be left behind.
func (s *Seat) Run(ctx context.Context) error {
	group, gctx := errgroup.WithContext(ctx)
	// Raft must be able to hear and speak until leadership is handed over, so the loops outlive gctx by that much.
	loops, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group.Go(func() error {
		defer end()
		<-gctx.Done()
		s.stop()
		s.farewell(loops)
		return nil
	})
	for _, run := range []func(context.Context) error{
		s.raft.trans.run, s.watchLeader, s.watchReplica, s.gossip.run,
		s.servePeers(protocolForward, s.serveForward),
		s.servePeers(protocolJoin, s.serveJoin),
		s.servePeers(protocolPulse, servePulse),
		s.keepPulse, s.keepTogether, s.beacons, s.announceSelf, s.keepName, s.standAlone,
		s.watchDisk, s.space.run, s.watchProgress,
		s.watchFiles, s.watchTwins,
		func(ctx context.Context) error { return s.Lead(ctx, s.ownTerm) },
	} {
		group.Go(func() error { return run(loops) })
	}
	err := s.waitFor(loops, group)
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil
	}
	closeErr := s.Close()
	if failure := s.raft.watch.failure(); failure != nil {
		s.log.Debug("close a seat whose disk has failed", "error", errors.Join(err, closeErr))
		return failure
	}
	return errors.Join(err, closeErr)
}

// loopsLimit is how long the loops may take to end after they were told to: looking for three lost members takes 15 s.
const loopsLimit = 20 * time.Second

// waitFor waits for the loops, but when they were told to end not for ever: one may be writing to a disk that hangs.
func (s *Seat) waitFor(loops context.Context, group *errgroup.Group) error {
	ended := make(chan error, 1)
	var left sync.WaitGroup
	left.Go(func() { ended <- group.Wait() })
	select {
	case err := <-ended:
		return err
	case <-loops.Done():
	}
	limit := loopsLimit
	if s.raft.watch.failure() != nil {
		limit = failedLimit
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(limit):
		return cmp.Or(s.raft.watch.failure(), fmt.Errorf("the cluster's loops did not end within %v", limit))
	}
}

// farewell hands over leadership while everything still works.
func (s *Seat) farewell(ctx context.Context) {
	if s.replica.failure() != nil || s.raft.watch.failure() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverLimit)
	defer cancel()
	if err := s.raft.handOver(ctx); err != nil {
		s.log.Info("leadership was not handed over; the others elect", "error", err)
	}
}

// watchReplica ends the seat when its replica cannot go on, or when the registry says that it was removed.
func (s *Seat) watchReplica(ctx context.Context) error {
	for {
		changed := s.replica.state.Changed()
		if n := s.replica.state.View().Node(s.id); n != nil && n.Removed {
			return ErrRemoved
		}
		select {
		case <-s.replica.broken:
			return s.replica.failure()
		case <-changed:
			s.savePeers()
		case <-ctx.Done():
			return nil
		}
	}
}

// Close closes what Open opened; Run does it by itself. It is safe to call twice.
func (s *Seat) Close() error {
	s.stop()
	s.closing.Do(func() {
		var errs []error
		for _, ln := range s.listeners {
			errs = append(errs, ln.Close())
		}
		if s.gossip != nil {
			errs = append(errs, s.gossip.close())
		}
		s.forward.keepOnly("")
		if s.raft != nil {
			errs = append(errs, s.raft.close())
		}
		s.barriers.close()
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// servePeers accepts connections of one protocol until ctx ends and waits for their handlers.
func (s *Seat) servePeers(protocol string, handle func(context.Context, net.Conn)) func(context.Context) error {
	return func(ctx context.Context) error {
		ln := s.listeners[protocol]
		var handlers sync.WaitGroup
		defer handlers.Wait()
		stop := context.AfterFunc(ctx, func() { ln.Close() })
		defer stop()
		for {
			conn, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("accept %s connection: %w", protocol, err)
			}
			handlers.Go(func() {
				defer conn.Close()
				cut := context.AfterFunc(ctx, func() { conn.Close() })
				defer cut()
				handle(ctx, conn)
			})
		}
	}
}

// State gives this node's replica of the facts.
func (s *Seat) State() *fsm.State { return s.replica.state }

// ID gives this node's ID.
func (s *Seat) ID() string { return s.id }

// ClusterID gives the ID of the cluster.
func (s *Seat) ClusterID() string { return s.file.get().ID }

// Name gives the cluster's name.
func (s *Seat) Name() string { return s.file.get().Name }

// PeerListener gives the connections that members opened with DialPeer(…, "peer"); the node serves its internal HTTP
// there. It is closed with the seat.
func (s *Seat) PeerListener() net.Listener { return s.listeners[protocolPeer] }
