// Package cluster is a machine's seat in the cluster: it founds one or joins one, keeps a replica of the facts, takes
// changes to them from any machine, says who leads, and carries health by gossip.
//
// It is the only package that knows hashicorp/raft, raft-boltdb and memberlist. Everything above it sees this:
//
//	seat, err := cluster.Open(ctx, cluster.Options{Dir: dir, Mesh: m, …, Found: &cluster.Founding{Name: "lab"}})
//	group.Go(func() error { return seat.Run(ctx) })
//	result, err := seat.Propose(ctx, fsm.Entry{By: "ana", Key: key, Command: &fsm.Submit{Spec: spec}})
//	group.Go(func() error { return seat.Lead(ctx, leader.Work) })   // once a term, after a barrier
//
// Facts travel by consensus over the mesh; only observations travel by gossip. Nothing that gossip says may start, stop
// or give away anything. DESIGN.md lists the goroutines and what each of them owns.
package cluster
