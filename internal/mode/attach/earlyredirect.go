package attach

import (
	"sync"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/advance"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// earlyRedirects is what is redirected in one namespace before iptables does it, by messages of our
// own. One goroutine makes these rules, and closes them when iptables has caught up; while it
// waits for that, others add to them what has been declared since.
type earlyRedirects struct {
	mu     sync.Mutex
	wanted func() []netrules.Port // the ports to redirect now
	place  place
	rules  *advance.Rules  // nil while there are none
	empty  *advance.Rules  // redirect nothing any more, and keep connections tracked that came by them
	caught map[uint16]bool // what iptables redirects
}

// place is where rules lead to: sockets of families at the port listen inside ns. The zero
// value is nowhere.
type place struct {
	ns       *netns.Namespace
	families []netrules.Family
	listen   uint16
}

// begin says where the sockets are, and gives rules that lead there, if there are some.
func (h *earlyRedirects) begin(at place, rules *advance.Rules) {
	h.mu.Lock()
	h.place = at
	if rules != nil {
		h.rules = rules
		_ = h.update() // they may be of a moment ago
	}
	h.mu.Unlock()
}

// take goes on with what other has begun.
func (h *earlyRedirects) take(other *earlyRedirects) {
	other.mu.Lock()
	at, rules, empty, caught := other.place, other.rules, other.empty, other.caught
	other.place, other.rules, other.empty = place{}, nil, nil
	other.mu.Unlock()
	h.mu.Lock()
	h.caught, h.empty = caught, empty
	h.mu.Unlock()
	h.begin(at, rules)
}

// cover redirects what is wanted, after begin.
func (h *earlyRedirects) cover() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.update()
}

// hurry is cover for others.
func (h *earlyRedirects) hurry() {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.update() // what fails iptables does
}

// update has the rules be for what is wanted, if iptables does not redirect all of it. h.mu is
// held.
func (h *earlyRedirects) update() (err error) {
	ports := h.wanted()
	switch {
	case h.rules != nil:
		return h.rules.Update(ports)
	case h.place.ns == nil, h.missing(ports) == nil:
		return nil
	}
	h.rules, err = advance.Redirect(h.place.ns, h.place.families, h.place.listen, ports)
	return err
}

// missing are those of ports that iptables does not redirect. h.mu is held.
func (h *earlyRedirects) missing(ports []netrules.Port) []netrules.Port {
	var missing []netrules.Port
	for _, p := range ports {
		if !h.caught[p.Number] {
			missing = append(missing, p)
		}
	}
	return missing
}

// lacks are the ports that are wanted and that iptables does not redirect.
func (h *earlyRedirects) lacks() []netrules.Port {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.missing(h.wanted())
}

// caughtUp says that iptables redirects ports, and no others. If that is all that is wanted
// the rules are closed, else what is not wanted any more goes.
func (h *earlyRedirects) caughtUp(ports []netrules.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.caught = map[uint16]bool{}
	for _, p := range ports {
		h.caught[p.Number] = true
	}
	if len(ports) > 0 {
		h.closeEmpty()
	}
	if wanted := h.wanted(); len(h.missing(wanted)) == 0 {
		h.closeRules()
	} else if h.rules != nil {
		_ = h.rules.Update(wanted)
	}
}

// unhook redirects nothing any more, for good. Until end, or until iptables has rules, connections
// that came by ours go on.
func (h *earlyRedirects) unhook() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.place, h.caught = place{}, nil
	if h.rules == nil {
		return
	}
	if err := h.rules.Update(nil); err != nil {
		h.closeRules()
		return
	}
	h.empty, h.rules = h.rules, nil
}

// end ends it, for good.
func (h *earlyRedirects) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.place, h.caught = place{}, nil
	h.closeRules()
	h.closeEmpty()
}

func (h *earlyRedirects) closeEmpty() {
	if h.empty != nil {
		_ = h.empty.Close()
		h.empty = nil
	}
}

func (h *earlyRedirects) closeRules() {
	if h.rules != nil {
		_ = h.rules.Close() // its socket, and the table goes with that
		h.rules = nil
	}
}
