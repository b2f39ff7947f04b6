package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/selfconnect"
	"github.com/ambassadord/ambassadord/resolver"
)

// udpSize is the answer size that EDNS0 offers to take over UDP: it passes every
// usual link without fragments. Larger answers come over TCP, whose length field
// bounds them to 64 KiB.
const udpSize = 1232

// udpBuffer is what is read at once: some servers send more than they were offered.
const udpBuffer = 4096

// dnsQuestion is what one message asks. Its name ends with a dot.
type dnsQuestion struct {
	name  string
	qtype uint16
}

func (q dnsQuestion) String() string {
	return mdns.TypeToString[q.qtype] + " records of " + q.name
}

// refusal says in words why m, whose question it repeats, is no answer.
func refusal(m *mdns.Msg) string {
	var text string
	switch m.Rcode {
	case mdns.RcodeSuccess:
		text = "knows no answer and asks nobody else"
	case mdns.RcodeServerFailure:
		text = "SERVFAIL: it could not find out"
	case mdns.RcodeRefused:
		text = "REFUSED: it does not answer this for us"
	default:
		var ok bool
		if text, ok = mdns.RcodeToString[m.Rcode]; !ok {
			text = "response code " + strconv.Itoa(m.Rcode)
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, ok := o.(*mdns.EDNS0_EDE); ok { // the reason in more detail (RFC 8914)
				text += fmt.Sprintf(" (extended error %d: %s)", ede.InfoCode, mdns.ExtendedErrorCodeToString[ede.InfoCode])
				if ede.ExtraText != "" {
					text += fmt.Sprintf(": %.100q", ede.ExtraText)
				}
				break
			}
		}
	}
	return text
}

// isAnswer tells an answer from a failure and from a referral: nothing at all,
// from a server that has no authority over the name and does not recurse.
func isAnswer(m *mdns.Msg) bool {
	switch m.Rcode {
	case mdns.RcodeNameError:
		return true
	case mdns.RcodeSuccess:
		return m.Authoritative || m.RecursionAvailable || len(m.Answer) > 0
	}
	return false
}

// exchanger sends questions to servers and reads their answers.
type exchanger struct {
	permit  resolver.Permission   // for servers that targets name
	silent  expiringMap[struct{}] // servers that did not answer a while ago
	reading chan struct{}         // has room for as many long answers as are read at once
}

func newExchanger(permit resolver.Permission) *exchanger {
	return &exchanger{permit: permit, reading: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// attempt is how one server is asked once.
type attempt struct {
	server  string
	given   string // by which name a target names it; "" for one of the system's
	timeout time.Duration
	until   time.Time // how long to wait over UDP, where later than timeout
	edns    bool
}

// try asks one server once: over UDP, without EDNS0 if it does not know that
// (RFC 6891, section 6.2.2), and over TCP if the answer was cut.
func (x *exchanger) try(ctx context.Context, a attempt, q dnsQuestion) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	m.SetQuestion(q.name, q.qtype)
	m.RecursionDesired = true
	if a.edns {
		m.SetEdns0(udpSize, false)
	}
	reply, err := x.exchange(ctx, "udp", a, m)
	if err != nil {
		return nil, err
	}
	switch reply.Rcode {
	case mdns.RcodeFormatError, mdns.RcodeNotImplemented:
		if !a.edns {
			break
		}
		m.Extra = nil
		if reply, err = x.exchange(ctx, "udp", a, m); err != nil {
			return nil, err
		}
	}
	switch {
	case reply.Truncated:
		return x.exchange(ctx, "tcp", a, m)
	case mayBeCut(reply):
		return x.whole(ctx, a, m, reply), nil
	}
	return reply, nil
}

// mayBeCut tells whether m may lack records although it does not say so. Consul
// leaves out what does not fit and, by default, does not set TC: each time other
// instances. An answer from a cache has no authority, and is not asked for twice.
func mayBeCut(m *mdns.Msg) bool {
	const consulMin = 3 // Consul's udp_answer_limit: it always gives that many
	records := 0
	for _, rr := range m.Answer {
		if len(m.Question) > 0 && rr.Header().Rrtype == m.Question[0].Qtype {
			records++
		}
	}
	return m.Authoritative && records >= consulMin
}

// whole returns the answer to m over TCP, or reply if the server has none there.
func (x *exchanger) whole(ctx context.Context, a attempt, m, reply *mdns.Msg) *mdns.Msg {
	over := "tcp " + a.server
	if _, silent := x.silent.get(over); silent {
		return reply
	}
	whole, err := x.exchange(ctx, "tcp", a, m)
	switch {
	case err != nil && ctx.Err() == nil:
		x.silent.put(over, struct{}{}, shunFor)
		return reply
	case err != nil || !isAnswer(whole):
		return reply
	}
	return whole
}

// exchange sends m and returns the reply to it within the attempt's timeout. Its
// errors leave out the local port, so that one failure reads the same each time.
func (x *exchanger) exchange(ctx context.Context, network string, a attempt, m *mdns.Msg) (*mdns.Msg, error) {
	until := time.Now().Add(a.timeout)
	if network == "udp" && a.until.After(until) {
		until = a.until
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	var dialer net.Dialer
	if a.given != "" {
		dialer.ControlContext = x.permit.Control(a.given)
	}
	conn, err := selfconnect.DialContext(ctx, &dialer, network, a.server)
	if err != nil {
		return nil, a.cause(network, err)
	}
	defer conn.Close()
	// A read does not see ctx; a deadline in the past ends it at once.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	reply, size, err := converse(conn, network, m, func(packet []byte, into *mdns.Msg) error { return x.unpack(ctx, packet, into) })
	resolver.AllowanceOf(ctx).Owe(size)
	if err != nil {
		return nil, a.cause(network, err)
	}
	return reply, nil
}

// mostRecords is how many records of an answer are read: more than there may be endpoints
// in one, and aliases before them. A message has room for four thousand.
const mostRecords = 1100

// cut leaves out what is beyond mostRecords (RFC 1035, section 4.1.1: the counts of records
// in the answer, authority and additional sections are at 6, 8 and 10).
func cut(packet []byte) {
	const answers, authorities, header = 6, 8, 12
	if len(packet) >= header && binary.BigEndian.Uint16(packet[answers:]) > mostRecords {
		binary.BigEndian.PutUint16(packet[answers:], mostRecords)
		clear(packet[authorities:header]) // they stand behind the answers
	}
}

// longAnswer is of how many bytes an answer takes long to read: a millisecond or more.
const longAnswer = 4 << 10

// unpack reads a packet, no further than mostRecords. Long ones are read by half of the
// processors at most: hundreds may come at once, of servers that containers have named, and
// connections are not to wait until all are read.
func (x *exchanger) unpack(ctx context.Context, packet []byte, into *mdns.Msg) error {
	if len(packet) > longAnswer {
		select {
		case x.reading <- struct{}{}:
			defer func() { <-x.reading }()
		case <-ctx.Done():
			return errNotRead
		}
	}
	cut(packet)
	return into.Unpack(packet)
}

var errNotRead = errors.New("a long answer came, and was not read in time: too many others are")

// converse sends m over conn and returns the reply to it, which unpack reads, and how many
// bytes came.
func converse(conn net.Conn, network string, m *mdns.Msg, unpack func([]byte, *mdns.Msg) error) (reply *mdns.Msg, size int, err error) {
	wire := &mdns.Conn{Conn: conn, UDPSize: udpBuffer}
	if err := wire.WriteMsg(m); err != nil {
		return nil, 0, err
	}
	for {
		packet, err := wire.ReadMsgHeader(nil)
		if err != nil && !errors.Is(err, mdns.ErrShortRead) {
			return nil, size, err
		}
		size += len(packet)
		reply := new(mdns.Msg)
		if err == nil {
			err = unpack(packet, reply)
		}
		switch ours := isReply(reply, m); {
		case errors.Is(err, errNotRead):
			return nil, size, err
		case ours && (err == nil || reply.Truncated):
			return reply, size, nil
		case ours:
			return nil, size, fmt.Errorf("malformed answer: %w", err)
		case network == "tcp":
			return nil, size, errors.New("the answer is to another question")
		}
		// Over UDP anybody can send anything: wait on for the real reply.
	}
}

// isReply tells whether reply is to m: same ID and same question, which a server
// that could not read m may leave out.
func isReply(reply, m *mdns.Msg) bool {
	if !reply.Response || reply.Id != m.Id {
		return false
	}
	if len(reply.Question) == 0 {
		return reply.Rcode != mdns.RcodeSuccess && reply.Rcode != mdns.RcodeNameError
	}
	got, want := reply.Question[0], m.Question[0]
	return len(reply.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass &&
		mdns.CanonicalName(got.Name) == mdns.CanonicalName(want.Name)
}

// cause strips what package net adds to err: the addresses, which the caller
// knows, and the local port, which differs each time.
func (a attempt) cause(network string, err error) error {
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		return fmt.Errorf("no answer over %s within %v", network, a.timeout)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("over %s: %w", network, err)
}
