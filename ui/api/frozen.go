package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// frozen gives the attempts that stand still, by token. One look at the machines a second serves all who ask.
func (s *Server) frozen(ctx context.Context) map[fsm.Token]Frozen {
	out := map[fsm.Token]Frozen{}
	for _, d := range s.devices.get(ctx, s) {
		for _, f := range d.Frozen {
			out[f.Token] = f
		}
	}
	return out
}

// still fills in which of the running ones stand still, and why.
func (s *Server) still(ctx context.Context, view fsm.View, shown []Experiment) {
	if !slices.ContainsFunc(shown, func(x Experiment) bool { return x.Status == fsm.Running }) {
		return
	}
	frozen := s.frozen(ctx)
	for i := range shown {
		x := &shown[i]
		e := view.Experiment(x.ID)
		if x.Status != fsm.Running || e == nil {
			continue
		}
		if f, is := frozen[e.Token]; is {
			x.FrozenSince, x.Reason = &f.Since, f.sentence(time.Local)
		}
	}
}

// sentence says since when and why, in words; it goes on by itself.
func (f Frozen) sentence(zone *time.Location) string {
	format := "15:04"
	if time.Since(f.Since) > 20*time.Hour {
		format = "2006-01-02 15:04"
	}
	at, lease := f.Since.In(zone).Format(format), words(time.Duration(f.Lease*float64(time.Second)))
	if f.Presumed {
		return fmt.Sprintf("its node is silent; if it still runs there, it is frozen since %s, after %s without a word from the cluster", at, lease)
	}
	return fmt.Sprintf("frozen since %s: no word from the cluster for %s; it goes on when word comes", at, lease)
}

// words writes a duration without the parts that are zero: 5m, 1h30m.
func words(d time.Duration) string {
	d = d.Round(time.Second)
	out := ""
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / u.of; n > 0 {
			out += fmt.Sprintf("%d%s", n, u.name)
			d -= n * u.of
		}
	}
	if out == "" {
		return "0s"
	}
	return out
}
