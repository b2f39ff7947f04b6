package dialfault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
)

// LocalPorts are those from which the kernel chooses one for a connection, as they were at a
// time (ip(7), ip_local_port_range). The zero value has yet to ask.
type LocalPorts struct {
	first, last uint16
	until       int64 // as MayBe is told the time
}

// portsFor is how long it is believed which ports these are.
const portsFor = time.Second

// MayBe reports whether the kernel may choose port; to ask which one it has chosen takes a
// call for each connection, and most endpoints have another one.
func (p *LocalPorts) MayBe(port uint16, now int64) bool {
	if now >= p.until {
		p.until = now + int64(portsFor)
		var ok bool
		if p.first, p.last, ok = portRange(); !ok {
			p.first, p.last = 0, math.MaxUint16
		}
	}
	return p.first <= port && port <= p.last
}

// portRange asks the kernel which ports they are.
func portRange() (first, last uint16, ok bool) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	bounds := bytes.Fields(text)
	if err != nil || len(bounds) != 2 {
		return 0, 0, false
	}
	low, lowErr := strconv.ParseUint(string(bounds[0]), 10, 16)
	high, highErr := strconv.ParseUint(string(bounds[1]), 10, 16)
	return uint16(low), uint16(high), lowErr == nil && highErr == nil
}

// portUsage is what portsInUse said at a time.
type portUsage struct {
	said string
	at   time.Time
}

var lastUsage atomic.Pointer[portUsage]

// portsInUse says how many local ports there are for connections to one address and port, and
// how many sockets of TCP this host has. It is asked for each dial of a storm that fails, and
// looks once in portsFor.
func portsInUse() string {
	last := lastUsage.Load()
	if last == nil || time.Since(last.at) >= portsFor {
		last = &portUsage{lookAtPorts(), time.Now()}
		lastUsage.Store(last)
	}
	return last.said
}

// lookAtPorts asks the kernel (proc(5), net/sockstat).
func lookAtPorts() string {
	first, last, ok := portRange()
	if !ok {
		return ""
	}
	said := fmt.Sprintf("%d, from %d to %d", int(last)-int(first)+1, first, last)
	sockets, _ := os.ReadFile("/proc/self/net/sockstat")
	for line := range bytes.Lines(sockets) {
		words := bytes.Fields(line) // TCP: inuse 3 orphan 0 tw 2 alloc 3 mem 1
		if len(words) >= 7 && string(words[0]) == "TCP:" && string(words[1]) == "inuse" && string(words[5]) == "tw" {
			said += fmt.Sprintf("; this host has %s open and %s in TIME_WAIT", words[2], words[6])
		}
	}
	return " (" + said + ")"
}

// NoPort says why connect(2) found no local address and port for a dial that failed with err,
// fromSource if its source address was chosen: this host has no
// address from which it could go there, or so many connections go there that no port is left.
func NoPort(err error, fromSource bool) string {
	addr, known := dialled(err)
	if known && !fromSource {
		// The same question without TCP, which sends nothing.
		probe, err := selfconnect.DialContext(context.Background(), &net.Dialer{}, "udp", addr.String())
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return "this host has no address from which it could go there: for IPv6, look whether it has one (`ip -6 addr`), or leave that endpoint out"
		}
		if err == nil {
			probe.Close()
		}
	}
	return "all local ports for connections there are taken" + portsInUse() + ": " + FixPorts
}

// dialled is the address that package net, or an error worded like one of its, says was dialled.
func dialled(err error) (netip.AddrPort, bool) {
	var op *net.OpError
	if !errors.As(err, &op) {
		return netip.AddrPort{}, false
	}
	addr, ok := op.Addr.(*net.TCPAddr)
	if !ok || addr == nil {
		return netip.AddrPort{}, false
	}
	return addr.AddrPort(), true
}
