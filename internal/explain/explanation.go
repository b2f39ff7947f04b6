// Package explain says why a connection of a container to a port goes where it goes, or fails: the
// whole decision with its evidence, and the verdict in one sentence, for a person whose connection
// fails and for programs.
//
//	Ask (what there is to see) → Explanation (facts) → judge (what they mean) → the verdict in it
//
// Ask looks: at the daemon by its admin interface, at the engine, and as root into the container's
// network namespace. Where no daemon answers it reads the declaration and asks the target's sources
// itself. It changes nothing; only where a dial is asked for one connection is made, which sends
// nothing. judge is a function of the facts alone, and each of its rules is one situation.
//
// What containers and registries chose is cut; whoever prints it makes it printable.
package explain

import (
	"time"

	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
)

// Explanation is all that was seen, and what it means. As JSON it is described in docs/explain.md:
// fields are added, not changed. What is not known is left out.
type Explanation struct {
	Asked     Question  `json:"asked"`
	Taken     time.Time `json:"taken"`
	Daemon    Daemon    `json:"daemon"`
	Engine    Engine    `json:"engine"`
	Container Container `json:"container"`
	// Attached says since when the daemon works in the container's network namespace; nil where it
	// does not.
	Attached    *status.Attached    `json:"attached,omitempty"`
	Declaration *Declaration        `json:"declaration,omitempty"` // of the port; nil if there is none
	Ports       []uint16            `json:"declared_ports"`        // all that the container declares
	NearMisses  []NearMiss          `json:"near_misses"`
	Target      *status.TargetView  `json:"target,omitempty"`
	Endpoints   []Endpoint          `json:"endpoints"`
	Limits      []Limit             `json:"limits"`
	Open        int                 `json:"open_connections"` // of the container by the port
	Failure     *status.LastFailure `json:"last_failure,omitempty"`
	Inside      Inside              `json:"inside"`
	Dial        *Dial               `json:"dial,omitempty"` // where one was asked for
	Unseen      []Unseen            `json:"unseen"`         // what could not be looked at, and why
	Verdict     Finding             `json:"verdict"`
	Also        []Finding           `json:"also"` // what else was found, the worst first

	served time.Time // when a connection that is still open began, the last of them
}

// Question is what is asked.
type Question struct {
	Container string `json:"container"` // a name, the beginning of an ID, or a service
	Port      uint16 `json:"port"`
	Dial      bool   `json:"dial"`
}

// Daemon is the daemon of this host.
type Daemon struct {
	Answers bool     `json:"answers"` // by its admin interface
	Runs    bool     `json:"runs"`    // a process holds the lock, or it answers
	Version string   `json:"version,omitempty"`
	Modes   []string `json:"modes,omitempty"`
	Ready   bool     `json:"ready"`
	Missing []Unseen `json:"not_ready,omitempty"` // what it waits for
	status.FailureView
}

// Engine is the container engine.
type Engine struct {
	Answers bool `json:"answers"`
	status.FailureView
}

// Container is the client.
type Container struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"` // the short one
	Running bool      `json:"running"`
	State   string    `json:"state"` // running, paused, stopping, not running, unknown
	Health  string    `json:"health,omitempty"`
	Project string    `json:"project,omitempty"`
	Service string    `json:"service,omitempty"`
	Image   string    `json:"image,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// Network is the engine's network mode, and Owner the container whose network namespace it has,
	// if that is another one.
	Network   string   `json:"network,omitempty"`
	Owner     string   `json:"network_of,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // each with its network
	// OwnStack says that its runtime has a network stack of its own, and Left that the container
	// whose network it joined has that no more; each with what to do.
	OwnStack *status.FailureView `json:"own_stack,omitempty"`
	Left     *status.FailureView `json:"left_behind,omitempty"`
}

// Declaration is what the container gets at the port.
type Declaration struct {
	Origin  string `json:"declaration"` // where it stands: label, environment, configuration
	Target  string `json:"target"`
	Meaning string `json:"meaning"`
	// FailureView says why the port is quarantined.
	status.FailureView
	Overruled string          `json:"overruled,omitempty"` // another container of the namespace has the port
	Denied    []status.Denied `json:"denied,omitempty"`
}

// NearMiss is something that may have been meant to declare the port, or is about it and does not hold.
type NearMiss struct {
	Where string `json:"where"` // label KEY, image NAME, FILE:LINE
	Why   string `json:"why"`
	Fix   string `json:"fix,omitempty"`
	// Declared says that the container declares it, and that it was read and passed over.
	Declared bool `json:"declared"`
}

// Endpoint is one of the target's.
type Endpoint struct {
	status.EndpointView
	Open int `json:"open"`
	// State is used, drained, ejected, down or denied; Why says more, and Until when an ejection ends.
	State    string    `json:"state"`
	Why      string    `json:"why,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Failures int       `json:"failures"` // in a row
	WhyFails string    `json:"last_failure,omitempty"`
	// Deaf says that it is a container of this host in which nobody listens there, and at what it listens.
	Deaf string `json:"nobody_listens,omitempty"`
}

// Limit is one that connections of the container by the port have to pass.
type Limit struct {
	status.LimitView
	Holders []Holder `json:"holders"` // who has most of it
}

// Holder is a client that has connections open.
type Holder struct {
	Client string `json:"client"`
	Open   int    `json:"open"`
}

// Inside is what was seen in the container's network namespace.
type Inside struct {
	Looked bool `json:"looked"` // at its sockets
	// Rules says that our rules in there were looked at, and Rule is that of the port.
	Rules bool  `json:"rules_looked_at"`
	Rule  *Rule `json:"rule,omitempty"`
	// Listens are the container's own sockets at the port, UDP how many of its sockets are connected
	// to the port by UDP.
	Listens []string `json:"listens,omitempty"`
	UDP     int      `json:"udp_sockets"`
	// TCPFailed is how many connections have failed in there, and UDPUnheard how many datagrams came to a
	// port at which nobody listens; of all ports, since the namespace was made.
	TCPFailed  uint64 `json:"tcp_attempts_failed"`
	UDPUnheard uint64 `json:"udp_no_port"`
}

// Rule redirects the port.
type Rule struct {
	Text    string `json:"rule"`
	Listen  uint16 `json:"listen_port"`
	Served  bool   `json:"served"`  // somebody listens there
	Hooked  bool   `json:"hooked"`  // a rule leads to its chain
	Counted bool   `json:"counted"` // whether Packets is known
	Packets uint64 `json:"packets"` // that have opened a connection by it
}

// Dial is what became of a connection that was made from inside of the container's network namespace.
type Dial struct {
	Address string     `json:"address"`
	Steps   []DialStep `json:"steps"`
	OK      bool       `json:"ok"` // an endpoint has answered
	Reason  string     `json:"reason,omitempty"`
	status.FailureView
}

// DialStep is a step of it.
type DialStep struct {
	What string `json:"what"`
	Took string `json:"took"`
}

// Unseen is something that could not be looked at.
type Unseen struct {
	What string `json:"what"`
	status.FailureView
}

// State is how bad a finding is.
type State string

// The states, worst first.
const (
	// Broken: connections fail, and this is why.
	Broken State = "broken"
	// Doubtful: it may be why, or will be.
	Doubtful State = "doubtful"
	// OK: nothing is wrong, as far as was seen.
	OK State = "ok"
)

// Finding is something that facts mean.
type Finding struct {
	State State `json:"state"`
	// Cause is a word, the same in every version.
	Cause string `json:"cause"`
	// Text is a sentence, and Fix what to do.
	Text string `json:"text"`
	Fix  string `json:"fix,omitempty"`
}

// mostText is how many bytes are shown of a text that a stranger chose.
const mostText = 300

func short(text string) string { return shorten.Text(text, mostText) }

// blind notes that something could not be looked at.
func (e *Explanation) blind(what string, err error) {
	e.Unseen = append(e.Unseen, Unseen{What: what, FailureView: status.Failed(err)})
}
