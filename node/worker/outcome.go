package worker

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

// outcome is how an attempt ended, as it is reported.
type outcome struct {
	class   fsm.Class
	code    *int
	message string
}

// gpuOOM matches what PyTorch, JAX and CUDA print when a card's memory is full.
var gpuOOM = regexp.MustCompile(`(?i)cuda out of memory|CUDA error: out of memory|OutOfMemoryError: CUDA|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED: Out of memory`)

// classify turns an exit and the end of the output into an outcome. cancelled says that a cancel was passed on before.
func classify(x executor.Exit, tail []byte, cancelled bool) outcome {
	o := outcome{code: &x.Code}
	switch x.Reason {
	case supervisor.ReasonStopped:
		// Without a cancel it was the machine that stopped it, by going down in order.
		o.class, o.message = fsm.ClassPreempted, x.Message
		if cancelled {
			o.class = fsm.ClassCancelled
		}
	case supervisor.ReasonLeaseExpired:
		// The same class as the leader's, who may have closed it already.
		o.class, o.message = fsm.ClassNodeLost, x.Message
	case supervisor.ReasonRevoked:
		o.class, o.message = fsm.ClassPreempted, x.Message
	case supervisor.ReasonTimeLimit:
		o.class, o.message = fsm.ClassTimeLimit, x.Message
	case supervisor.ReasonStartFailed:
		o.class, o.message = fsm.ClassStartFailed, x.Message
	case supervisor.ReasonLost:
		o.class, o.message, o.code = fsm.ClassSupervisorLost, x.Message, nil
	default:
		o.classifyExit(x, tail, cancelled)
	}
	return o
}

func (o *outcome) classifyExit(x executor.Exit, tail []byte, cancelled bool) {
	last := lastLine(tail)
	switch {
	case x.Code == 0 && x.Signal == 0:
		o.class = fsm.ClassCompleted
	case cancelled:
		o.class, o.message = fsm.ClassCancelled, "stopped on request"
	case x.OOMKills > 0:
		o.class, o.message = fsm.ClassHostOOM, "the machine's memory was full and the kernel killed it"+used(x.MaxRSS)
	case x.HostOOMKills > 0:
		o.class, o.message = fsm.ClassHostOOM, "probably killed by the kernel because the machine's memory was full"+used(x.MaxRSS)
	case gpuOOM.Match(tail):
		o.class, o.message = fsm.ClassGPUOOM, "the GPU's memory was full: "+last
	default:
		// Whoever shows it says the exit code; what helps is what the program said last.
		o.class, o.message = fsm.ClassUserError, last
	}
}

// used says how much memory the largest process of an attempt had, if that is known.
func used(bytes int64) string {
	if bytes <= 0 {
		return ""
	}
	return fmt.Sprintf("; its largest process used %.1f GiB", float64(bytes)/(1<<30))
}

// maxLastLine keeps a sentence a sentence; it is stored in the replicated facts.
const maxLastLine = 300

// lastLine gives the last line with text in it, as a terminal would show it: what a carriage return overwrote is gone.
func lastLine(tail []byte) string {
	for line := range bytes.SplitSeq(reverseLines(tail), []byte("\n")) {
		if i := bytes.LastIndexByte(bytes.TrimRight(line, "\r"), '\r'); i >= 0 {
			line = line[i+1:]
		}
		text := strings.ToValidUTF8(strings.TrimSpace(stripControl(string(line))), "\uFFFD")
		if text == "" {
			continue
		}
		if utf8.RuneCountInString(text) > maxLastLine {
			text = string([]rune(text)[:maxLastLine]) + "…"
		}
		return text
	}
	return ""
}

func reverseLines(b []byte) []byte {
	lines := bytes.Split(b, []byte("\n"))
	for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
		lines[i], lines[j] = lines[j], lines[i]
	}
	return bytes.Join(lines, []byte("\n"))
}

var escape = regexp.MustCompile(`\x1b\[[0-9;:?<=>]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)`)

// stripControl takes terminal colours, titles and other control characters out.
func stripControl(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\r' || r == 0x7f {
			return -1
		}
		return r
	}, escape.ReplaceAllString(s, ""))
}
