//go:build race

package leader

// slowdown is how much less is simulated under the race detector, which is not what the simulation is for: it has no
// shared memory, and takes ten times as long there.
const slowdown = 10
