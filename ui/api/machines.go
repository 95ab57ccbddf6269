package api

import (
	"time"

	"github.com/deveronica/cvlab/fsm"
)

// Device is one node with what it has and how it feels.
type Device struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// State is one word of the backend's: active, suspect, lost, draining and so on.
	State string `json:"state"`
	// LastHeard is the seconds since the node was heard last, null when it never was.
	LastHeard *float64 `json:"last_heard_s"`
	CPU       CPU      `json:"cpu"`
	Memory    Space    `json:"memory"`
	Disk      Space    `json:"disk"`
	// DiskState is the node's word on that: ok, low, full; empty when it said none.
	DiskState string `json:"disk_state"`
	GPUs      []GPU  `json:"gpus"`
	// Running are the numbers of the experiments whose attempts are open here. The server fills it from the facts, as it
	// does Experiment of each GPU, Draining, NoExec, CPUSlots, Labels and Version.
	Running  []uint64          `json:"running"`
	Draining bool              `json:"draining"`
	NoExec   bool              `json:"no_exec"`
	CPUSlots int               `json:"cpu_slots"`
	Labels   map[string]string `json:"labels"`
	Version  string            `json:"version"`
	// Frozen are the attempts here that stand still because their lease has ended without a word from the cluster.
	Frozen []Frozen `json:"frozen"`
	// Strays are attempts that run here and that the facts neither know nor take back. They stand still until somebody
	// ends them: their experiments may run elsewhere.
	Strays []Stray `json:"strays"`
	// Warnings are sentences on what a person should look at.
	Warnings []string `json:"warnings"`
}

// Frozen is an attempt that stands still until a word comes.
type Frozen struct {
	Token      fsm.Token `json:"token"`
	Experiment uint64    `json:"experiment"`
	Since      time.Time `json:"since"`
	Lease      float64   `json:"lease_s"` // seconds it goes on without a word
	// Presumed says that nobody has told it: its node is silent for longer than the lease.
	Presumed bool `json:"presumed"`
}

// Stray is an attempt that the facts do not know, frozen until a person decides.
type Stray struct {
	Token      fsm.Token `json:"token"`
	Experiment uint64    `json:"experiment"`
	Reason     string    `json:"reason"`
}

// CPU is the processors of a node.
type CPU struct {
	Cores       int     `json:"cores"`
	Utilization float64 `json:"utilization"` // percent of all cores
	Load        float64 `json:"load"`        // runnable threads, mean of a minute
}

// Space is memory or disk, in bytes.
type Space struct {
	Used  uint64 `json:"used"`
	Total uint64 `json:"total"`
}

// GPU is one card.
type GPU struct {
	UUID  string `json:"uuid"`
	Index int    `json:"index"`
	Name  string `json:"name"`
	// State is one word of the backend's: idle, busy, foreign, suspect, lost and so on.
	State       string       `json:"state"`
	MemoryUsed  uint64       `json:"memory_used"`  // bytes
	MemoryTotal uint64       `json:"memory_total"` // bytes
	Utilization float64      `json:"utilization"`  // percent
	Temperature float64      `json:"temperature"`  // degrees Celsius
	Power       float64      `json:"power"`        // watts
	Processes   []GPUProcess `json:"processes"`
	// Experiment is the number of the experiment that holds the card, null when it is free.
	Experiment *uint64 `json:"experiment"`
}

// GPUProcess is a process that uses a card.
type GPUProcess struct {
	PID    int    `json:"pid"`
	Name   string `json:"name"`
	User   string `json:"user"`
	Memory uint64 `json:"memory"` // bytes
}

// ClusterStatus is the cluster as one node sees it: the JSON of GET /api/cluster.
type ClusterStatus struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Epoch uint64 `json:"epoch"`
	Term  uint64 `json:"term"`
	// Leader is null while there is none.
	Leader *NodeRef `json:"leader"`
	// Answered is the node that gives this answer, Index the newest log index it has applied.
	Answered NodeRef       `json:"answered"`
	Index    uint64        `json:"index"`
	Nodes    []ClusterNode `json:"nodes"`
	Voters   int           `json:"voters"`
	// Tolerates is how many more voters may die before nothing can be decided.
	Tolerates int `json:"tolerates"`
	// Trouble says in one sentence why nothing can be changed now, NoRoom why no new experiments are taken, naming the
	// machines; both are empty when all is well.
	Trouble string `json:"trouble"`
	NoRoom  string `json:"no_room"`
	// Note says in one sentence what would be lost if one more machine died.
	Note string `json:"note"`
	// Problems says in sentences what somebody must look after, such as a copied data directory.
	Problems []string `json:"problems,omitempty"`
}

// NodeRef names a node.
type NodeRef struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// ClusterNode is one member.
type ClusterNode struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Role is leader, voter or learner.
	Role string `json:"role"`
	// State is one word of the backend's: alive, suspect, dead, left.
	State string `json:"state"`
	// Disk is the node's last word on the room of its data directory: ok, low, full; empty when it said none. Sync is how
	// long its disk takes to make a change durable: 99 of 100 took no longer; 0 when it is not known.
	Disk string  `json:"disk"`
	Sync float64 `json:"sync_p99_s"`
	// Stuck says that it votes and answers, and takes no changes (seen from the leader only).
	Stuck     bool      `json:"stuck"`
	LastHeard *float64  `json:"last_heard_s"`
	Version   string    `json:"version"`
	HTTP      string    `json:"http"` // host:port
	Mesh      string    `json:"mesh"`
	Gossip    string    `json:"gossip"`
	NoExec    bool      `json:"no_exec"`
	NoUI      bool      `json:"no_ui"`
	Draining  bool      `json:"draining"`
	GPUs      int       `json:"gpus"`
	JoinedAt  time.Time `json:"joined_at"`
}

// Project is the experiments that share a project name.
type Project struct {
	Name        string             `json:"name"`
	Experiments int                `json:"experiments"`
	Counts      map[fsm.Status]int `json:"counts"`
	Users       []string           `json:"users"`
	FirstAt     time.Time          `json:"first_at"` // submission of the oldest
	LastAt      time.Time          `json:"last_at"`  // submission of the newest
}

// User is a person, as the tokens and experiments name them.
type User struct {
	Name        string             `json:"name"`
	Role        fsm.Role           `json:"role"` // the greatest of their tokens; empty without one
	Experiments int                `json:"experiments"`
	Counts      map[fsm.Status]int `json:"counts"`
}

// Me is who a token belongs to.
type Me struct {
	User    string     `json:"user"`
	Role    fsm.Role   `json:"role"`
	Token   string     `json:"token"` // ID of the token, never the secret
	Expires *time.Time `json:"expires"`
}

// TokenInfo is a token without its secret.
type TokenInfo struct {
	ID        string         `json:"id"`
	Kind      fsm.AccessKind `json:"kind"`
	User      string         `json:"user"`
	Role      fsm.Role       `json:"role"`
	Uses      int            `json:"uses"` // machines a join token may still admit
	By        string         `json:"by"`
	CreatedAt time.Time      `json:"created_at"`
	Expires   *time.Time     `json:"expires"` // null: never
	Expired   bool           `json:"expired"`
}

// TokenRequest asks for a new token. Kind join needs nothing else (1 use, 1 hour); kind user needs User and Role.
type TokenRequest struct {
	Kind fsm.AccessKind `json:"kind"`
	User string         `json:"user,omitempty"`
	Role fsm.Role       `json:"role,omitempty"`
	Uses int            `json:"uses,omitempty"`
	TTL  Duration       `json:"ttl,omitempty"` // 0: an hour for join, for ever for user
}

// JoinRequest tells a node to join another cluster.
type JoinRequest struct {
	Peer  string `json:"peer"`  // host or host:port of any member's mesh
	Token string `json:"token"` // join token
}

// NewToken is a token that was just made; its text is shown this once.
type NewToken struct {
	Token   string     `json:"token"`
	ID      string     `json:"id"`
	Expires *time.Time `json:"expires"`
}

// Event is one server-sent event.
type Event struct {
	// ID is the log index up to which the reader is informed; give it to Events to go on from there.
	ID uint64
	// Type is hello, experiment, device or cluster.
	Type string
	// Data is JSON: for hello {"index": n}, for experiment {"experiments": […]}, for device a Device, for cluster a
	// ClusterStatus.
	Data []byte
}
