package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/deveronica/cvlab/cluster/mesh"
	"github.com/deveronica/cvlab/fsm"
)

// RecoverOptions say which stopped node is to go on without its majority. The caller holds the lock of the directory.
type RecoverOptions struct {
	Dir      string
	Identity *mesh.Identity
	// Name is what the node is called if its key is new to the cluster.
	Name   string
	Logger *slog.Logger
}

// Recovery is what can be saved of a cluster from this node's files, and what stands against it. PlanRecovery finds it
// and changes nothing; Carry does it.
type Recovery struct {
	Cluster, Name string
	// Epoch is the one that the recovered cluster will have.
	Epoch uint64
	// Last and Term are the newest entry that is whole, Time is when it was proposed.
	Last, Term uint64
	Time       time.Time
	// Entries is how many of the log's entries are replayed on the snapshot at index Snapshot (0: none is needed).
	Snapshot uint64
	Entries  int
	// Lost says in sentences what is damaged or missing.
	Lost []string
	// Peers are the other members and what they answered.
	Peers []PeerState
	// Against says why it is refused; empty if it is not.
	Against []string

	o       RecoverOptions
	state   *fsm.State
	term    uint64 // the greatest that was seen
	resumed bool   // only cluster.json is left to be written
}

// PeerState is what another member says of its own log.
type PeerState struct {
	ID, Name, Addr string
	// Err is why it did not answer; nil if it did.
	Err        error
	Last, Term uint64
	Epoch      uint64
	Leader     string // ID of the leader it follows or is, empty if there is none
}

// ErrRecoveryRefused marks a recovery that would lose what others still have.
var ErrRecoveryRefused = errors.New("the cluster need not be recovered here, or must not be")

// recoveredDir is a raft directory that is complete and waits to take its place.
const recoveredDir = "raft.recovered"

// PlanRecovery reads what this node has and asks the other members for what they have. It changes nothing, but that it
// finishes a recovery that was cut short.
func PlanRecovery(ctx context.Context, o RecoverOptions) (*Recovery, error) {
	if err := finishSwap(o.Dir); err != nil {
		return nil, err
	}
	r := &Recovery{o: o, state: fsm.New()}
	f, err := openFile(o.Dir)
	if d, damaged := errors.AsType[*DamageError](err); damaged {
		r.Lost = append(r.Lost, fmt.Sprintf("%s is damaged (%v); it is made anew", d.File, d.Err))
		f = &fileStore{path: filepath.Join(o.Dir, "cluster.json")}
	} else if err != nil {
		return nil, err
	}
	if err := r.salvage(ctx); err != nil {
		return nil, err
	}
	v := r.state.View()
	id, name, epoch := v.Cluster()
	if id == "" {
		return nil, fmt.Errorf("nothing can be saved: %s holds neither a snapshot nor a log that is whole; "+
			"join another member as a new node (cvlab join PEER --as-new), or start again with an empty data directory", o.Dir)
	}
	r.Cluster, r.Name, r.Epoch, r.Time = id, name, epoch+1, v.Time()
	if file := f.get(); file.Phase != "" && file.Epoch < epoch {
		r.Epoch, r.resumed = epoch, true
	}
	r.Peers = askPeers(ctx, o, f.get(), v)
	r.judge()
	return r, nil
}

// salvage restores the newest snapshot that is whole, and applies the entries behind it up to the first that is not.
func (r *Recovery) salvage(ctx context.Context) error {
	dir := filepath.Join(r.o.Dir, "raft")
	entries := map[uint64]*raft.Log{}
	newest := uint64(0)
	survey, err := surveyLog(ctx, filepath.Join(dir, "raft.db"), false, func(l *raft.Log) {
		entries[l.Index], newest = l, max(newest, l.Index)
		r.term = max(r.term, l.Term)
	})
	if errors.Is(err, errInUse) || ctx.Err() != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	r.term = max(r.term, survey.term)
	if _, err := surveyLog(ctx, filepath.Join(dir, "raft.db"), true, nil); err != nil {
		r.Lost = append(r.Lost, fmt.Sprintf("the log is damaged: %v", err))
	}
	if err := r.restore(dir, !survey.adopted || survey.from > 1); err != nil {
		return err
	}
	for next := r.Last + 1; entries[next] != nil; next++ {
		l := entries[next]
		if l.Type == raft.LogCommand {
			if _, err := r.state.Apply(l.Index, l.Data); err != nil {
				return fmt.Errorf("replay the log: %w", err)
			}
		}
		r.Last, r.Term, r.Entries = l.Index, l.Term, r.Entries+1
	}
	if m, found, err := readMark(dir); err == nil && found {
		newest = max(newest, m.Last)
	}
	if newest > r.Last {
		r.Lost = append(r.Lost, fmt.Sprintf("entries %d to %d cannot be read, or one before them cannot, and are lost", r.Last+1, newest))
	}
	return nil
}

func (r *Recovery) restore(dir string, lenient bool) error {
	names, err := snapshotNames(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, len(names), newRaftLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return fmt.Errorf("read snapshots: %w", err)
	}
	found, err := surveySnapshots(dir, lenient)
	if err != nil {
		return fmt.Errorf("read snapshots: %w", err)
	}
	for _, name := range names {
		if why := found.bad[name]; why != nil {
			r.Lost = append(r.Lost, why.Error())
		}
	}
	if found.best == nil {
		return nil
	}
	_, in, err := files.Open(found.best.ID)
	if err == nil {
		err = errors.Join(r.state.Restore(in), in.Close())
	}
	if err != nil {
		return fmt.Errorf("restore snapshot %s: %w", found.best.ID, err)
	}
	r.Snapshot, r.Last, r.Term = found.best.Index, found.best.Index, found.best.Term
	r.term = max(r.term, r.Term)
	return nil
}

// judge says what stands against a recovery. The log of a greater term, or of the same and longer, has more; raft compares so.
func (r *Recovery) judge() {
	for _, p := range r.Peers {
		switch {
		case errors.Is(p.Err, ErrRemoved):
			r.Against = append(r.Against, fmt.Sprintf("%s says that this node was removed from the cluster; join as a new node with: cvlab join %s --as-new", p.Name, p.Addr))
		case p.Err != nil:
		case p.Epoch >= r.Epoch && !r.resumed:
			r.Against = append(r.Against, fmt.Sprintf("the cluster was recovered already (%s is at epoch %d); join it as a new node with: cvlab join %s --as-new", p.Name, p.Epoch, p.Addr))
		case p.Leader != "" && p.Leader != r.o.Identity.ID():
			r.Against = append(r.Against, fmt.Sprintf("%s answers and has a leader: the cluster works. Start this node with: cvlab up; if its files are damaged, join as a new node with: cvlab join %s --as-new", p.Name, p.Addr))
		case p.Term > r.Term || p.Term == r.Term && p.Last > r.Last:
			r.Against = append(r.Against, fmt.Sprintf("%s has more: its log ends with entry %d of term %d, this one's with %d of term %d; run cvlab recover there", p.Name, p.Last, p.Term, r.Last, r.Term))
		}
	}
}

// Carry does what was planned: a new raft directory with one snapshot, whose only voter is this node, takes the place of the
// old one, which is kept. It may be repeated after a crash at any moment. It gives the directory of what was kept.
func (r *Recovery) Carry(now time.Time) (kept string, err error) {
	if len(r.Against) > 0 {
		return "", fmt.Errorf("%w: %s", ErrRecoveryRefused, r.Against[0])
	}
	kept = damagedDir(r.o.Dir, now)
	if !r.resumed {
		if err := r.build(); err != nil {
			return "", fmt.Errorf("recover: %w", err)
		}
		if err := keep(r.o.Dir, kept, "raft"); err != nil {
			return "", fmt.Errorf("recover: %w", err)
		}
		if err := finishSwap(r.o.Dir); err != nil {
			return "", err
		}
	}
	return kept, r.writeFile(kept)
}

// finishSwap puts a recovered directory into its place, if the old one is out of the way.
func finishSwap(dir string) error {
	from, to := filepath.Join(dir, recoveredDir), filepath.Join(dir, "raft")
	ready, err := exists(from)
	if err == nil && ready {
		var there bool
		if there, err = exists(to); err == nil && !there {
			err = errors.Join(os.Rename(from, to), syncDir(dir))
		}
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// build makes the new directory beside the old one, complete before it has its name.
func (r *Recovery) build() error {
	dir := filepath.Join(r.o.Dir, recoveredDir)
	work := dir + ".new"
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(work), os.MkdirAll(work, 0o700)); err != nil {
		return err
	}
	node := r.self()
	index, err := r.begin(node)
	if err != nil {
		return err
	}
	if err := r.writeLog(work); err != nil {
		return err
	}
	if err := r.writeSnapshot(work, index, node); err != nil {
		return err
	}
	return errors.Join(syncDir(work), os.Rename(work, dir), syncDir(r.o.Dir))
}

// begin applies what opens the new epoch, as if it had been committed: the node is admitted if its key is new, by a token
// that nobody ever held. It gives the index of the last of these entries.
func (r *Recovery) begin(node fsm.Node) (index uint64, err error) {
	var commands []fsm.Command
	if r.state.View().Node(node.ID) == nil {
		once := fsm.Access{ID: "recovery-" + node.ID, Kind: fsm.AccessJoin, Secret: []byte(rand.Text()), Uses: 1, By: node.ID, CreatedAt: r.Time}
		commands = append(commands, &fsm.Grant{Access: once}, &fsm.Admit{Node: node, Access: once.ID}, &fsm.Revoke{ID: once.ID})
	}
	index = r.Last
	for _, c := range append(commands, &fsm.NewEpoch{Node: node.ID}) {
		index++
		data, err := fsm.Encode(fsm.Entry{By: node.ID, At: r.Time, Command: c})
		if err != nil {
			return 0, err
		}
		result, err := r.state.Apply(index, data)
		if err == nil && result.Refused() {
			err = errors.New(result.Message)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", c.Kind(), err)
		}
	}
	return index, nil
}

// self is this node in the registry, or as it enters it.
func (r *Recovery) self() fsm.Node {
	if n := r.state.View().Node(r.o.Identity.ID()); n != nil {
		return *n
	}
	return fsm.Node{ID: r.o.Identity.ID(), Name: r.o.Name}
}

// writeLog makes an empty log whose term is beyond all that was seen: no vote of the past counts.
func (r *Recovery) writeLog(dir string) error {
	store, err := openStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return err
	}
	mark, err := openWatermark(dir, bootOf(), 0, func(error) {})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	sealed, err := newSealedStore(store, filepath.Join(dir, "raft.db"), mark, func(error) {})
	if err == nil {
		err = sealed.SetUint64([]byte("CurrentTerm"), r.term+1)
	}
	return errors.Join(err, store.Close(), mark.close())
}

func (r *Recovery) writeSnapshot(dir string, index uint64, node fsm.Node) error {
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, 3, newRaftLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	snaps := &sealedSnapshots{SnapshotStore: files, dir: filepath.Join(dir, snapshotDir)}
	where := node.Mesh
	if where == "" {
		where = "127.0.0.1:0" // it says where it is when it is up
	}
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(node.ID), Address: address(node.ID, where)}}}
	_, trans := raft.NewInmemTransport("") // only encodes addresses for versions before 3
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, max(r.Term, 1), alone, 1, trans)
	if err != nil {
		return err
	}
	return snapshot{r.state.View()}.Persist(sink)
}

// writeFile starts the new epoch. The gossip key is a new one: members of the old epoch hear nothing of this one.
func (r *Recovery) writeFile(kept string) error {
	key := make([]byte, gossipKeySize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("recover: make gossip key: %w", err)
	}
	f, err := openFile(r.o.Dir)
	if err != nil {
		if err := keep(r.o.Dir, kept, "cluster.json"); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
		f = &fileStore{path: filepath.Join(r.o.Dir, "cluster.json")}
	}
	return f.update(func(c *clusterFile) {
		*c = clusterFile{Phase: phaseMember, Node: r.o.Identity.ID(), ID: r.Cluster, Name: r.Name, Epoch: r.Epoch, GossipKeys: [][]byte{key}}
	})
}

// keep moves a file or directory of a data directory to where damaged files are kept. What is not there is no error.
func keep(dir, kept, name string) error {
	from := filepath.Join(dir, name)
	if there, err := exists(from); err != nil || !there {
		return err
	}
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return err
	}
	to := filepath.Join(kept, name)
	if there, err := exists(to); err == nil && there {
		to += time.Now().UTC().Format("-150405.000000000")
	}
	return errors.Join(os.Rename(from, to), syncDir(kept), syncDir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// peersOf lists the other members by cluster.json and by the facts.
func peersOf(f clusterFile, v fsm.View, self string) []PeerState {
	var all []PeerState
	for n := range v.Nodes() {
		all = append(all, PeerState{ID: n.ID, Name: n.Name, Addr: n.Mesh})
	}
	for _, p := range f.Peers {
		if !slices.ContainsFunc(all, func(o PeerState) bool { return o.ID == p.ID }) {
			all = append(all, PeerState{ID: p.ID, Name: p.ID, Addr: p.Mesh})
		}
	}
	return slices.DeleteFunc(all, func(p PeerState) bool { return p.ID == self || p.Addr == "" })
}

// catchEpoch takes over the epoch of the facts, should a recovery have ended just before it wrote cluster.json.
func (s *Seat) catchEpoch() error {
	_, _, epoch := s.replica.state.View().Cluster()
	if epoch <= s.file.get().Epoch {
		return nil
	}
	if err := s.file.update(func(f *clusterFile) { f.Epoch = epoch }); err != nil {
		return err
	}
	s.o.Roster.set(s.file.get())
	return nil
}
