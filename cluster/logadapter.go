package cluster

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLog lets raft speak through slog. Raft reports ordinary life at INFO (each election, each peer), so its INFO
// becomes DEBUG here and only warnings keep their rank.
type raftLog struct {
	slog *slog.Logger
	name string
	args []any
}

func newRaftLog(l *slog.Logger) hclog.Logger { return &raftLog{slog: l, name: "raft"} }

// repeated are the beginnings of what raft says about a peer that is switched off, at ERROR, several times a second for as
// long as it is off. Members and its own report say it once.
func repeated(msg string) bool {
	for _, begin := range []string{
		"failed to heartbeat to", "failed to appendEntries to", "failed to make request", "failed to contact",
		"failed to decode incoming command", "appendEntries rejected, sending older logs", "failed to get previous log",
	} {
		if strings.HasPrefix(msg, begin) {
			return true
		}
	}
	return false
}

func (l *raftLog) level(level hclog.Level, msg string) slog.Level {
	if repeated(msg) {
		return slog.LevelDebug
	}
	switch level {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

func (l *raftLog) Log(level hclog.Level, msg string, args ...any) {
	rank := l.level(level, msg)
	if level == hclog.Off || !l.slog.Enabled(context.Background(), rank) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	l.slog.Log(context.Background(), rank, l.name+": "+msg, args...)
}

func (l *raftLog) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLog) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLog) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLog) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLog) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLog) IsTrace() bool { return false }
func (l *raftLog) IsDebug() bool { return l.enabled(slog.LevelDebug) }
func (l *raftLog) IsInfo() bool  { return l.enabled(slog.LevelDebug) }
func (l *raftLog) IsWarn() bool  { return l.enabled(slog.LevelWarn) }
func (l *raftLog) IsError() bool { return l.enabled(slog.LevelError) }

func (l *raftLog) enabled(level slog.Level) bool {
	return l.slog.Enabled(context.Background(), level)
}

func (l *raftLog) ImpliedArgs() []any { return l.args }

func (l *raftLog) With(args ...any) hclog.Logger {
	all := append(append([]any{}, l.args...), args...)
	return &raftLog{slog: l.slog.With(args...), name: l.name, args: all}
}

func (l *raftLog) Name() string { return l.name }

func (l *raftLog) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

func (l *raftLog) ResetNamed(name string) hclog.Logger {
	return &raftLog{slog: l.slog, name: name, args: l.args}
}

// SetLevel does nothing: the slog handler decides.
func (l *raftLog) SetLevel(hclog.Level)  {}
func (l *raftLog) GetLevel() hclog.Level { return hclog.Debug }
func (l *raftLog) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.slog.Handler(), slog.LevelDebug)
}
func (l *raftLog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{l.slog} }

// lineWriter ranks a line by the tag that memberlist puts in front of it: "[WARN] memberlist: …".
type lineWriter struct{ slog *slog.Logger }

func newGossipLog(l *slog.Logger) *log.Logger { return log.New(lineWriter{l}, "", 0) }

func (w lineWriter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug
	for tag, rank := range map[string]slog.Level{
		"[ERR] ": slog.LevelWarn, "[ERROR] ": slog.LevelWarn, "[WARN] ": slog.LevelInfo, "[INFO] ": slog.LevelDebug, "[DEBUG] ": slog.LevelDebug,
	} {
		if rest, ok := strings.CutPrefix(text, tag); ok {
			text, level = rest, rank
			break
		}
	}
	w.slog.Log(context.Background(), level, text)
	return len(line), nil
}
