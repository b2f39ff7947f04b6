package selfdial

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

// listenerAt is a listener without a socket.
func listenerAt(addr *net.TCPAddr) *Listener {
	l := new(Listener)
	l.ListensAt(addr)
	return l
}

// goes is a way, in the words of a log.
type goes string

func (g goes) String() string { return string(g) }

// A wildcard listener is reached by every address of ours, and no other.
func TestListenerAccepts(t *testing.T) {
	all := listenerAt(&net.TCPAddr{Port: 7100})
	one := listenerAt(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7100})
	six := listenerAt(&net.TCPAddr{IP: net.IPv6loopback, Port: 7100})
	elsewhere := listenerAt(one.Addr)
	elsewhere.Elsewhere = true
	for _, test := range []struct {
		listener *Listener
		addr     string
		want     bool
	}{
		{all, "127.0.0.1:7100", true},
		{all, "127.8.8.8:7100", true},
		{all, "[::1]:7100", true},
		{all, "[::ffff:127.0.0.1]:7100", true},
		{all, "0.0.0.0:7100", true},
		{all, "127.0.0.1:7101", false},
		{all, "192.0.2.1:7100", false},
		{one, "127.0.0.1:7100", true},
		{one, "[::ffff:127.0.0.1]:7100", true},
		{one, "127.0.0.2:7100", false},
		{one, "[::1]:7100", false},
		{six, "[::1]:7100", true},
		{six, "127.0.0.1:7100", false},
		{elsewhere, "127.0.0.1:7100", false},
	} {
		if got := test.listener.accepts(netip.MustParseAddrPort(test.addr), new(Tracker).isLocal); got != test.want {
			t.Errorf("%s by %s: %v", test.addr, test.listener.Addr, got)
		}
	}
}

// From where an endpoint is dialled is looked at until it is known, and every now and then.
// What is dialled in one namespace says nothing of another.
func TestSourcesAreLearned(t *testing.T) {
	dials := new(Tracker)
	dials.here.Store(1)
	endpoint, source := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("192.0.2.7:40000")
	for range 2 { // the first dial fails
		if d := dials.Departs(nil, nil, endpoint, false, false); !d.learn || d.note {
			t.Errorf("before it is known: %+v", d)
		}
	}
	d := dials.Departs(nil, nil, endpoint, false, true)
	dials.Departed(&d, nil, nil, goes("there"), netip.MustParseAddrPort("192.0.2.9:40000"))
	inside := &Listener{Elsewhere: true}
	d = dials.Departs(inside, nil, endpoint, true, false)
	dials.Departed(&d, inside, nil, goes("there"), netip.MustParseAddrPort("192.0.2.8:40000"))
	if f := &dials.flows; f.dialsFrom(netip.MustParseAddr("192.0.2.8")) || f.dialsFrom(netip.MustParseAddr("192.0.2.9")) {
		t.Error("the address of a client, or of another namespace, is taken for ours")
	}
	d = dials.Departs(nil, nil, endpoint, false, false)
	dials.Departed(&d, nil, nil, goes("there"), source)
	if f := &dials.flows; !f.dialled.has(keyOf(endpoint)) || f.led.has(keyOf(endpoint)) {
		t.Error("the endpoint is not what was dialled, or has led back")
	}
	if !dials.flows.dialsFrom(source.Addr()) {
		t.Error("where it was dialled from was not learned")
	}
	learned := 0
	for range 100 * lookAgain {
		if d := dials.Departs(nil, nil, endpoint, false, false); d.learn {
			learned++
		}
	}
	if learned < 50 || learned > 200 {
		t.Errorf("of %d dials more %d looked from where; want about 100", 100*lookAgain, learned)
	}
}

// What one endpoint has led to is not held against the next.
func TestLoopBeforeAnotherEndpoint(t *testing.T) {
	dials := new(Tracker)
	dials.here.Store(1)
	h := new(Hop)
	h.looped.Store(&cause{errors.New("it came back")})
	d := dials.Departs(nil, h, netip.MustParseAddrPort("192.0.2.1:80"), false, false)
	h = dials.Departed(&d, nil, h, goes("there"), netip.MustParseAddrPort("192.0.2.7:40000"))
	if err := dials.WhyLooped(h, nil); err != nil {
		t.Errorf("it ended by %v; want that it was reset", err)
	}
	h.Left()
}

// Where connections from ourselves were dialled is asked of each, until many in a row were
// dialled at the listener; then of some, until one was not.
func TestWhereConnectionsWereDialled(t *testing.T) {
	dials := new(Tracker)
	at, led := netip.MustParseAddrPort("127.0.0.1:6379"), netip.MustParseAddrPort("127.0.0.2:6379")
	listener, asked := listenerAt(net.TCPAddrFromAddrPort(at)), 0
	arrive := func(dialled netip.AddrPort) *Hop {
		return dials.Arrived(listener, netip.MustParseAddrPort("127.0.0.1:40000"), func() (netip.AddrPort, error) {
			asked++
			return dialled, nil
		})
	}
	const more = 100 * askAgain
	for range surelyItself + more {
		arrive(at)
	}
	if asked < surelyItself+50 || asked > surelyItself+200 {
		t.Errorf("of %d connections %d were asked; want %d and about 100", surelyItself+more, asked, surelyItself)
	}
	dials.flows.dialled.add(keyOf(led))
	missed := 0
	for arrive(led) == nil {
		if missed++; missed > more {
			t.Fatal("none of those that a rule has led here was seen to be ours")
		}
	}
	for range surelyItself {
		if arrive(led) == nil {
			t.Error("once one has been led here, another one was not seen to be ours")
		}
	}
	for range more { // surelyItself again
		arrive(at)
	}
	dials.flows.dialled.add(keyOf(at))
	for range more {
		if arrive(at) == nil {
			t.Fatal("the listener's own address was dialled, and what arrived there was not seen to be ours")
		}
	}
}
