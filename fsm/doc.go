// Package fsm holds the facts that every machine of a cluster agrees on, and the commands that change them.
//
// A fact changes in one way only: a command is committed by consensus and applied, in log order, on every machine.
// Applying is a pure function of the state and the entry: no clock, no randomness, no I/O, no goroutine, no dependence
// on the order of a map. Times and identifiers are put into the command by whoever proposes it.
//
//	state := fsm.New()
//	entry, err := fsm.Encode(fsm.Entry{By: "ana", At: now, Command: &fsm.Submit{Spec: spec}})
//	result, err := state.Apply(index, entry)   // the same on every replica
//	view := state.View()                       // an immutable snapshot, never blocks a writer
//
// Records handed out by a View are shared by all readers and must never be changed; commands copy before they write.
package fsm
