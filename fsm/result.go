package fsm

// Code says how a command ended.
type Code string

// The codes. Everything but OK means that the command was applied and changed nothing.
const (
	OK        Code = "ok"
	NotFound  Code = "not found"
	Conflict  Code = "conflict"  // the state does not allow it (any more)
	Invalid   Code = "invalid"   // the command makes no sense in any state
	Forbidden Code = "forbidden" // not this one's to do
)

// Result is the answer of the state machine to one command; it is the same on every replica.
type Result struct {
	Code Code `json:"code"`
	// Message says in one sentence why the code is not OK, or what happened to some of many.
	Message string `json:"message,omitempty"`
	// Index is the log index of the entry that gave the answer. A repeated key answers with the first entry's index.
	Index uint64 `json:"index"`
	// Experiments are the numbers that a Submit made, or that a command on many changed.
	Experiments []uint64 `json:"experiments,omitempty"`
	// Token is the attempt that an Assign made.
	Token Token `json:"token,omitzero"`
	// Node is the name a node was admitted or updated under.
	Node string `json:"node,omitempty"`
}

// Refused says whether the command changed nothing.
func (r Result) Refused() bool { return r.Code != OK }

func ok() Result                          { return Result{Code: OK} }
func refuse(code Code, why string) Result { return Result{Code: code, Message: why} }
