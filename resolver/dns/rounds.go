package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

const (
	// slowAfter is how long a server may take before the next one is asked beside it.
	slowAfter = time.Second
	// shunFor is how long a server that was silent is asked after the others.
	shunFor = 30 * time.Second
)

// askError says that no server gave an answer, and what each said instead.
type askError struct {
	question dnsQuestion
	failures []string
	// refused is set when every server did speak: another name may fare better.
	refused bool
}

func (e *askError) Error() string {
	return fmt.Sprintf("asking for %s: %s", e.question, strings.Join(e.failures, "; "))
}

// askServers puts q to up's servers in turn: to the next one as soon as one has failed, or has
// been silent for slowAfter, and what comes late from those before is an answer too. A server
// that refuses or fails is not asked again; one that is silent is, up to resolv.conf's
// attempts: every other time without EDNS0, which some firewalls swallow.
func (x *exchanger) askServers(ctx context.Context, up nameServers, q dnsQuestion) (*mdns.Msg, error) {
	asking, cancel := context.WithCancel(ctx)
	r := &rounds{exchanger: x, up: up, question: q, servers: x.inOrder(up.servers), outcomes: make(chan outcome)}
	defer func() { // what has not been answered by now
		cancel()
		for ; r.running > 0; r.running-- {
			<-r.outcomes
		}
	}()
	r.states = make([]serverState, len(r.servers))
	step := min(up.timeout, slowAfter)
	round := max(up.timeout, time.Duration(len(r.servers))*step) // before a server is asked again
	r.until = time.Now().Add(time.Duration(up.attempts-1)*round + time.Duration(len(r.servers)-1)*step + up.timeout)
	for n := range up.attempts {
		for i := range r.servers {
			if r.states[i].spoke {
				continue
			}
			r.start(asking, i, n%2 == 0)
			wait := step
			if i == len(r.servers)-1 {
				wait = round - time.Duration(i)*step
			}
			if n == up.attempts-1 && i == len(r.servers)-1 {
				wait = time.Until(r.until) + up.timeout // they end by themselves, one over TCP later
			}
			reply, err := r.await(ctx, wait, func() bool { return r.states[i].open == 0 })
			if reply != nil || err != nil {
				return reply, err
			}
		}
	}
	for r.running > 0 {
		reply, err := r.await(ctx, up.timeout, func() bool { return false })
		if reply != nil || err != nil {
			return reply, err
		}
	}
	if r.refused != nil {
		return nil, fmt.Errorf("asking for %s: %w", q, r.refused)
	}
	err := &askError{question: q, refused: true}
	for _, s := range r.states {
		err.failures = append(err.failures, s.failure)
		err.refused = err.refused && s.spoke
	}
	return nil, hint.Wrap(err, digHint(up, r.servers[0], q))
}

func digHint(up nameServers, server string, q dnsQuestion) string {
	origin := "the servers come from resolv.conf unless configured"
	if up.given != "" {
		origin = "the target names this server; leave it out to ask the system's"
	}
	host, port, _ := net.SplitHostPort(server) // upstream made it
	return fmt.Sprintf("compare with: dig @%s -p %s %s %s; %s", host, port, q.name, mdns.TypeToString[q.qtype], origin)
}

// inOrder returns servers with those that were silent a while ago last, so that a
// dead one does not hold up every question.
func (x *exchanger) inOrder(servers []string) []string {
	shunned := func(server string) int {
		if _, silent := x.silent.get(server); silent {
			return 1
		}
		return 0
	}
	return slices.SortedStableFunc(slices.Values(servers), func(a, b string) int { return shunned(a) - shunned(b) })
}

// rounds is a question on its way to several servers.
type rounds struct {
	exchanger *exchanger
	up        nameServers
	question  dnsQuestion
	servers   []string
	until     time.Time // when what is sent over UDP has been waited for long enough

	outcomes chan outcome
	running  int
	states   []serverState // in step with servers
	refused  *resolver.Refusal
}

// serverState is what is known of a server.
type serverState struct {
	open    int       // tries that it has not answered
	began   time.Time // the first of them
	spoke   bool      // it has answered, by a refusal
	failure string
}

// outcome is what became of a try.
type outcome struct {
	server int
	reply  *mdns.Msg
	err    error
}

// start asks a server once.
func (r *rounds) start(ctx context.Context, i int, edns bool) {
	if r.states[i].open == 0 {
		r.states[i].began = time.Now()
	}
	r.states[i].open++
	r.running++
	a := attempt{server: r.servers[i], given: r.up.given, timeout: r.up.timeout, until: r.until, edns: edns}
	go func() {
		o := outcome{server: i}
		defer func() {
			if p := recover(); p != nil { // over a hostile answer; nobody else sees it here
				o.err = fmt.Errorf("asking for %s panicked: %v\n%s", r.question, p, debug.Stack())
			}
			r.outcomes <- o
		}()
		o.reply, o.err = r.exchanger.try(ctx, a, r.question)
	}()
}

// await takes outcomes for so long, or until done, and returns the first answer.
func (r *rounds) await(ctx context.Context, wait time.Duration, done func() bool) (*mdns.Msg, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	for !done() && r.running > 0 {
		select {
		case o := <-r.outcomes:
			if reply := r.take(ctx, o); reply != nil {
				return reply, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		case <-over.C:
			return nil, nil //nolint:nilnil // no answer yet, and no error
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, nil //nolint:nilnil // likewise
}

// take notes an outcome, and returns the reply if it is an answer.
func (r *rounds) take(ctx context.Context, o outcome) *mdns.Msg {
	r.running--
	x, s, server := r.exchanger, &r.states[o.server], r.servers[o.server]
	s.open--
	if ctx.Err() != nil {
		return nil
	}
	if refusal, ok := errors.AsType[*resolver.Refusal](o.err); ok {
		r.refused, s.failure, s.spoke = refusal, fmt.Sprintf("%s: %v", server, o.err), true
		return nil
	}
	if o.err != nil {
		x.silent.put(server, struct{}{}, shunFor)
		if !s.spoke {
			s.failure = fmt.Sprintf("%s: %v", server, o.err)
		}
		return nil
	}
	x.silent.drop(server)
	if !isAnswer(o.reply) {
		s.failure, s.spoke = server+": "+refusal(o.reply), true
		return nil
	}
	for i, other := range r.states { // those that were asked before
		if i != o.server && other.open > 0 && time.Since(other.began) >= min(r.up.timeout, slowAfter) {
			x.silent.put(r.servers[i], struct{}{}, shunFor)
		}
	}
	return o.reply
}
