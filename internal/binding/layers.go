package binding

import (
	"path"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/resolver"
)

// Layers are what the configuration says about ports beside what their containers
// declare. They are read-only once they are in use; nil are none.
type Layers struct {
	// Defaults are for all ports, the lowest layer first.
	Defaults []option.Layer
	// Targets are for all ports that lead to a target, by its canonical text.
	Targets map[string]option.Layer
	// Clients declare for containers that cannot be labelled. The first that declares
	// a port for a container wins.
	Clients []Static
	// Permit says why a container must not have a target at all, whatever it resolves to;
	// such a port is quarantined, and the target never watched. nil permits everything.
	Permit func(Declarer, Place, resolver.Target) error
	// Limits are what containers may choose of options.
	Limits option.Limited
}

func (l *Layers) permit(d Declarer, place Place, target resolver.Target) error {
	if l == nil || l.Permit == nil {
		return nil
	}
	return l.Permit(d, place, target)
}

// Static is what the configuration declares for some containers.
type Static struct {
	// Container is a name or a pattern (path.Match); "" is every one.
	Container string
	// Label is K=V, or K for any value; "" is every one.
	Label string
	// Ports are declared for those that have both.
	Ports map[uint16]StaticPort
}

// StaticPort is one port of a Static.
type StaticPort struct {
	// Target is the target as it was written.
	Target string
	// Origin says where.
	Origin string
	// Options are the port's own.
	Options option.Layer
}

// matches reports whether s is about d.
func (s Static) matches(d Declarer) bool {
	if s.Container != "" {
		// A pattern was checked when it was read; what does not parse matches nothing.
		if ok, err := path.Match(s.Container, d.Name); err != nil || !ok {
			return false
		}
	}
	if s.Label == "" {
		return true
	}
	key, value, valued := strings.Cut(s.Label, "=")
	has, ok := d.Labels[key]
	return ok && (!valued || has == value)
}

// static finds what is declared for port of d by configuration.
func (l *Layers) static(d Declarer) map[uint16]StaticPort {
	if l == nil {
		return nil
	}
	var ports map[uint16]StaticPort
	for _, s := range l.Clients {
		if !s.matches(d) {
			continue
		}
		for number, port := range s.Ports {
			if _, taken := ports[number]; taken {
				continue
			}
			if ports == nil {
				ports = map[uint16]StaticPort{}
			}
			ports[number] = port
		}
	}
	return ports
}

// ofTarget is the canonical text of target if there are options for all ports that lead
// there, else "".
func (l *Layers) ofTarget(target resolver.Target) string {
	if l == nil || len(target.Choices) == 0 || len(l.Targets) == 0 {
		return ""
	}
	text := target.String()
	if _, ok := l.Targets[text]; !ok {
		return ""
	}
	return text
}

// Options merges what holds for a port of a container that leads to target: the layers of
// the configuration, then wide, which is for all ports of its container, then own, within
// the limits.
func (l *Layers) Options(target resolver.Target, wide, own option.Layer) (option.Set, []*option.Problem) {
	var limits option.Limited
	if l != nil {
		limits = l.Limits
	}
	return option.MergeLimited(limits, append(l.shared(target), wide), own)
}

// ListenerOptions merges what holds for a listener that leads to target: the layers of the
// configuration, then own. All of them are the operator's.
func (l *Layers) ListenerOptions(target resolver.Target, own option.Layer) (option.Set, []*option.Problem) {
	return option.Merge(l.shared(target), own)
}

// Shared is what holds for target whoever asks for it.
func (l *Layers) Shared(target resolver.Target) option.Set {
	set, _ := option.Merge(l.shared(target), nil) // its problems have been told when it was read
	return set
}

func (l *Layers) shared(target resolver.Target) []option.Layer {
	if l == nil {
		return nil
	}
	shared := slices.Clone(l.Defaults)
	if text := l.ofTarget(target); text != "" {
		shared = append(shared, l.Targets[text])
	}
	return shared
}
