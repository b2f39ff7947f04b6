package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// udpSize is the answer size that EDNS0 offers to take over UDP: it passes every
// usual link without fragments. Larger answers come over TCP, whose length field
// bounds them to 64 KiB.
const udpSize = 1232

// question is what one message asks. Its name ends with a dot.
type question struct {
	name  string
	qtype uint16
}

func (q question) String() string {
	return mdns.TypeToString[q.qtype] + " records of " + q.name
}

// askError says that no server gave an answer, and what each said instead.
type askError struct {
	question question
	failures []string
	// refused is set when every server did speak: another name may fare better.
	refused bool
}

func (e *askError) Error() string {
	return fmt.Sprintf("asking for %s: %s", e.question, strings.Join(e.failures, "; "))
}

// servers are host:port, in the order to ask.
func (c *Client) servers(conf *mdns.ClientConfig) []string {
	servers := c.config.Servers
	if len(servers) == 0 {
		servers = conf.Servers
	}
	if len(servers) == 0 { // resolv.conf(5): the default is the local machine
		servers = []string{"127.0.0.1"}
	}
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s
		if _, _, err := net.SplitHostPort(s); err != nil {
			addrs[i] = net.JoinHostPort(strings.Trim(s, "[]"), "53")
		}
	}
	return addrs
}

// ask puts q to the servers in turn and returns the first answer: records, or
// that there are none. A server that refuses or fails is not asked again; one
// that is silent is, up to resolv.conf's attempts.
func (c *Client) ask(ctx context.Context, conf *mdns.ClientConfig, q question) (*mdns.Msg, error) {
	servers := c.servers(conf)
	failures := make([]string, len(servers))
	spoke := make([]bool, len(servers))
	for range max(1, conf.Attempts) {
		for i, server := range servers {
			if spoke[i] {
				continue
			}
			reply, err := c.try(ctx, server, q)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			switch {
			case err != nil:
				failures[i] = fmt.Sprintf("%s: %v", server, err)
			case isAnswer(reply):
				return reply, nil
			case reply.Rcode == mdns.RcodeSuccess:
				failures[i], spoke[i] = server+": knows no answer and asks nobody else", true
			default:
				failures[i], spoke[i] = server+": "+rcodeText(reply.Rcode), true
			}
		}
	}
	err := &askError{question: q, failures: failures, refused: true}
	for _, s := range spoke {
		err.refused = err.refused && s
	}
	return nil, hint.Wrap(err, digHint(servers[0], q))
}

func digHint(server string, q question) string {
	host, port, _ := net.SplitHostPort(server) // servers made it
	return fmt.Sprintf("compare with: dig @%s -p %s %s %s; the servers come from resolv.conf unless configured",
		host, port, q.name, mdns.TypeToString[q.qtype])
}

func rcodeText(rcode int) string {
	if text, ok := mdns.RcodeToString[rcode]; ok {
		return text
	}
	return "response code " + strconv.Itoa(rcode)
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

// try asks one server once: over UDP, without EDNS0 if it does not know that
// (RFC 6891, section 6.2.2), and over TCP if the answer was cut.
func (c *Client) try(ctx context.Context, server string, q question) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	m.SetQuestion(q.name, q.qtype)
	m.RecursionDesired = true
	m.SetEdns0(udpSize, false)
	reply, err := c.exchange(ctx, "udp", server, m)
	if err != nil {
		return nil, err
	}
	switch reply.Rcode {
	case mdns.RcodeFormatError, mdns.RcodeNotImplemented:
		m.Extra = nil
		if reply, err = c.exchange(ctx, "udp", server, m); err != nil {
			return nil, err
		}
	}
	if reply.Truncated {
		return c.exchange(ctx, "tcp", server, m)
	}
	return reply, nil
}

// exchange sends m and returns the reply to it within the configured timeout.
// Its errors leave out the local port, so that one failure reads the same each
// time.
func (c *Client) exchange(ctx context.Context, network, server string, m *mdns.Msg) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return nil, c.cause(network, err)
	}
	defer conn.Close()
	// A read does not see ctx; a deadline in the past ends it at once.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	wire := &mdns.Conn{Conn: conn, UDPSize: udpSize}
	if err := wire.WriteMsg(m); err != nil {
		return nil, c.cause(network, err)
	}
	for {
		packet, err := wire.ReadMsgHeader(nil)
		if err != nil && !errors.Is(err, mdns.ErrShortRead) {
			return nil, c.cause(network, err)
		}
		reply := new(mdns.Msg)
		if err == nil {
			err = reply.Unpack(packet)
		}
		switch ours := isReply(reply, m); {
		case ours && (err == nil || reply.Truncated):
			return reply, nil
		case ours:
			return nil, fmt.Errorf("malformed answer over %s: %w", network, err)
		case network == "tcp":
			return nil, errors.New("the answer over tcp is to another question")
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
func (c *Client) cause(network string, err error) error {
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		return fmt.Errorf("no answer over %s within %v", network, c.config.Timeout)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("over %s: %w", network, err)
}
