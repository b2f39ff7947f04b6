// Package binding reads what a container declared: labels and environment in,
// bindings out.
//
//	connect.PORT=TARGET   connect[PORT]=TARGET   labels
//	connect.PORT.wait=5s  connect[PORT].wait=5s  an option of that port
//	connect.wait=5s                              … of all ports of the container
//	CONNECT_PORT=TARGET   BACKEND_PORT=TARGET    environment, in any case
//	CONNECT_PORT_WAIT=5s  BACKEND_PORT_WAIT=5s   an option, with _ for -
//
// A label wins over environment, CONNECT_ over BACKEND_, the dotted label over
// the bracketed one, and all of them over the configuration (Layers). A
// declaration that does not parse quarantines its port: it is still ours to
// answer, with the reason why not, and nothing else of that container is lost. An
// option that does not parse costs itself.
package binding

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/resolver"
)

// Binding is one accepted or quarantined declaration.
type Binding struct {
	// Port is the port that the client dials.
	Port uint16
	// Text is the target as it was declared.
	Text string
	// Origin says where: "label connect.6379", "environment BACKEND_6379".
	Origin string
	// Place is where that is, and Key the label's or the variable's name.
	Place Place
	Key   string
	// Target is what Text says. It is empty when Problem is set.
	Target resolver.Target
	// Options are the port's, with every value filled in.
	Options option.Set
	// Problem says why the port is quarantined; nil when it is not.
	Problem *Problem
}

// Place is where a port is declared.
type Place uint8

// The places.
const (
	InLabel         Place = iota // of the container, or of its image
	InEnvironment                // likewise
	InConfiguration              // of the daemon, for the container
	InListener                   // of the daemon: there is no container
)

// Problem is something wrong with one declaration.
type Problem struct {
	// Origin says where: "label connect.6379".
	Origin string
	// Err says what is wrong; its hint says what to do.
	Err error
}

func (p *Problem) Error() string { return fmt.Sprintf("%s: %v", p.Origin, p.Err) }

// Unwrap gives Err, and with it its hint.
func (p *Problem) Unwrap() error { return p.Err }

// Set is everything one container declared.
type Set struct {
	bindings map[uint16]Binding
	// Problems lists what was wrong, quarantined or only passed over, in the
	// order of their origins.
	Problems []*Problem
}

// Lookup returns the binding of port, quarantined or not.
func (s Set) Lookup(port uint16) (Binding, bool) {
	b, ok := s.bindings[port]
	return b, ok
}

// Ports lists the declared ports, quarantined ones included, in order.
func (s Set) Ports() []uint16 { return slices.Sorted(maps.Keys(s.bindings)) }

// All lists the bindings in order of their ports.
func (s Set) All() []Binding {
	return slices.SortedFunc(maps.Values(s.bindings), func(a, b Binding) int { return cmp.Compare(a.Port, b.Port) })
}
