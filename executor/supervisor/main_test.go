package supervisor

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const waitLimit = 10 * time.Second

func logger(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

func sampleRecord() Record {
	return Record{
		Version: Version, Token: "1-42", Nonce: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", Experiment: 7, Attempt: 2, BootID: "b00t",
		Argv: []string{"python", "train.py", "--note", `"quoted" & <strange> ü`}, Env: []string{"A=1", "B=x=y"}, Dir: "/runs/7/2",
		Limits:    Limits{Grace: 30 * time.Second, TimeLimit: time.Hour, Linger: 5 * time.Second},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func sampleExit() Exit {
	return Exit{
		Version: Version, Token: "1-42", Reason: ReasonStopped, Code: 137, Signal: 9, Message: "somebody asked",
		StartedAt: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), EndedAt: time.Date(2026, 1, 2, 4, 4, 6, 0, time.UTC),
		LogSize: 123456789, UserTime: time.Minute, SystemTime: time.Second, MaxRSS: 1 << 33,
	}
}

func sampleLife() Life {
	return Life{
		Version: Version, Token: "1-42", Nonce: "ABCDEFGHIJKLMNOPQRSTUVWXYZ", Experiment: 7, Attempt: 2, BootID: "b00t",
		Supervisor: Proc{PID: 100, Start: 5000}, Job: Proc{PID: 101, Start: 5001}, Cgroup: "/sys/fs/cgroup/cvlab-1-42-abc",
	}
}
