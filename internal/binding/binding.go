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
//
// Containers choose their labels, and others wait while these are read: that takes time
// in proportion to their number and length, up to the bounds in bounds.go.
package binding

import (
	"cmp"
	"fmt"
	"iter"
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

	meaning string // what Meaning returns, where Text does not say it all
}

// Meaning is Text and, where that means something else to each client, for whom: bindings of
// one Meaning lead to the same endpoints.
func (b *Binding) Meaning() string { return cmp.Or(b.meaning, b.Text) }

// For is b as client means it; see resolver.Target.For.
func (b Binding) For(client string) Binding {
	if b.Target.ByClient() {
		b.Target = b.Target.For(client)
		b.meaning = b.Text + " for " + cmp.Or(client, resolver.ForHost) // which has no spaces
	}
	return b
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

// Set is everything one container declared. It never changes.
type Set struct {
	bindings map[uint16]*Binding
	ports    []uint16 // in order
	// Problems lists what was wrong, quarantined or only passed over, in the
	// order of their origins. Of many the first are kept.
	Problems []*Problem
	// Mistakes is how many problems there are, kept or not.
	Mistakes int
	// read stands for the reading that made it; nil for the zero Set.
	read *readCall
	// byClient says that some of the targets mean something else to each client.
	byClient bool
	client   string // for whom they are
}

// ByClient reports whether some of the targets mean something else to each client.
func (s Set) ByClient() bool { return s.byClient }

// For is s as client means it (resolver.Target.For), and s itself if it is that already. What
// the configuration declares is as the host means it, for the operator has written it.
func (s Set) For(client string) Set {
	if !s.byClient || s.client == client {
		return s
	}
	next := s
	next.client, next.read, next.bindings = client, new(readCall), make(map[uint16]*Binding, len(s.bindings))
	for port, b := range s.bindings {
		if b.Place != InConfiguration && b.Target.ByClient() {
			theirs := b.For(client)
			b = &theirs
		}
		next.bindings[port] = b
	}
	return next
}

// readCall is one call of Read, as a pointer that tells it from others.
type readCall struct{ _ byte }

// Lookup returns the binding of port, quarantined or not.
func (s Set) Lookup(port uint16) (Binding, bool) {
	b, ok := s.bindings[port]
	if !ok {
		return Binding{}, false
	}
	return *b, true
}

// Each yields the bindings in no order. They must not be changed.
func (s Set) Each() iter.Seq[*Binding] { return maps.Values(s.bindings) }

// Same reports whether s and other were read at once, so that they are surely equal.
func (s Set) Same(other Set) bool { return s.read != nil && s.read == other.read }

// Len is how many ports are declared, quarantined ones included.
func (s Set) Len() int { return len(s.bindings) }

// Ports lists the declared ports, quarantined ones included, in order. The slice must not
// be changed.
func (s Set) Ports() []uint16 { return slices.Clip(s.ports) }

// All lists the bindings in order of their ports.
func (s Set) All() []Binding {
	all := make([]Binding, len(s.ports))
	for i, port := range s.ports {
		all[i] = *s.bindings[port]
	}
	return all
}
