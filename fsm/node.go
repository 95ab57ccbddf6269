package fsm

import "time"

// GPU is one card of a node's inventory. How it feels this second travels by gossip and is no fact.
type GPU struct {
	UUID   string `json:"uuid"`
	Index  int    `json:"index"`
	Name   string `json:"name"`
	Memory uint64 `json:"memory"` // bytes
}

// Node is one machine of the cluster, as it described itself last.
type Node struct {
	ID   string `json:"id"`
	Name string `json:"name"` // a label, unique among the nodes that are not removed
	// Mesh, Gossip and HTTP are host:port of its three ports.
	Mesh     string            `json:"mesh"`
	Gossip   string            `json:"gossip"`
	HTTP     string            `json:"http"`
	NoExec   bool              `json:"no_exec,omitempty"` // runs no experiments
	NoUI     bool              `json:"no_ui,omitempty"`   // serves no pages
	GPUs     []GPU             `json:"gpus,omitempty"`
	CPUSlots int               `json:"cpu_slots,omitempty"`
	Kit      bool              `json:"kit,omitempty"` // cvlab-kit configs can run here
	Labels   map[string]string `json:"labels,omitempty"`
	BootID   string            `json:"boot_id,omitempty"`
	Version  string            `json:"version,omitempty"`

	Draining bool      `json:"draining,omitempty"` // gets no new work
	Removed  bool      `json:"removed,omitempty"`  // a tombstone: this key never comes back
	JoinedAt time.Time `json:"joined_at"`
}

// Role is what a token's holder may do; a greater one includes the smaller.
type Role string

// The roles.
const (
	Viewer Role = "viewer"
	Member Role = "member"
	Admin  Role = "admin"
)

// Allows says whether r includes need.
func (r Role) Allows(need Role) bool { return r.rank() >= need.rank() && r.rank() > 0 }

// Valid says whether the role is one of the list.
func (r Role) Valid() bool { return r.rank() > 0 }

func (r Role) rank() int {
	switch r {
	case Viewer:
		return 1
	case Member:
		return 2
	case Admin:
		return 3
	}
	return 0
}

// AccessKind says what a token opens.
type AccessKind string

// A user token opens the API for a person; a join token admits machines; a session is a browser's cookie.
const (
	AccessUser    AccessKind = "user"
	AccessJoin    AccessKind = "join"
	AccessSession AccessKind = "session"
)

// Access is a token that lets somebody or some machine in. The secret itself is never stored.
type Access struct {
	ID   string     `json:"id"`
	Kind AccessKind `json:"kind"`
	User string     `json:"user,omitempty"`
	Role Role       `json:"role,omitempty"`
	// Secret is the SHA-256 of a user token, or the key derived from a join token.
	Secret []byte `json:"secret"`
	// Uses is how many machines a join token may still admit; unused otherwise.
	Uses      int       `json:"uses,omitempty"`
	By        string    `json:"by,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero: never
}

// Expired says whether the token is past its time.
func (a *Access) Expired(now time.Time) bool {
	return !a.ExpiresAt.IsZero() && !now.Before(a.ExpiresAt)
}
