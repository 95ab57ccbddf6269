package supervisor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Version is the format of the records and of the control messages. A reader refuses what is newer.
const Version = 1

// BlockSize is the fixed size of exit.json and pid.json in bytes: one page, one block of every common filesystem.
const BlockSize = 4096

const (
	maxRecord  = 8 << 20 // argv and environment together cannot exceed the kernel's limit, which is far below
	maxMessage = 480     // bytes; six times this, the worst JSON escape, still fits a block
	sealSize   = len(`"00000000"`) + 1
)

var (
	// ErrBlank is returned when a pre-allocated block has never been written.
	ErrBlank = errors.New("not written yet")
	// ErrDamaged is returned when a record's checksum, form or content is wrong.
	ErrDamaged = errors.New("record is damaged")
)

// Record says what to run. It is written before the start and never changed.
type Record struct {
	Version    int       `json:"version"`
	Token      string    `json:"token"` // names the attempt; also the name of its directory
	Nonce      string    `json:"nonce"` // secret of this attempt: proves that a process is its supervisor
	Experiment uint64    `json:"experiment"`
	Attempt    int       `json:"attempt"` // counted from 1
	BootID     string    `json:"boot_id"` // the kernel's boot during which it may run
	Argv       []string  `json:"argv"`
	Env        []string  `json:"env"` // the whole environment, KEY=VALUE
	Dir        string    `json:"dir"` // absolute working directory, made by the caller
	Limits     Limits    `json:"limits"`
	CreatedAt  time.Time `json:"created_at"`
	// LeaseStart is when the lease begins to count: CLOCK_BOOTTIME, not later than when leave to start was asked for.
	LeaseStart time.Duration `json:"lease_start_ns,omitempty"`
	// ContactLoss says what happens when the lease has ended: ContactFreeze (also ""), ContactKill or ContactKeep.
	ContactLoss string `json:"on_contact_loss,omitempty"`
	// GPUs are the UUIDs of the cards it holds, so that facts that have forgotten it can be told again.
	GPUs []string `json:"gpus,omitempty"`
}

// Limits are the times a supervisor keeps, in nanoseconds on disk.
type Limits struct {
	Grace     time.Duration `json:"grace_ns"`      // between SIGTERM and SIGKILL; 0 kills at once
	TimeLimit time.Duration `json:"time_limit_ns"` // from the start of the job; 0 means none
	// Lease is how long it may execute without a word from the cluster; 0 means for ever.
	Lease  time.Duration `json:"lease_ns,omitempty"`
	Linger time.Duration `json:"linger_ns"` // what processes left behind by a finished job get between SIGTERM and SIGKILL
}

// Reasons an attempt ended.
const (
	ReasonExited       = "exited"          // the job's main process ended by itself
	ReasonStopped      = "stopped"         // it ended after somebody asked for it
	ReasonTimeLimit    = "time limit"      // it ended after its time was up
	ReasonStartFailed  = "start failed"    // it never ran a single instruction
	ReasonLeaseExpired = "lease expired"   // its lease ended, and it was to be killed then or could not be frozen
	ReasonRevoked      = "revoked"         // the cluster had given it up
	ReasonLost         = "supervisor lost" // its supervisor ended without a record; written by whoever found out
)

// Exit says how an attempt ended.
type Exit struct {
	Version    int           `json:"version"`
	Token      string        `json:"token"`
	Reason     string        `json:"reason"`
	Code       int           `json:"code"`   // the main process's exit code, 128+n for signal n; -1 if nobody can know
	Signal     int           `json:"signal"` // the signal that ended the main process, 0 if none
	Message    string        `json:"message"`
	StartedAt  time.Time     `json:"started_at"`
	EndedAt    time.Time     `json:"ended_at"` // when nothing of the job lived any more
	LogSize    int64         `json:"log_size"` // bytes of out.log at the end
	UserTime   time.Duration `json:"user_ns"`
	SystemTime time.Duration `json:"system_ns"`
	MaxRSS     int64         `json:"max_rss"` // bytes, of the largest process
	// OOMKills is how many of its processes the kernel killed because memory was full. It is known where the job's cgroup
	// counts memory.
	OOMKills int `json:"oom_kills,omitempty"`
	// HostOOMKills is how many processes of the whole machine were killed for that while the job ran. It is noted only if
	// nothing more exact is known, and the job died of a SIGKILL that nobody here asked for.
	HostOOMKills int `json:"host_oom_kills,omitempty"`
}

// Life says who stands over an attempt. Process numbers are hints: they count only together with the start time and
// the nonce, see Attach.
type Life struct {
	Version    int    `json:"version"`
	Token      string `json:"token"`
	Nonce      string `json:"nonce"`
	Experiment uint64 `json:"experiment"`
	Attempt    int    `json:"attempt"`
	BootID     string `json:"boot_id"`
	Supervisor Proc   `json:"supervisor"`
	Job        Proc   `json:"job"`    // zero until the job runs
	Cgroup     string `json:"cgroup"` // absolute path of the job's own group, "" if it has none
}

// Proc names a process for one boot: its number and its start time in clock ticks since boot.
type Proc struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// ValidToken says whether a token may name a directory.
func ValidToken(token string) bool { return tokenForm().MatchString(token) }

func tokenForm() *regexp.Regexp { return regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]{0,63}$`) }

// Validate says what is wrong with a record, or nil.
func (r Record) Validate() error {
	switch {
	case r.Version != Version:
		return fmt.Errorf("version %d, this program speaks %d", r.Version, Version)
	case !ValidToken(r.Token):
		return fmt.Errorf("token %q is not a name of letters, digits, '.', '_', '-'", r.Token)
	case len(r.Nonce) < 16 || len(r.Nonce) > 128:
		return errors.New("nonce must have 16 to 128 characters")
	case r.Attempt < 1:
		return fmt.Errorf("attempt %d, they count from 1", r.Attempt)
	case len(r.Argv) == 0 || r.Argv[0] == "":
		return errors.New("no command to run")
	case !strings.HasPrefix(r.Dir, "/"):
		return fmt.Errorf("working directory %q is not absolute", r.Dir)
	case r.Limits.Grace < 0 || r.Limits.TimeLimit < 0 || r.Limits.Linger < 0:
		return errors.New("a time limit is negative")
	case r.Limits.Lease < 0 || r.LeaseStart < 0:
		return errors.New("a lease is negative")
	case !slices.Contains([]string{"", ContactFreeze, ContactKill, ContactKeep}, r.ContactLoss):
		return fmt.Errorf("%q is nothing to do on loss of contact", r.ContactLoss)
	}
	return r.checkStrings()
}

func (r Record) checkStrings() error {
	for _, s := range append(append([]string{r.Dir, r.Nonce}, r.Argv...), r.Env...) {
		if strings.ContainsRune(s, 0) {
			return errors.New("a command, path or variable has a zero byte in it")
		}
	}
	for _, e := range r.Env {
		if strings.IndexByte(e, '=') < 1 {
			return fmt.Errorf("environment entry %q is not KEY=VALUE", e)
		}
	}
	return nil
}

// EncodeRecord gives the bytes of attempt.json.
func EncodeRecord(r Record) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("encode attempt record: %w", err)
	}
	return seal(r, 0)
}

// DecodeRecord reads the bytes of attempt.json. Errors wrap ErrDamaged.
func DecodeRecord(data []byte) (Record, error) {
	var r Record
	if err := unseal(data, &r); err != nil {
		return Record{}, fmt.Errorf("decode attempt record: %w", err)
	}
	if err := r.Validate(); err != nil {
		return Record{}, fmt.Errorf("decode attempt record: %w: %w", ErrDamaged, err)
	}
	return r, nil
}

// EncodeExit gives the block of exit.json. A long message is cut.
func EncodeExit(e Exit) ([]byte, error) {
	e.Version = Version
	e.Message = clip(e.Message)
	data, err := seal(e, BlockSize)
	if err != nil {
		return nil, fmt.Errorf("encode exit record: %w", err)
	}
	return data, nil
}

// DecodeExit reads the block of exit.json: ErrBlank before the end, ErrDamaged if it cannot be believed.
func DecodeExit(data []byte) (Exit, error) {
	var e Exit
	if err := unsealBlock(data, &e); err != nil {
		return Exit{}, fmt.Errorf("decode exit record: %w", err)
	}
	if e.Version != Version || !ValidToken(e.Token) || e.Reason == "" {
		return Exit{}, fmt.Errorf("decode exit record: %w: version, token or reason", ErrDamaged)
	}
	return e, nil
}

// EncodeLife gives the block of pid.json.
func EncodeLife(l Life) ([]byte, error) {
	l.Version = Version
	data, err := seal(l, BlockSize)
	if err != nil {
		return nil, fmt.Errorf("encode process record: %w", err)
	}
	return data, nil
}

// DecodeLife reads the block of pid.json: ErrBlank before the launch, ErrDamaged if it cannot be believed.
func DecodeLife(data []byte) (Life, error) {
	var l Life
	if err := unsealBlock(data, &l); err != nil {
		return Life{}, fmt.Errorf("decode process record: %w", err)
	}
	if l.Version != Version || !ValidToken(l.Token) || l.Supervisor.PID < 1 || l.Job.PID < 0 {
		return Life{}, fmt.Errorf("decode process record: %w: version, token or process", ErrDamaged)
	}
	return l, nil
}

func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + " ..."
	}
	return s
}

// seal writes v as one JSON value, padded with blanks to size if size is not 0, and the checksum of all that as a second
// JSON value, so that people can read the file and programs can believe it.
func seal(v any, size int) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	if size > 0 {
		pad := size - sealSize - len(body)
		if pad < 0 {
			return nil, fmt.Errorf("%d bytes do not fit a block of %d", len(body), size)
		}
		body = append(body, bytes.Repeat([]byte{' '}, pad)...)
	}
	return append(body, sealOf(body)...), nil
}

func sealOf(body []byte) string {
	return fmt.Sprintf("\"%08x\"\n", crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

func unseal(data []byte, v any) error {
	cut := len(data) - sealSize
	if cut < 0 {
		return fmt.Errorf("%w: too short", ErrDamaged)
	}
	if string(data[cut:]) != sealOf(data[:cut]) {
		return fmt.Errorf("%w: checksum", ErrDamaged)
	}
	return decodeStrict(data[:cut], v)
}

func unsealBlock(data []byte, v any) error {
	if len(data) != BlockSize {
		return fmt.Errorf("%w: %d bytes, not %d", ErrDamaged, len(data), BlockSize)
	}
	if bytes.Equal(data, blankBlock()) {
		return ErrBlank
	}
	return unseal(data, v)
}

// blankBlock is what a block holds before it is written. Real bytes, not a hole: the place must be paid for in advance.
func blankBlock() []byte {
	return append(bytes.Repeat([]byte{' '}, BlockSize-1), '\n')
}

// decodeStrict reads exactly one JSON value without unknown fields.
func decodeStrict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one value", ErrDamaged)
	}
	return nil
}
