package resolver

import (
	"context"
	"io"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// readsAtOnce is how many answers are read as a whole for one owner at a time.
const readsAtOnce = 4

// Allowance is what one watch may cost its owners. A Source finds its own in the context
// of Watch and tells it what it reads and keeps; the Resolver counts the answers that are
// published. A nil Allowance allows everything, as does that of the operator's targets.
type Allowance struct {
	shares *shares
	owners *atomic.Pointer[[]*account]

	mu     sync.Mutex
	answer charge // what is published
	kept   charge // what the source keeps
}

// charge is what is counted, and for whom.
type charge struct {
	of *account
	n  int64
}

type allowanceKey struct{}

// AllowanceOf returns the Allowance of the watch that ctx is of, nil if it is of none.
func AllowanceOf(ctx context.Context) *Allowance {
	a, _ := ctx.Value(allowanceKey{}).(*Allowance)
	return a
}

// all are the owners, none when nothing is to be counted.
func (a *Allowance) all() []*account {
	if a == nil {
		return nil
	}
	if owners := a.owners.Load(); owners != nil {
		return *owners
	}
	return nil
}

// Limited reports whether what the watch costs is counted: a client wants it, and
// not the operator.
func (a *Allowance) Limited() bool { return len(a.all()) > 0 }

// Read returns body as it may be read: what has been is counted until it is closed, and
// reading waits when the owner has had too much read lately. each is what a '{' of the
// body counts for beside its bytes, since the objects that a decoder makes of a few bytes
// are large. The error of a Read past an owner's share carries a hint.
func (a *Allowance) Read(ctx context.Context, body io.ReadCloser, each int) io.ReadCloser {
	if !a.Limited() {
		return body
	}
	return &countedBody{body: body, ctx: ctx, allowance: a, each: each}
}

type countedBody struct {
	body      io.ReadCloser
	ctx       context.Context //nolint:containedctx // that of the request whose answer it is
	allowance *Allowance
	each      int

	mu      sync.Mutex // Close comes from another goroutine when a request is given up
	charged []charge
	err     error
}

func (c *countedBody) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	p = p[:min(len(p), 16<<10)]
	n, err := c.body.Read(p)
	cost := n
	for _, b := range p[:n] {
		if b == '{' {
			cost += c.each
		}
	}
	if counted := c.count(cost); counted != nil {
		c.err = counted
		return 0, counted
	}
	return n, err
}

// count counts what was read, and waits if that was too quick.
func (c *countedBody) count(cost int) error {
	owners := c.allowance.all()
	if len(owners) == 0 || cost == 0 {
		return nil
	}
	of, err := c.allowance.shares.take(owners, int64(cost))
	if err != nil {
		return err
	}
	c.mu.Lock()
	if last := len(c.charged) - 1; last >= 0 && c.charged[last].of == of {
		c.charged[last].n += int64(cost)
	} else {
		c.charged = append(c.charged, charge{of, int64(cost)})
	}
	c.mu.Unlock()
	return spend(c.ctx, owners, cost)
}

// Close closes the body; what was read of it is no longer counted.
func (c *countedBody) Close() error {
	c.mu.Lock()
	charged := c.charged
	c.charged = nil
	c.mu.Unlock()
	for _, one := range charged {
		c.allowance.shares.give(one.of, one.n)
	}
	return c.body.Close()
}

// Spend waits until as many bytes may be read for one of the owners again. It is for
// sources that learn how much they have read only afterwards, or whose questions cost more
// than their answers. It fails with ctx.
func (a *Allowance) Spend(ctx context.Context, n int) error {
	if owners := a.all(); len(owners) > 0 {
		return spend(ctx, owners, n)
	}
	return nil
}

// Owe counts n bytes that have been read already: the next watch that spends waits for them, too.
func (a *Allowance) Owe(n int) {
	owners := a.all()
	if len(owners) == 0 || n <= 0 {
		return
	}
	if soonest := mayRead(owners, n); soonest != nil {
		soonest.reading.ReserveN(time.Now(), min(n, soonest.reading.Burst()))
	}
}

// spend takes n bytes of an owner that may have them read at once, and else of the one that may
// soonest: what the others have read meanwhile is no reason for a watch of theirs all to wait.
func spend(ctx context.Context, owners []*account, n int) error {
	for n > 0 {
		some := min(n, owners[0].reading.Burst())
		n -= some
		soonest := mayRead(owners, some)
		if soonest == nil {
			continue
		}
		switch err := soonest.reading.WaitN(ctx, some); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil: // it would take longer than ctx goes on
			return hint.Errorf("let it declare fewer targets, or ones with shorter answers",
				"the registries that client %.64s wants asked have too much to say: %d KiB a second are read for it", soonest.owner, soonest.reading.Burst()>>10)
		}
	}
	return nil
}

// mayRead takes n bytes of the first that may have them read now; it returns nil then, and
// else the one that may soonest.
func mayRead(owners []*account, n int) (soonest *account) {
	most, now := math.Inf(-1), time.Now()
	for _, a := range owners {
		if a.reading.AllowN(now, n) {
			return nil
		}
		if tokens := a.reading.TokensAt(now); tokens > most {
			most, soonest = tokens, a
		}
	}
	return soonest
}

// Turn waits until one more answer may be read as a whole for one of the owners, each of
// which has four at a time. end gives the turn back. It fails with ctx.
func (a *Allowance) Turn(ctx context.Context) (end func(), err error) {
	owners := a.all()
	if len(owners) == 0 {
		return func() {}, nil
	}
	cases := make([]reflect.SelectCase, 1, 1+len(owners))
	cases[0] = reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())}
	for _, of := range owners {
		select {
		case of.turns <- struct{}{}:
			return sync.OnceFunc(func() { <-of.turns }), nil
		default:
		}
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectSend, Chan: reflect.ValueOf(of.turns), Send: reflect.ValueOf(struct{}{})})
	}
	chosen, _, _ := reflect.Select(cases) // of the owner that has one first
	if chosen == 0 {
		return nil, ctx.Err()
	}
	turns := owners[chosen-1].turns
	return sync.OnceFunc(func() { <-turns }), nil
}

// Wait counts a connection that the watch holds while it waits for a change, until leave is
// called; false says that its owner holds as many as it may, and the watch is to ask
// again from time to time instead.
func (a *Allowance) Wait() (leave func(), ok bool) {
	owners := a.all()
	if len(owners) == 0 {
		return func() {}, true
	}
	for _, of := range owners {
		select {
		case of.waiting <- struct{}{}:
			return sync.OnceFunc(func() { <-of.waiting }), true
		default:
		}
	}
	return nil, false
}

// Keep says how many bytes the source keeps for the watch from now on. The error says
// that this is past the owner's share, and carries a hint; then nothing counts as kept.
func (a *Allowance) Keep(n int) error { return a.recount(false, int64(n)) }

// Server says that the watch asks a server of the owner's own choice, until leave is
// called. The error says that it has too many of them asked, and carries a hint.
func (a *Allowance) Server(address string) (leave func(), err error) {
	owners := a.all()
	if len(owners) == 0 {
		return func() {}, nil
	}
	of, err := a.shares.server(owners, address)
	if err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() { a.shares.leaveServer(of, address) }), nil
}

// publish counts an answer in place of the one before it.
func (a *Allowance) publish(answer *Answer) error { return a.recount(true, sizeOf(answer)) }

func (a *Allowance) recount(answer bool, n int64) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	place := &a.kept
	if answer {
		place = &a.answer
	}
	a.shares.give(place.of, place.n)
	*place = charge{}
	owners := a.all()
	if len(owners) == 0 || n == 0 {
		return nil
	}
	of, err := a.shares.take(owners, n)
	if err != nil {
		return err
	}
	*place = charge{of, n}
	return nil
}

// end gives back all that is counted.
func (a *Allowance) end() {
	_ = a.recount(true, 0)
	_ = a.recount(false, 0)
}

// sizeOf is about how many bytes an answer takes.
func sizeOf(a *Answer) int64 {
	const perEndpoint, perLeftOut = 128, 48
	n := len(a.Note) + len(a.Hint) + len(a.Endpoints)*perEndpoint + len(a.LeftOut)*perLeftOut
	for i := range a.Endpoints {
		n += len(a.Endpoints[i].Name) + len(a.Endpoints[i].Host) + len(a.Endpoints[i].Health)
	}
	for _, l := range a.LeftOut {
		n += len(l.Name) + len(l.Addr) + len(l.Why)
	}
	return int64(n)
}
