package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// missing says what this computer lacks for a kind of cluster, "" if nothing.
func (k kind) missing() string {
	if !k.net && k.disks == plainDisks {
		return ""
	}
	if mayMakeHosts() != nil {
		return "needs root and ip"
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return "needs nft"
	}
	if _, err := os.Stat("/dev/fuse"); k.disks == faultyDisks && err != nil {
		return "needs /dev/fuse"
	}
	return ""
}

// follow runs scenarios one after the other on one cluster. After one that failed the next gets a new cluster.
func (p faultsPart) follow(ctx context.Context, all []scenario, follow []int, verdicts []verdict, round uint64) {
	var f *faultLab
	for _, i := range follow {
		if ctx.Err() != nil {
			break
		}
		// Each scenario has dice of its own: the same ones whatever runs beside it.
		rnd := rand.New(rand.NewPCG(p.seed, round<<8+uint64(i)))
		f = p.once(ctx, f, all[i], &verdicts[i], rnd)
	}
	if err := f.end(); err != nil {
		v := &verdicts[follow[len(follow)-1]]
		v.fail(fmt.Errorf("end the cluster: %w", err))
	}
}

// scenarioLimit bounds one run of one scenario, beyond the time that all have.
const scenarioLimit = 8 * time.Minute

// once runs one scenario and gives the cluster for the next one, nil if that needs a new one.
func (p faultsPart) once(ctx context.Context, f *faultLab, s scenario, v *verdict, rnd *rand.Rand) *faultLab {
	limit := scenarioLimit
	if !p.end.IsZero() {
		limit += max(0, time.Until(p.end))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errors.New("the scenario takes too long"))
	defer cancel()
	began := time.Now()
	var got outcome
	var err error
	if f == nil {
		f, err = p.newLab(ctx, s.on)
	}
	if err == nil {
		got, err = p.inLab(ctx, f.lab, s, rnd)
	}
	v.Runs++
	v.Faults += got.faults
	v.Worst = max(v.Worst, ms(got.worst))
	if err != nil {
		if f != nil && ctx.Err() == nil {
			err = errors.Join(err, f.lastWords())
		}
		v.fail(errors.Join(err, f.end()))
		f = nil
	}
	p.b.r.line("%s %s: %d faults, %s %s ms; took %.0f s: %s", s.id, s.does, got.faults, s.figure, number(ms(got.worst)), time.Since(began).Seconds(), v.word())
	return f
}

// inLab does one scenario's faults and makes all checks.
func (p faultsPart) inLab(ctx context.Context, l *lab, s scenario, rnd *rand.Rand) (outcome, error) {
	bed := newBed(l, s.id, p.b.self, rnd, p.b.r.line)
	bed.end = p.end
	if !p.strict {
		bed.slack = 3
	}
	if err := bed.begin(ctx); err != nil {
		return outcome{}, err
	}
	got, err := s.run(ctx, bed, p.times)
	if err != nil {
		return got, err
	}
	return got, bed.check(ctx)
}

// faultLab is a cluster with what it stands on.
type faultLab struct {
	*lab
	h *hosts
}

// Leases of clusters of the short kind, as the hidden setting names them.
const (
	shortLease  = 6 * time.Second
	shortMargin = time.Second
	// leaseWait is how long a worker must be silent before its attempts may go on elsewhere.
	leaseWait = shortLease + shortLease*2/100 + shortMargin + 5*time.Second
)

func (p faultsPart) newLab(ctx context.Context, k kind) (f *faultLab, err error) {
	number := int(p.b.labs.Add(1))
	f = &faultLab{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start %d nodes: %w", k.nodes, err), f.h.remove())
			f = nil
		}
	}()
	if k.net {
		if f.h, err = newHosts(ctx, number, k.nodes); err != nil {
			return f, err
		}
	}
	o := labOptions{
		program: p.b.program, dir: filepath.Join(p.b.dir, "faults"+strconv.Itoa(number)), nodes: k.nodes, gpus: p.b.gpus,
		args: append([]string{"--cpu-slots", "4"}, p.b.nodeArgs...), hosts: f.h, http: sharedHTTP(), disks: newDisks(k.disks),
		env: []string{"CVLAB_TEST_ANY_FILESYSTEM=1"},
	}
	if k.short {
		o.env = append(o.env, fmt.Sprintf("CVLAB_TEST_LEASE=%s,%s", shortLease, shortMargin))
	}
	if k.forgetful {
		o.env = append(o.env, "CVLAB_TEST_FORGET="+shortForget.String())
	}
	if k.disks == smallDisks {
		o.env = append(o.env, "CVLAB_TEST_DISK=1MiB,4MiB")
	}
	if err := os.Mkdir(o.dir, 0o700); err != nil {
		return f, fmt.Errorf("make the directory of a cluster: %w", err)
	}
	f.lab, err = startLab(ctx, o)
	return f, err
}

// end ends the cluster and takes its network away; nil has none.
func (f *faultLab) end() error {
	if f == nil {
		return nil
	}
	defer f.o.http.CloseIdleConnections()
	return errors.Join(f.lab.end(), f.h.remove())
}

// sharedHTTP keeps few connections, and not for long: what the nodes hold open for this program must not look like a leak
// of theirs.
func sharedHTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext, ResponseHeaderTimeout: 15 * time.Second,
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 2 * time.Second,
	}}
}
