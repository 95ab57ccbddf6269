// Package supervisor is the process that stands over one attempt of a job, and the records it leaves on disk.
//
// The daemon may be restarted, upgraded or killed at any moment; a job must not notice. So a job is never a child of the
// daemon: for each attempt the daemon starts a small second process of the same binary ("cvlab supervise DIR"), which
// starts the job, waits for it, stops it when asked, and writes down how it ended. Everything the two need to tell each
// other across the death of either lies in one directory:
//
//	attempt.json    what to run; written and synced before anything starts, never changed
//	pid.json        who stands over it; pre-allocated, filled in place before the job's first instruction
//	exit.json       how it ended; pre-allocated, so that a full disk cannot eat an exit code
//	out.log         the job's stdout and stderr: the file itself, no pipe and nobody who copies
//	ctl.sock        a unix socket for stop, signal, status: one line of JSON each way
//	supervisor.log  what the supervisor had to say, and its stack if it ever crashes
//	tombstone       this attempt is settled and can never be launched again
//
// Life is told by a lock, not by a process number: the daemon locks the directory (flock) and hands the locked
// descriptor to the supervisor it starts, which holds it until it ends. Whoever comes later asks the kernel "is it still
// locked?" and gets an answer that no reused PID can spoil.
//
// The package imports nothing of the cluster. A supervisor lives as long as its job, possibly for weeks, next to newer
// daemons, so its formats carry a version and its code stays small.
package supervisor
