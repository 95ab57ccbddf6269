// Package spec turns what people submit into an [fsm.Spec], and back into what one experiment is handed.
//
// A submission is the text of a cvlab-kit config, or a bare command. [Parse] and [Command] check it, take the cvlab: block
// and the few other keys that matter here, and find the axes of its sweep, exactly as cvlab-kit expands a grid. Nothing is
// expanded into copies: a Spec keeps the text once, and [Render] makes the config of experiment number n out of it when a
// machine is about to start it. [Argv] does the same for a command with placeholders.
//
//	made, err := spec.Parse(text, spec.Options{Set: []string{"lr=[0.1, 0.01]"}})
//	if bad, ok := errors.AsType[*spec.Error](err); ok {
//		for _, p := range bad.Problems { … p.Line, p.Column, p.Message, p.Hint … }
//	}
//	text, err := spec.Render(&made.Spec, 1, spec.Handed{})
//
// Everything here is a pure function of its arguments: no clock, dice, files, goroutines or map order. Every function may be
// called from any goroutine. All are bounded in time and memory by the limits in this package, whatever text they are given.
package spec
