// Package gpu says which GPUs this machine has and how they feel, once a second, and how busy the machine itself is.
//
// A [Monitor] asks one [Source]: NVML where the program was built with cgo and the driver's library is there, the
// nvidia-smi program else, pretended GPUs for tests and demonstrations, or nothing on a machine without a GPU. What it
// learned last is a [Reading], which costs nothing to fetch and is always there, also while a driver hangs:
//
//	m, err := gpu.Open(ctx, gpu.Options{DataDir: dir, NodeID: id, Logger: logger})
//	first := m.Measure(ctx)       // the inventory to announce
//	g.Go(func() error { return m.Run(ctx) })
//	changed := m.Changed()        // before Reading, so that no change is missed
//	r := m.Reading()
//	<-changed                     // a card came, went, or changed its state
//	m.Close()                     // after Run has returned
//
// A driver may hang in the kernel, where nothing can interrupt it. Therefore at most one call into a source is under way,
// it runs apart from whoever wants the answer, and after a deadline the GPUs are called suspect and keep their last
// values. No second call follows until the first has returned.
//
// The package is a leaf: it knows no cluster and no jobs. Which GPUs are held by jobs is told by a function, and only
// pretended GPUs care.
package gpu
