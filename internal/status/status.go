// Package status is what the daemon knows at one moment, as one value that nobody changes any more.
// Every part copies into it what it knows (Reporter), or internal/daemon/report.go does for one that
// does not know this package: none waits for anything outside the process,
// and none holds what connections need. As JSON it has a form of its own: json.go.
package status

import (
	"net/netip"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

// Snapshot is what the daemon knows.
type Snapshot struct {
	Taken time.Time
	Took  time.Duration

	Daemon      Daemon
	Listeners   []Listener
	Containers  []Container // in the order of their names
	Targets     []Target    // those that clients and listeners declare, in the order of their meanings
	Pools       []balance.PoolStatus
	Connections []proxy.Carried
	Limits      []limit.Status
	Failures    []Failure // the last one of each client and port, the latest first
}

// Daemon is the process.
type Daemon struct {
	Modes    []config.Mode
	Program  string // its version
	Ready    bool
	Follows  bool   // the rules were another daemon's before
	HandOver string // how far a handover to another daemon is
	Engine   error  // why what is known of containers is not current; nil if it is
	Config   Configuration
}

// Configuration is which one holds.
type Configuration struct {
	Read    time.Time // when that was
	Refused error     // why one that was to be read since does not hold; nil if there was none
}

// Listener leads to one target.
type Listener struct {
	Address string // as it was configured
	Listens netip.AddrPort
	Target  string
	Options option.Set
}

// Container is a client, or may become one.
type Container struct {
	Name    string `json:"client"`
	ID      string `json:"id"` // the short one
	Project string `json:"project,omitempty"`
	Service string `json:"service,omitempty"`
	// Namespace is the short ID of the container whose network namespace it is in.
	Namespace string    `json:"namespace,omitempty"`
	Bindings  []Binding `json:"bindings"`
	Problems  []Problem `json:"problems,omitempty"` // declarations that are none
	Mistakes  int       `json:"mistakes"`           // how many there are, which may be more than Problems
	// Attached says since when a mode works in Namespace; nil while none does.
	Attached *Attached `json:"attached,omitempty"`
}

// Attached is how a mode that works inside of network namespaces serves one.
type Attached struct {
	Mode  string    `json:"mode"`
	Since time.Time `json:"since,omitzero"` // zero while it could not attach yet
	FailureView
}

// Binding is what a container gets at a port.
type Binding struct {
	Port    uint16 `json:"port"`
	Target  string `json:"target"`            // as it was declared
	Meaning string `json:"meaning"`           // of Targets
	Origin  string `json:"declaration"`       // where it was declared
	Problem string `json:"problem,omitempty"` // why the port is quarantined; "" when it is not
	// Overruled says that another container in the namespace has the port.
	Overruled string `json:"overruled,omitempty"`
	// Denied are endpoints that the policy keeps from the container, the first of them.
	Denied []Denied `json:"denied,omitempty"`
}

// Denied is an endpoint that a container may not dial. The error names the rule and where it stands.
type Denied struct {
	Endpoint string `json:"endpoint"`
	FailureView
}

// Failure is the last connection of a client to a port that failed.
type Failure struct {
	Client, ID  string
	Source      netip.AddrPort // of the last one
	Port        uint16
	Target      string
	Count       int // of all since the daemon was started, or since it has forgotten them
	First, Last time.Time
	Served      time.Time // when the last one that began since ended well; zero where none has
	Reason      proxy.Reason
	Error, Hint string
	Endpoint    netip.AddrPort // that had answered; zero if none had
	Attempts    int
	Held        time.Duration
	Up, Down    int64
}

// Problem is a declaration that is none.
type Problem struct {
	Origin string `json:"declaration"`
	Error  string `json:"error"`
	Hint   string `json:"hint,omitempty"`
}

// Target is what is known of one, whichever clients declare it.
type Target struct {
	Meaning string
	Clients int // that declare it; listeners apart
	Status  resolver.Status
}

// Reporter is a part of the daemon.
type Reporter interface {
	// Report adds what the part knows.
	Report(s *Snapshot)
}

// Take asks all parts.
func Take(parts ...Reporter) *Snapshot {
	s := &Snapshot{Taken: time.Now()}
	for _, p := range parts {
		p.Report(s)
	}
	s.Took = time.Since(s.Taken)
	return s
}
