package proxy

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// localPorts are those from which the kernel chooses one for a connection, as they were at a
// time (ip(7), ip_local_port_range). The zero value has yet to ask.
type localPorts struct {
	first, last uint16
	until       int64 // as loop.now
}

// portsFor is how long it is believed which ports these are.
const portsFor = time.Second

// mayBe reports whether the kernel may choose port; to ask which one it has chosen takes a
// call for each connection, and most endpoints have another one.
func (p *localPorts) mayBe(port uint16, now int64) bool {
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
