// Package endpoints is what an operator decides of endpoints: no new connections (drain), out for a while
// (eject), another weight, and all of that taken back (restore). It holds over reloads, takeovers and restarts:
// it is a note in the run folder, which each daemon of this host reads when it begins to serve.
package endpoints

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

const (
	// mostDecided is of how many addresses something may be decided.
	mostDecided = 1024
	// mostNote bounds the note, in bytes.
	mostNote = 1 << 20
	// mostNamed is of how many addresses one order may be: those of a name.
	mostNamed = 256
)

// Order is what an operator asks for.
type Order struct {
	// Endpoint is HOST:PORT, HOST being an IP address, or the name that its source gives it.
	Endpoint string
	Action   Action
	// For is how long Eject holds; 0 is until it is taken back.
	For time.Duration
	// Weight is for SetWeight.
	Weight uint16
	// Unknown is an address that no target names yet, which may be ordered all the same.
	Unknown bool
}

// Action is what is to be done.
type Action string

// Every Action.
const (
	Drain     Action = "drain"
	Eject     Action = "eject"
	SetWeight Action = "weight"
	Restore   Action = "restore"
)

// Decided is what holds of an address.
type Decided struct {
	Address string `json:"address"`
	balance.Override
}

// Book has what was decided. Its methods may be called from any goroutine.
type Book struct {
	Pools *balance.Registry
	Dir   *rundir.Dir // nil keeps nothing
	Note  string      // the name in Dir
	Log   *slog.Logger
	// Known tells the endpoints that sources name by now, of which target, whether dialled or not; nil for none.
	Known func(tell func(target string, addr netip.AddrPort, name string))

	mu sync.Mutex
}

// Recall decides again what the note says, and nothing else: what was decided before this daemon, or by the one
// that it takes over from, which may be given orders until this one serves.
func (b *Book) Recall() {
	if b.Dir == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	text, err := b.Dir.ReadNote(b.Note, mostNote)
	var all []Decided
	if err == nil && text != nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		b.Log.Warn("what was decided of endpoints is not known any more", "error", err, "hint", "decide again: ambassadord endpoints")
		return
	}
	before := b.List()
	noted := map[netip.AddrPort]bool{}
	for _, d := range all[:min(len(all), mostDecided)] {
		addr, err := netip.ParseAddrPort(d.Address)
		if err != nil {
			b.Log.Warn("what was decided of an endpoint is not known any more", "endpoint", d.Address, "error", err, "hint", "decide again: ambassadord endpoints")
			continue
		}
		noted[addr] = true
		b.Pools.Override(addr, d.Override)
	}
	for addr := range b.Pools.Overrides() {
		if !noted[addr] {
			b.Pools.Override(addr, balance.Override{})
		}
	}
	if n := len(noted); n > 0 && n != len(before) {
		b.Log.Info("endpoints stay as an operator has decided", "endpoints", n, "hint", "ambassadord endpoints lists them")
	}
}

// Do does what o asks for, and returns what holds then of the addresses that it is about. The error says what
// is wrong with o, or why it could not be kept for the next daemon: then it holds until this one ends.
func (b *Book) Do(o Order) ([]Decided, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	addrs, err := b.find(o)
	if err != nil {
		return nil, err
	}
	decided := b.Pools.Overrides()
	var all []Decided
	for _, addr := range addrs {
		now := decided[addr]
		switch o.Action {
		case Drain:
			now.State, now.Until = balance.Drained, time.Time{}
		case Eject:
			now.State, now.Until = balance.Ejected, time.Time{}
			if o.For > 0 {
				now.Until = time.Now().Add(o.For).Round(0)
			}
		case SetWeight:
			now.Weight = &o.Weight
		case Restore:
			now = balance.Override{}
			b.Pools.Pardon(addr)
		default:
			return nil, hint.Errorf("drain, eject, weight or restore", "%q is nothing that is done with endpoints", shorten.Text(string(o.Action), 50))
		}
		if _, had := decided[addr]; !had && o.Action != Restore && len(decided) >= mostDecided {
			return all, hint.Errorf("restore those that are no more: ambassadord endpoints", "something is decided of %d endpoints already", len(decided))
		}
		if now.State != "" || now.Weight != nil {
			now.Since = time.Now().Round(0)
		}
		decided[addr] = now
		b.Pools.Override(addr, now)
		all = append(all, Decided{addr.String(), now})
		b.Log.Info("an operator has decided of an endpoint", "endpoint", addr.String(), "action", string(o.Action), "state", string(now.State), "until", until(now))
	}
	return all, b.keep()
}

func until(o balance.Override) string {
	if o.Until.IsZero() {
		return ""
	}
	return o.Until.Format(time.RFC3339)
}

// List is all that holds, by address.
func (b *Book) List() []Decided {
	all := []Decided{}
	for addr, o := range b.Pools.Overrides() {
		all = append(all, Decided{addr.String(), o})
	}
	slices.SortFunc(all, func(a, b Decided) int { return cmp.Compare(a.Address, b.Address) })
	return all
}

// keep writes the note. b.mu is held.
func (b *Book) keep() error {
	if b.Dir == nil {
		return nil
	}
	text, err := json.Marshal(b.List())
	if err == nil {
		err = b.Dir.WriteNote(b.Note, text)
	}
	if err != nil {
		return hint.Wrap(fmt.Errorf("it is done, but the next daemon will not know: %w", err), "make room in the file system of --run-dir, and decide again")
	}
	return nil
}

// find is the addresses that o is about.
func (b *Book) find(o Order) ([]netip.AddrPort, error) {
	if o.Endpoint == "" {
		return nil, hint.Errorf("give HOST:PORT, or the name that its source gives it", "no endpoint is named")
	}
	found := map[netip.AddrPort]bool{}
	var others []string
	called := map[string][]netip.Addr{} // whom each target that has the name means by it
	given, parseErr := netip.ParseAddrPort(o.Endpoint)
	given = netip.AddrPortFrom(given.Addr().Unmap(), given.Port())
	take := func(target string, addr netip.AddrPort, name string) {
		// What is an address is no name: a source that a tenant chose may call another's endpoint so.
		if parseErr == nil && addr == given || parseErr != nil && name == o.Endpoint {
			found[addr] = true
			called[target] = append(called[target], addr.Addr())
		}
		if len(others) < mostNamed {
			others = append(others, addr.String())
			if name != "" {
				others = append(others, name)
			}
		}
	}
	for _, p := range b.Pools.Pools() {
		for i := range p.Members {
			take(p.Target, p.Members[i].Addr, p.Members[i].Name)
		}
	}
	if b.Known != nil {
		b.Known(take)
	}
	hosts, disagree := "", false
	for _, all := range called {
		slices.SortFunc(all, netip.Addr.Compare)
		these := fmt.Sprint(slices.Compact(all))
		disagree = disagree || hosts != "" && hosts != these
		hosts = these
	}
	if parseErr == nil && len(found) == 0 {
		if _, decided := b.Pools.Overrides()[given]; decided || o.Unknown {
			found[given] = true
		}
	}
	switch shown := shorten.Text(o.Endpoint, 200); {
	case len(found) == 0 && parseErr != nil && o.Unknown:
		return nil, hint.Errorf("give its HOST:PORT, with an IP address", "no endpoint is called %q", shown)
	case len(found) == 0:
		fix := "ambassadord status --all lists the endpoints of all targets; --unknown takes an address that none is at yet"
		if meant := suggest.Closest(o.Endpoint, slices.Compact(slices.Sorted(slices.Values(others)))); meant != "" {
			fix = "did you mean " + meant + "?"
		}
		return nil, hint.Errorf(fix, "no target has the endpoint %q", shown)
	case len(found) > mostNamed:
		return nil, hint.Errorf("name them by HOST:PORT", "%d endpoints are called %q", len(found), shown)
	}
	var all []netip.AddrPort
	for addr := range found {
		all = append(all, addr)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	if parseErr != nil && disagree {
		// A container that declares a name of its own zone may have it stand for the endpoint of another.
		return nil, hint.Errorf("name it by HOST:PORT", "targets mean different hosts by %q: %s", shorten.Text(o.Endpoint, 200), shorten.Text(fmt.Sprint(all), 500))
	}
	return all, nil
}
