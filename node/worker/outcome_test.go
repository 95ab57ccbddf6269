package worker

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/deveronica/cvlab/executor"
	"github.com/deveronica/cvlab/executor/supervisor"
	"github.com/deveronica/cvlab/fsm"
)

func TestClassify(t *testing.T) {
	killed := executor.Exit{Reason: supervisor.ReasonExited, Code: 137, Signal: 9}
	stopped := executor.Exit{Reason: supervisor.ReasonStopped, Code: 143, Signal: 15, Message: "asked to"}
	for _, c := range []struct {
		name      string
		exit      executor.Exit
		tail      string
		cancelled bool
		class     fsm.Class
		message   string
		noCode    bool
	}{
		{name: "well", exit: exited(0), tail: "done\n", class: fsm.ClassCompleted},
		{name: "well, though cancelled", exit: exited(0), cancelled: true, class: fsm.ClassCompleted},
		{name: "well, though its output speaks of memory", exit: exited(0), tail: "CUDA out of memory, smaller batch\n", class: fsm.ClassCompleted},
		{name: "exit code", exit: exited(1), tail: "ValueError: bad lr\n", class: fsm.ClassUserError, message: "ValueError: bad lr"},
		{name: "exit code without a word", exit: exited(2), class: fsm.ClassUserError},
		{name: "signal", exit: killed, tail: "epoch 3\n", class: fsm.ClassUserError, message: "epoch 3"},
		{name: "exit code after a cancel", exit: exited(1), tail: "KeyboardInterrupt\n", cancelled: true, class: fsm.ClassCancelled, message: "stopped on request"},
		{name: "stopped after a cancel", exit: stopped, cancelled: true, class: fsm.ClassCancelled, message: "asked to"},
		{name: "stopped without one", exit: stopped, class: fsm.ClassPreempted, message: "asked to"},
		{name: "time limit", exit: executor.Exit{Reason: supervisor.ReasonTimeLimit, Code: 143, Message: "1 h is over"}, class: fsm.ClassTimeLimit, message: "1 h is over"},
		{name: "lease expired", exit: executor.Exit{Reason: supervisor.ReasonLeaseExpired, Code: 137, Message: "no word"}, class: fsm.ClassNodeLost, message: "no word"},
		{name: "revoked", exit: executor.Exit{Reason: supervisor.ReasonRevoked, Code: 137, Message: "given up"}, class: fsm.ClassPreempted, message: "given up"},
		{name: "start failed", exit: executor.Exit{Reason: supervisor.ReasonStartFailed, Code: 127, Message: "no python3"}, class: fsm.ClassStartFailed, message: "no python3"},
		{name: "supervisor lost", exit: executor.Exit{Reason: supervisor.ReasonLost, Code: -1, Message: "gone"}, class: fsm.ClassSupervisorLost, message: "gone", noCode: true},
		{name: "killed for memory", exit: executor.Exit{Reason: supervisor.ReasonExited, Code: 137, Signal: 9, OOMKills: 1, MaxRSS: 12.5 * (1 << 30)}, tail: "epoch 3\n", class: fsm.ClassHostOOM, message: "kernel killed it; its largest process used 12.5 GiB"},
		{name: "a part of it killed for memory", exit: executor.Exit{Reason: supervisor.ReasonExited, Code: 1, OOMKills: 2}, tail: "RuntimeError: DataLoader worker is killed. CUDA out of memory\n", class: fsm.ClassHostOOM, message: "the kernel killed it"},
		{name: "a part of it killed for memory, and it went on", exit: executor.Exit{Reason: supervisor.ReasonExited, OOMKills: 1}, class: fsm.ClassCompleted},
		{name: "probably killed for memory", exit: executor.Exit{Reason: supervisor.ReasonExited, Code: 137, Signal: 9, HostOOMKills: 3, MaxRSS: 1 << 29}, class: fsm.ClassHostOOM, message: "probably killed by the kernel because the machine's memory was full; its largest process used 0.5 GiB"},
		{name: "stopped, and killed for memory meanwhile", exit: executor.Exit{Reason: supervisor.ReasonStopped, Code: 137, OOMKills: 1, Message: "drained"}, class: fsm.ClassPreempted, message: "drained"},
		{name: "PyTorch", exit: exited(1), tail: "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20 MiB.\n", class: fsm.ClassGPUOOM, message: "memory was full: torch.Out"},
		{name: "PyTorch of old", exit: exited(1), tail: "RuntimeError: CUDA error: out of memory\n", class: fsm.ClassGPUOOM, message: "memory was full"},
		{name: "cuBLAS", exit: exited(1), tail: "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate\n", class: fsm.ClassGPUOOM, message: "CUBLAS"},
		{name: "JAX", exit: exited(1), tail: "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes\n", class: fsm.ClassGPUOOM, message: "RESOURCE"},
		{name: "driver", exit: exited(1), tail: "failed: CUDA_ERROR_OUT_OF_MEMORY\nand then\n", class: fsm.ClassGPUOOM, message: "and then"},
		{name: "another kind of memory", exit: exited(1), tail: "MemoryError: out of memory\n", class: fsm.ClassUserError, message: "MemoryError"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := classify(c.exit, []byte(c.tail), c.cancelled)
			if got.class != c.class || !strings.Contains(got.message, c.message) || c.message == "" && got.message != "" {
				t.Errorf("got %q, %q; want %q, %q", got.class, got.message, c.class, c.message)
			}
			if (got.code == nil) != c.noCode || got.code != nil && *got.code != c.exit.Code {
				t.Errorf("exit code %v", got.code)
			}
			if !got.class.Valid() {
				t.Errorf("the facts do not know the class %q", got.class)
			}
		})
	}
}

func TestLastLine(t *testing.T) {
	for _, c := range []struct{ name, tail, want string }{
		{"nothing", "", ""},
		{"blank", " \n\t\n\r\n", ""},
		{"one", "boom", "boom"},
		{"the last with text", "first\nboom\n\n  \n", "boom"},
		{"Windows", "boom\r\n", "boom"},
		{"a progress bar", "start\n 10%|#   |\r 50%|##  |\r100%|####|", "100%|####|"},
		{"a progress bar, ended", "start\n 10%|#   |\r100%|####|\r\n", "100%|####|"},
		{"a progress bar, then the error", " 10%|#   |\r 50%|##  |ValueError: x\n", "50%|##  |ValueError: x"},
		{"colours", "\x1b[1;31mboom\x1b[0m\n", "boom"},
		{"colours behind a bar", "\x1b[32m 10%\x1b[0m\r\x1b[2K\x1b[31mboom\x1b[0m\r\n", "boom"},
		{"a terminal's title", "\x1b]0;training\x07boom\n", "boom"},
		{"bells and zeros", "\x00bo\x07om\x7f\n", "boom"},
		{"not UTF-8", "bo\xff\xfeom\n", "bo\uFFFD\uFFFDom"},
		{"cut in a letter", "\xa4\xb5 boom\n", "\uFFFD\uFFFD boom"},
		{"other scripts", "오류: 파일 없음\n", "오류: 파일 없음"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := lastLine([]byte(c.tail)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	t.Run("1 MiB", func(t *testing.T) {
		got := lastLine(bytes.Repeat([]byte("é"), 1<<19))
		if n := utf8.RuneCountInString(got); n != maxLastLine+1 || !strings.HasSuffix(got, "…") {
			t.Errorf("got %d letters", n)
		}
	})
}

// FuzzLastLine: whatever a program prints, the sentence is one line of clean text and not long.
func FuzzLastLine(f *testing.F) {
	f.Add([]byte("start\n 10%\r\x1b[31mboom\xff\r\n\n"))
	f.Fuzz(func(t *testing.T, tail []byte) {
		got := lastLine(tail)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > maxLastLine+1 || got != strings.TrimSpace(got) {
			t.Errorf("%q", got)
		}
		for _, r := range got {
			if r < ' ' && r != '\t' || r == 0x7f {
				t.Errorf("%q has the control character %q", got, r)
			}
		}
	})
}
