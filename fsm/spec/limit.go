package spec

import "time"

// The limits of one submission. Each is named in the message that refuses what goes beyond it.
const (
	// MaxText is the greatest length of a config in bytes. Specs live in the replicated log, which is no place for data.
	MaxText = 1 << 20
	// MaxSweep is the greatest number of experiments one config may stand for.
	MaxSweep = 10_000
	// MaxNodes is the greatest number of YAML values in a config, aliases counted each time they are used. A 300-byte
	// text can stand for 10^9 values by aliases of aliases; work stops here, long before memory is gone.
	MaxNodes = 100_000
	// MaxDepth is the greatest nesting of maps and lists. What walks the tree recurses, so this bounds its stack.
	MaxDepth = 100
	// MaxGPUs is the greatest number of GPUs of one node that can be asked for; the largest machines made have 16.
	MaxGPUs = 128
	// MaxRetries is the greatest number of retries of a user's own failures.
	MaxRetries = 100
	// MaxName is the greatest length of a name or a project in bytes.
	MaxName = 200
	// MaxAfter is the greatest number of experiments that one may wait for.
	MaxAfter = 1000
	// MaxTimeLimit is the greatest time limit.
	MaxTimeLimit = 365 * 24 * time.Hour
)

const (
	maxCommand  = 128 << 10 // bytes of all arguments together; Linux takes no single argument above 128 KiB
	maxEnv      = 64 << 10  // bytes of all names and values together
	maxNotify   = 16
	maxLabel    = 253     // bytes, as a DNS name, which node names and labels often are
	maxMemory   = 1 << 50 // 1 PiB on one GPU is a typing error
	maxWarnings = 50      // further ones say nothing new and would swamp the preview
	maxProblems = 50
)
