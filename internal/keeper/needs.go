package keeper

import (
	"errors"
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/netns"
	"github.com/ambassadord/ambassadord/proxy/origdst"
)

// sayAtMostEvery is how often it is said anew at most which rules are needed still.
const sayAtMostEvery = 100 * time.Millisecond

// needOf is the rules that a client's connection came by, which the kernel translates it for
// as long as they are there. The zero value says that it came by none: it was dialled where it
// was accepted.
func needOf(fd int, source netip.Addr) claim.Need {
	dialled, err := origdst.OfSocket(fd, source)
	if err != nil {
		return claim.Need{}
	}
	if local, err := localOf(fd); err != nil || local == netip.AddrPortFrom(dialled.Addr().Unmap(), dialled.Port()) {
		return claim.Need{}
	}
	id, err := netns.IDOf(fd)
	if errors.Is(err, unix.EPERM) { // without NET_ADMIN we make sockets nowhere else
		if own, ownErr := netns.Current(); ownErr == nil {
			id, err = own.ID(), nil
			own.Close()
		}
	}
	if err != nil {
		return claim.Need{}
	}
	if source.Unmap().Is4() {
		return claim.Need{Namespace: id, Family: netrules.IPv4}
	}
	return claim.Need{Namespace: id, Family: netrules.IPv6}
}

func localOf(fd int) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), uint16(name.Port)), nil
	}
	return netip.AddrPort{}, errors.New("it is no address of the Internet's")
}

// needs counts the connections that are carried by what they need.
type needs struct {
	mu      sync.Mutex
	count   claim.Needs
	changed chan struct{}
}

func newNeeds() *needs { return &needs{count: claim.Needs{}, changed: make(chan struct{}, 1)} }

func (n *needs) add(need claim.Need) {
	if need != (claim.Need{}) {
		n.count[need]++
	}
}

// end says that a connection has ended.
func (n *needs) end(need claim.Need) {
	if need == (claim.Need{}) {
		return
	}
	n.mu.Lock()
	if n.count[need]--; n.count[need] <= 0 {
		delete(n.count, need)
	}
	n.mu.Unlock()
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

func (n *needs) now() claim.Needs {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.count)
}

// tell says what is needed still whenever that has changed, until stopped is called.
func (n *needs) tell(say func(claim.Needs)) (stopped func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		pause := time.NewTimer(0)
		defer pause.Stop()
		for {
			select {
			case <-pause.C:
			case <-end:
				return
			}
			select {
			case <-n.changed:
			case <-end:
				return
			}
			say(n.now())
			pause.Reset(sayAtMostEvery)
		}
	}()
	return func() { close(end); <-ended }
}
