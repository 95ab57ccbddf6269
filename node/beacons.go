package node

import (
	"context"
	"log/slog"
	"reflect"
	"time"

	"github.com/deveronica/cvlab/cluster"
	"github.com/deveronica/cvlab/fsm"
	"github.com/deveronica/cvlab/fsm/sched"
	"github.com/deveronica/cvlab/node/gpu"
	"github.com/deveronica/cvlab/ui/metrics"
)

// beaconer tells the others how this machine feels: the leader once a second and at once when something changed, all
// others by gossip when something changed.
type beaconer struct {
	seat    teller
	monitor measurer
	disk    disk
	held    func(uuid string) bool
	far     func() map[uint64]metrics.Progress // how far what runs here is
	bearing func() bearing
	logger  *slog.Logger
}

type teller interface {
	SendBeacon(payload []byte)
	Publish(payload []byte)
	LeaderChanged() <-chan struct{}
}

// disk is what the seat knows of its own.
type disk interface {
	Disk() cluster.DiskState
	DiskChanged() <-chan struct{}
	SyncTime() time.Duration
}

type measurer interface {
	Reading() gpu.Reading
	Changed() <-chan struct{}
}

// Run sends until ctx ends.
func (b *beaconer) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	publish := true
	var said bearing
	for n := 0; ; n++ {
		changed, leader, room := b.monitor.Changed(), b.seat.LeaderChanged(), b.disk.DiskChanged()
		word := newBeacon(b.monitor.Reading(), b.held).withDisk(b.disk)
		word.tell(b.far())
		word.bearing = b.bearing()
		// Who cannot reach the leader freezes, so all are told: somebody may yet hear it.
		publish = publish || !reflect.DeepEqual(said, word.bearing)
		said = word.bearing
		payload, err := word.encode()
		if err != nil {
			b.logger.ErrorContext(ctx, "no beacon was sent", "error", err)
		} else {
			b.seat.SendBeacon(payload)
			// Every now and then also to all, so that a page served while there is no leader shows figures of this minute.
			if publish || n%publishEvery == 0 {
				b.seat.Publish(payload)
			}
		}
		publish = false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			publish = true
		case <-room: // who cannot reach a leader should know, too, whose disk is full
			publish = true
		case <-leader: // a new leader has heard nobody yet
		case <-tick.C:
		}
	}
}

// publishEvery is in beacons: each costs one gossip broadcast, which a hundred machines can afford every 10 s.
const publishEvery = 10

// word is what this node says of itself at this moment.
func (n *Node) word() []byte {
	payload, err := newBeacon(n.monitor.Reading(), n.holds).withDisk(n.seat).encode()
	if err != nil {
		n.o.Logger.Error("this node has nothing to say of itself", "error", err)
	}
	return payload
}

// leaderHealth is the leader's view of the machines' health.
type leaderHealth struct {
	machines *machines
	seat     *cluster.Seat
}

// Health implements leader.Health.
func (h *leaderHealth) Health() map[string]sched.Health { return h.machines.Health() }

// HealthChanged implements leader.Health.
func (h *leaderHealth) HealthChanged() <-chan struct{} { return h.seat.HealthChanged() }

// openHere walks the open attempts of this machine, as far as it is known here.
func (n *Node) openHere(visit func(*fsm.Attempt)) {
	n.seatMu.Lock()
	seat := n.seat
	n.seatMu.Unlock()
	if seat == nil {
		return
	}
	for a := range seat.State().View().Open(seat.ID()) {
		visit(a)
	}
}

// heldGPUs gives the UUIDs of the cards that experiments of this machine hold.
func (n *Node) heldGPUs() []string {
	var held []string
	n.openHere(func(a *fsm.Attempt) { held = append(held, a.GPUs...) })
	return held
}

// holds says whether an experiment of this machine holds the card.
func (n *Node) holds(uuid string) bool {
	held := false
	n.openHere(func(a *fsm.Attempt) {
		for _, g := range a.GPUs {
			held = held || g == uuid
		}
	})
	return held
}
