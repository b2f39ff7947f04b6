package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/proxy/limit"
)

// Client is the opener of a connection, as the log names it.
type Client struct {
	// Name is a container's name, or an address when it is no container.
	Name string
	// ID is the container's short ID; "" when it is no container.
	ID string
	// Service is the Compose or Swarm service, "" if none.
	Service string
	// Project is the Compose project, "" if none.
	Project string
}

// ClientAddr is the address by which clients that are no containers are told apart: of
// IPv6 a network of 64 bits, since each host may have as many addresses as that has, and
// of the loopback networks one address.
func ClientAddr(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.IsLoopback():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case addr.Is6():
		const network = 64
		prefix, err := addr.Prefix(network)
		if err != nil {
			return addr // which 64 bits of an IPv6 address cannot do
		}
		return prefix.Addr()
	}
	return addr
}

// Endpoint is a place to dial.
type Endpoint struct {
	Addr netip.AddrPort
	// Name is for people: a container's name, a service instance's ID.
	Name string
}

// Verdict is told what became of the use of an endpoint, once: Failed, Cancelled, or
// Opened and after it Closed.
type Verdict interface {
	// Endpoint is the one that is used.
	Endpoint() Endpoint
	// Failed says that the endpoint did not answer.
	Failed(err error)
	// Cancelled says that it was given up before that was known.
	Cancelled()
	// Opened says that it answered.
	Opened()
	// Closed says that the connection has ended: whether a byte came from the
	// endpoint, and whether the endpoint reset it.
	Closed(answered, reset bool)
}

// unjudged is the Verdict on an endpoint of which nobody wants to know.
type unjudged struct{ endpoint Endpoint }

// Endpoint is the one that is used.
func (u *unjudged) Endpoint() Endpoint { return u.endpoint }

// Failed tells nobody.
func (*unjudged) Failed(error) {}

// Cancelled tells nobody.
func (*unjudged) Cancelled() {}

// Opened tells nobody.
func (*unjudged) Opened() {}

// Closed tells nobody.
func (*unjudged) Closed(_, _ bool) {}

// Attempt is an endpoint to be dialled now.
type Attempt struct {
	Endpoint
	// Left is how many endpoints are left to try in this round, with this one.
	Left int
	// Verdict is told what became of it; nil means nobody is.
	Verdict Verdict
}

// verdict is the Verdict, whether somebody wants to know of it or not.
func (a *Attempt) verdict() Verdict {
	if a.Verdict != nil {
		return a.Verdict
	}
	return &unjudged{a.Endpoint}
}

func (a *Attempt) failed(err error) {
	if a.Verdict != nil {
		a.Verdict.Failed(err)
	}
}

func (a *Attempt) cancelled() {
	if a.Verdict != nil {
		a.Verdict.Cancelled()
	}
}

func (a *Attempt) opened() {
	if a.Verdict != nil {
		a.Verdict.Opened()
	}
}

func (a *Attempt) closed(answered, reset bool) {
	if a.Verdict != nil {
		a.Verdict.Closed(answered, reset)
	}
}

// Chooser chooses the endpoints of one connection, in rounds in which each is tried
// at most once. Changed may be called while another method runs, the others from one
// goroutine at a time.
type Chooser interface {
	// TryRefresh is Refresh where that need not wait and finds somebody; false means
	// that Refresh is to be called.
	TryRefresh() bool
	// Refresh begins a round with the endpoints that serve the target now; it may wait for
	// that to be known. The error is a *Failure that says why there is nobody.
	Refresh(ctx context.Context) error
	// Next names the endpoint to dial next; false when the round is over.
	Next() (Attempt, bool)
	// Changed blocks until another round may find somebody else than this one did, or
	// until ctx ends.
	Changed(ctx context.Context)
}

// Passer is a Chooser that passes endpoints over.
type Passer interface {
	Chooser
	// PassedOver is a *Failure that says why some were passed over in this round: Denied if
	// the client may not dial them; nil if none was.
	PassedOver() error
}

// Reresolver is a Chooser that can have the target's endpoints asked for anew.
type Reresolver interface {
	Chooser
	// Reresolve is called when all endpoints of a round have failed to answer, and again and again
	// while the last of them is silent. It may wait for the answer, and reports whether another
	// round finds others.
	Reresolve(ctx context.Context) bool
}

// Options is how a connection is to be carried. Durations are off at 0 unless said
// otherwise.
type Options struct {
	// Timeout bounds the search for an endpoint that answers, over all attempts and
	// what is waited in between. 0 means 10 s.
	Timeout time.Duration
	// AttemptTimeout bounds one attempt while other endpoints are left to try. 0
	// means 1.5 s: enough for one lost SYN, which is sent again after 1 s
	// (RFC 6298).
	AttemptTimeout time.Duration
	// Hedge is after how long a second endpoint is dialled beside one that has not
	// answered yet.
	Hedge time.Duration
	// Replay sends what a client has sent to the next endpoint when a connection ends
	// before the endpoint's first byte. An endpoint may have acted on it by then.
	Replay bool
	// Wait is how long after its accept, or Route.Known, a connection is held while nobody
	// answers.
	Wait time.Duration
	// Idle resets a connection on which nothing moved for so long.
	Idle time.Duration
	// HalfClosed resets a connection so long after one of its streams has ended.
	HalfClosed time.Duration
	// Lifetime resets a connection that is so old.
	Lifetime time.Duration
	// LifetimeJitter is by how many percent of it, at most, a connection ends earlier, at random.
	LifetimeJitter int
	// KeepAlive is how long a connection is silent before it is probed, and between
	// probes (tcp(7), TCP_KEEPIDLE and TCP_KEEPINTVL). 0 means 15 s, as package net has it, less
	// than 0 never.
	KeepAlive time.Duration
	// UserTimeout is how long what was sent may stay unacknowledged (tcp(7),
	// TCP_USER_TIMEOUT). 0 leaves it to the kernel.
	UserTimeout time.Duration
	// Source is the address from which endpoints are dialled; invalid means the
	// kernel's choice.
	Source netip.Addr
	// Transparent lets Source be an address that is not this host's (ip(7),
	// IP_TRANSPARENT).
	Transparent bool
	// Mark is set on connections to endpoints (socket(7), SO_MARK) unless it is 0.
	Mark uint32
}

// Route is the answer for one connection.
type Route struct {
	Client Client
	// Port is the port that the client dialled.
	Port uint16
	// Target is the binding's target as it was declared.
	Target string
	// Endpoints chooses whom to dial.
	Endpoints Chooser
	// Options is how to do it.
	Options Options
	// Share is the client's of the server's Limit, which is passed first; nil is the share
	// of all who have none.
	Share *limit.Share
	// Known is when it became known whose the connection is, where that took so long that it
	// is to be held from then on; zero means since it was accepted.
	Known time.Time
	// Limits are passed after it in this order, before an endpoint is chosen. A connection
	// that waits for one of them has its place of the server's all the while.
	Limits []*limit.Share
	// Preface is sent to the endpoint ahead of what the client sends.
	Preface []byte
	// Read is how many bytes of the client's stream the Router has taken.
	Read int
	// Dial opens a connection to one of Endpoints; nil means the server's way.
	Dial func(ctx context.Context, addr netip.AddrPort) (*net.TCPConn, error)
	// Opened is called when an endpoint has answered, with the Verdict on it and what cuts
	// the connection off for a reason of the Router's; closed is called at its end. nil means that
	// nobody wants to.
	Opened func(v Verdict, cut func(error)) (closed func())
	// Ended is called when the connection has ended, served or not; nil
	// means nobody waits for that.
	Ended func()
}

// way is a Route in the words of an error about a loop that it is a part of.
type way Route

// String says whose connection it is, and where it goes.
func (w *way) String() string {
	if w.Target == "" { // nobody declares the port: it was dialled where it was meant for
		return fmt.Sprintf("%s, port %d, which is not declared", shortened(w.Client.Name), w.Port)
	}
	return fmt.Sprintf("%s, port %d → target %s", shortened(w.Client.Name), w.Port, shortened(w.Target))
}

// shortened keeps what a container may choose from filling the log.
func shortened(text string) string { return shorten.Text(text, 128) }

// Router finds the route of a connection. On failure it returns as much of the
// route as it knows, for the log, and a *Failure. It must not write to the
// connection, and read no more than Route.Read says.
type Router interface {
	Route(ctx context.Context, conn *net.TCPConn) (Route, error)
}

// Accepted is a connection that nobody has read from yet.
type Accepted struct {
	FD     int            // its socket, which stays the server's
	Source netip.AddrPort // the client's address
}

// NonBlockingRouter is a Router that can say most routes without waiting. RouteNow must not wait, nor
// read or write: it is called by a loop that carries other connections, too. It returns a
// Route that many connections may share, so that nobody changes it, without Endpoints,
// and the Chooser of this one. nil means that Route is to be called, which also says why
// there is none.
type NonBlockingRouter interface {
	Router
	RouteNow(conn Accepted) (*Route, Chooser)
}

// RouterFunc is a function as a Router.
type RouterFunc func(ctx context.Context, conn *net.TCPConn) (Route, error)

// Route calls f.
func (f RouterFunc) Route(ctx context.Context, conn *net.TCPConn) (Route, error) { return f(ctx, conn) }

// Record is what is said of one connection when it has ended.
type Record struct {
	Route    Route
	Source   netip.AddrPort // the client's address
	Endpoint Endpoint       // the one that answered; zero if none did
	Attempts int            // endpoints dialled
	Held     time.Duration  // from accept until an endpoint had answered, or none had
	Up       int64          // bytes from client to endpoint
	Down     int64          // bytes from endpoint to client
	Duration time.Duration  // from accept to the end
	Ended    time.Time      // when that was
	Err      error          // nil, or a *Failure
	Told     Told           // of all this, by Server.Moved
}

// InOrder chooses endpoints in the order in which they are given, and nobody else.
func InOrder(endpoints ...Endpoint) Chooser { return &inOrder{all: endpoints} }

type inOrder struct{ all, left []Endpoint }

// Refresh begins anew.
func (o *inOrder) Refresh(context.Context) error {
	o.left = o.all
	return nil
}

// TryRefresh begins anew.
func (o *inOrder) TryRefresh() bool {
	o.left = o.all
	return len(o.left) > 0
}

// Next is the next in order.
func (o *inOrder) Next() (Attempt, bool) {
	if len(o.left) == 0 {
		return Attempt{}, false
	}
	a := Attempt{Endpoint: o.left[0], Left: len(o.left)}
	o.left = o.left[1:]
	return a, true
}

// Changed waits in vain.
func (o *inOrder) Changed(ctx context.Context) { <-ctx.Done() }
