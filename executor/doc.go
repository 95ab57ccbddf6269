// Package executor starts, finds again, stops and reports the processes of this machine.
//
// A Runner is the daemon's hand on its attempts. It never is the parent of a job: each attempt has a supervisor process of
// its own (package supervisor), which outlives the daemon. Everything a Runner knows can be read again from the attempts'
// directories, so a new Runner after a crash, an upgrade or a reboot knows as much as the old one did.
//
//	r, err := executor.Open(executor.Options{AttemptsDir: "/var/lib/cvlab/attempts", Logger: log})
//	found, err := r.Recover(ctx)   // first of all: what ran, what ended meanwhile, what was lost
//	g.Go(func() error { return r.Run(ctx) })
//
//	err = r.Prepare(ctx, job)      // durable: this may start
//	…                              // let the rest of the world agree
//	err = r.Launch(ctx, job.Token) // it runs, or "start failed" is written down
//	exit, err := r.Wait(ctx, job.Token)
//	…                              // tell the rest of the world
//	err = r.Forget(ctx, job.Token) // it can never start again; its output stays
//
// Ending the context of any of these calls ends no job; only Stop and Kill do.
package executor
