package route

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/proxyproto"
	"github.com/ambassadord/ambassadord/proxy"
	"github.com/ambassadord/ambassadord/proxy/limit"
	"github.com/ambassadord/ambassadord/resolver"
)

// serverSet is a target with its options. All bindings that say the same share it.
type serverSet struct {
	meaning string // the target as it was declared, and for whom (binding.Binding.Meaning)
	target  resolver.Target
	options option.Set
	carried proxy.Options
	balance balance.Options
	limit   *limit.Limit // nil without a limit of the target

	// shared is what holds for the target whoever asks for it, by layers, which a reload
	// replaces.
	shared option.Set
	layers atomic.Pointer[binding.Layers]

	// ownWay says that it is dialled otherwise than others dial the target, so that a
	// failure is no word on the endpoint.
	ownWay bool
	// patience is how long an endpoint must have been given to answer if it is to count as
	// its failure that it did not.
	patience time.Duration

	// last is shared by all serverSets of one target, which may share a pool, too.
	last *atomic.Pointer[answer]
	// pool is the balancer's, as long as that has not forgotten it.
	pool atomic.Pointer[balance.Pool]
}

// poolIn is the set's pool among pools.
func (set *serverSet) poolIn(pools Pools) *balance.Pool {
	pool := set.pool.Load()
	if pool == nil || pool.Forgotten() {
		pool = pools.Pool(set.meaning, set.balance)
		set.pool.Store(pool)
	}
	return pool
}

// answer is what was resolved last.
type answer struct {
	resolution *resolver.Resolution
	// given is the first resolution with these endpoints. By its pointer a pool knows
	// that nothing has changed, also while each resolution is another because some
	// source fails.
	given *resolver.Resolution
}

// setKey is what makes an serverSet.
type setKey struct {
	meaning string // of its bindings
	options option.Set
}

// serverSets are made when they are first needed, and forgotten with the last binding
// that says the same.
type serverSets struct {
	declared declared // what the clients of the last table have bound; keep's
	all      sync.Map // setKey → *serverSet
	resolved sync.Map // meaning → *atomic.Pointer[answer]

	// forgotten counts how often something was. Code that keeps a serverSet or a Limit asks
	// for it anew when that has changed, or it might not be the one that others share.
	forgotten atomic.Uint64

	mu      sync.Mutex
	limits  map[targetLimit]*limit.Limit
	clients map[clientLimit]*limit.Limit
	shares  map[shareKey]*limit.Share
	mayCome int // how many clients there may be
}

// targetLimit is a limit that several serverSets may share, whatever else their options
// say.
type targetLimit struct {
	target string
	bounds limit.Bounds
}

// clientLimit is whose connections by which port are limited.
type clientLimit struct {
	client string
	port   uint16
}

// of returns the serverSet of a binding. layers say what holds for the target whoever asks
// for it.
func (u *serverSets) of(b *binding.Binding, layers *binding.Layers) *serverSet {
	key := setKey{b.Meaning(), b.Options}
	known, ok := u.all.Load(key)
	if ok && known.(*serverSet).layers.Load() == layers {
		return known.(*serverSet)
	}
	shared := layers.Shared(b.Target)
	if ok && known.(*serverSet).shared == shared {
		known.(*serverSet).layers.Store(layers)
		return known.(*serverSet)
	}
	set := &serverSet{meaning: b.Meaning(), target: b.Target, options: b.Options, carried: carriedOptions(&b.Options), balance: balanceOptions(&b.Options), shared: shared}
	set.layers.Store(layers)
	set.ownWay = b.Options.Mark != shared.Mark || b.Options.SourceAddress != shared.SourceAddress || headerOf(&b.Options) != headerOf(&shared)
	set.patience = patienceFor(&b.Options, &shared)
	if b.Options.TargetLimit > 0 {
		set.limit = u.targetLimit(b)
	}
	last, _ := u.resolved.LoadOrStore(b.Meaning(), new(atomic.Pointer[answer]))
	set.last = last.(*atomic.Pointer[answer])
	if ok { // of what holds for all something else is said by now
		u.all.CompareAndSwap(key, known, set)
		return set
	}
	actual, _ := u.all.LoadOrStore(key, set)
	return actual.(*serverSet)
}

// header is what decides which PROXY header endpoints get.
type header struct {
	version option.ProxyProtocol
	tlvs    option.ProxyTLVs
	most    int
}

func headerOf(o *option.Set) header {
	return header{o.ProxyProtocol, o.ProxyProtocolTlvs, o.ProxyProtocolMax}
}

// leastPatience is the least time that an endpoint must have had.
const leastPatience = 500 * time.Millisecond

// patienceFor is how long an endpoint must have been given under the options own, where all
// others have shared: who gives it less than they do does not say for them that it fails.
func patienceFor(own, shared *option.Set) time.Duration {
	if own.AttemptTimeout >= shared.AttemptTimeout && own.Timeout >= shared.Timeout {
		return leastPatience
	}
	return max(leastPatience, min(shared.AttemptTimeout, shared.Timeout))
}

// targetFor is the target of b in canonical form and, where it means something else to each
// client, for whom.
func targetFor(b *binding.Binding) string {
	text := b.Target.String()
	for q := range b.Target.Queries() {
		if q.Client != "" { // the same in all that have one
			return text + " for " + q.Client
		}
	}
	return text
}

func (u *serverSets) targetLimit(b *binding.Binding) *limit.Limit {
	key := targetLimit{targetFor(b), limit.Bounds{
		Open: b.Options.TargetLimit, Queue: b.Options.Queue, Reserve: ReserveOf(b.Options.TargetLimit),
	}}
	u.mu.Lock()
	defer u.mu.Unlock()
	if l := u.limits[key]; l != nil {
		return l
	}
	if u.limits == nil {
		u.limits = map[targetLimit]*limit.Limit{}
	}
	l := limit.New("target "+b.Text, "raise the option target-limit, or give the target more endpoints and connections", key.bounds)
	l.SetClients(max(u.mayCome, 1))
	u.limits[key] = l
	return l
}

// limitsOf are what a connection of client by the binding b has to pass.
func (u *serverSets) limitsOf(set *serverSet, client, who, name string, b *binding.Binding) []*limit.Share {
	var limits []*limit.Share
	if limitsClients(&b.Options) {
		limits = append(limits, u.clientLimit(clientLimit{client, b.Port}, name, &b.Options).Alone())
	}
	if set.limit != nil {
		limits = append(limits, u.share(set.limit, who, name))
	}
	return limits
}

// limitsClients reports whether o limits each client.
func limitsClients(o *option.Set) bool { return o.ClientLimit > 0 || o.ClientRate > 0 }

// clientBounds are those to which o limits each client.
func clientBounds(o *option.Set) limit.Bounds {
	return limit.Bounds{Open: o.ClientLimit, Rate: o.ClientRate, Queue: o.Queue}
}

func (u *serverSets) clientLimit(key clientLimit, name string, o *option.Set) *limit.Limit {
	bounds := clientBounds(o)
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.clients[key]
	if l == nil {
		if u.clients == nil {
			u.clients = map[clientLimit]*limit.Limit{}
		}
		if len(u.clients) >= mostClients {
			u.sweep(nil)
		}
		l = limit.New(fmt.Sprintf("%s by port %d", name, key.port),
			fmt.Sprintf("look why it opens so many, or raise client-limit or client-rate of port %d; what labels may ask for, --limit and limits: say", key.port), bounds)
		u.clients[key] = l
	}
	l.Set(bounds)
	return l
}

// keep forgets what no client of table has bound any more, and reports whether the targets
// that clients have bound are others than before. Connections that use what is forgotten go
// on, and a listener makes its own anew. It is called by one goroutine.
func (u *serverSets) keep(table *identity.Table) (changed bool) {
	changed = u.declared.follow(table)
	forgotten := false
	limits := map[*limit.Limit]bool{}
	u.all.Range(func(key, set any) bool {
		if u.declared.sets[key.(setKey)] > 0 {
			limits[set.(*serverSet).limit] = true
		} else {
			u.all.Delete(key)
			forgotten = true
		}
		return true
	})
	u.resolved.Range(func(meaning, _ any) bool {
		if u.declared.meanings[meaning.(string)] == 0 {
			u.resolved.Delete(meaning)
			forgotten = true
		}
		return true
	})
	alive := make(map[string]bool, len(u.declared.clients))
	for _, c := range u.declared.clients {
		alive[c.Container.ShortID()] = true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	gone := map[*limit.Limit]bool{}
	for key, l := range u.limits {
		if !limits[l] && l.Idle() {
			delete(u.limits, key)
			gone[l] = true
			forgotten = true
		}
	}
	u.sweep(alive)
	u.sweepShares(alive, gone)
	if forgotten { // after the last: who looked before has seen what is gone
		u.forgotten.Add(1)
	}
	return changed
}

// mostClients is how many clients' limits are kept before those that are of no use
// are looked for: a listener's clients are addresses, of which there are many.
const mostClients = 4096

// sweep forgets the limits of clients that are not alive and have nothing left that
// counts. It is called with mu held.
func (u *serverSets) sweep(alive map[string]bool) {
	had := len(u.clients)
	for key, l := range u.clients {
		if !alive[key.client] && l.Idle() {
			delete(u.clients, key)
		}
	}
	if len(u.clients) < had {
		u.forgotten.Add(1)
	}
}

// choices are the endpoints of the set's target as the balancer wants them: where checks may find
// all of the choice that is used dead, those of the later choices of its chain, too.
func choices(set *serverSet, table *identity.Table, r *resolver.Resolution) []balance.Endpoint {
	all := candidates(table, 0, r.Endpoints)
	if set.balance.Check.Kind != balance.NoCheck {
		for i, later := range r.Fallbacks {
			all = append(all, candidates(table, 1+i, later)...)
		}
	}
	return all
}

// endpointsOf counts the endpoints of choices.
func endpointsOf(set *serverSet, r *resolver.Resolution) int {
	n := len(r.Endpoints)
	if set.balance.Check.Kind != balance.NoCheck {
		for _, later := range r.Fallbacks {
			n += len(later)
		}
	}
	return n
}

// candidates are endpoints of one choice as the balancer wants them; those of a container in table,
// which may be nil, are on this host.
func candidates(table *identity.Table, choice int, endpoints []resolver.Endpoint) []balance.Endpoint {
	out := make([]balance.Endpoint, len(endpoints))
	for i, e := range endpoints {
		out[i] = balance.Endpoint{Choice: choice, Addr: e.Addr, Name: e.Name, Priority: e.Priority, Weight: e.Weight, Distance: distanceOf(&e), Published: e.Published, Holder: e.Holder}
		if local(e.Addr.Addr()) || table != nil && table.At(e.Addr.Addr()) != nil {
			out[i].Distance = balance.SameHost
		}
	}
	return out
}

// local reports whether addr is surely this host's.
func local(addr netip.Addr) bool { return addr.Unmap().IsLoopback() }

func distanceOf(e *resolver.Endpoint) balance.Distance {
	switch e.Distance {
	case resolver.SameHost:
		return balance.SameHost
	case resolver.SameDatacenter:
		return balance.SameDatacenter
	case resolver.OtherDatacenter:
		return balance.Elsewhere
	}
	return balance.DistanceUnknown
}

func balanceOptions(o *option.Set) balance.Options {
	b := balance.Options{
		Policy: balance.Policy(o.Policy), PreferNear: o.Locality == option.LocalityPrefer, SlowStart: o.SlowStart,
		EjectAfter: o.EjectAfter, EjectFor: o.EjectFor, EjectForMax: o.EjectForMax, EjectMost: o.EjectMost,
	}
	if o.EjectMost == 0 { // nobody may be left out; to the balancer 0 is no limit
		b.EjectAfter = 0
		return b
	}
	switch o.Check {
	case option.CheckTCP:
		b.Check = balance.Check{Kind: balance.TCPCheck, Send: o.CheckSend, Expect: o.CheckExpect}
	case option.CheckHTTP:
		b.Check = balance.Check{Kind: balance.HTTPCheck, Path: o.CheckPath, Host: o.CheckHost}
	case option.CheckNone:
		return b
	}
	b.Check.Port, b.Check.Interval, b.Check.Timeout = o.CheckPort, o.CheckInterval, o.CheckTimeout
	b.Check.Jitter, b.Check.Rise, b.Check.Fall = o.CheckJitter, o.CheckRise, o.CheckFall
	if o.CheckPort == 0 { // another port is another server, which may expect no header
		switch o.ProxyProtocol {
		case option.ProxyV1:
			b.Check.Preface = proxyproto.Local(1)
		case option.ProxyV2:
			b.Check.Preface = proxyproto.Local(2)
		case option.ProxyOff:
		}
	}
	return b
}

func carriedOptions(o *option.Set) proxy.Options {
	p := proxy.Options{
		Timeout: o.Timeout, AttemptTimeout: o.AttemptTimeout, Hedge: o.Hedge, Wait: o.Wait,
		Replay: o.Retry == option.RetryFirstByte,
		Idle:   o.IdleTimeout, HalfClosed: o.HalfClosedTimeout, Lifetime: o.MaxLifetime, LifetimeJitter: o.MaxLifetimeJitter,
		KeepAlive: o.Keepalive, UserTimeout: o.UserTimeout,
		Source: o.SourceAddress.Addr, Mark: o.Mark,
	}
	if p.KeepAlive == 0 {
		p.KeepAlive = -1 // off; to the proxy 0 is what package net does
	}
	return p
}
