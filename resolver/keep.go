package resolver

import (
	"context"
	"errors"
	"slices"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// kept is what is declared now. It is replaced, never changed.
type kept struct {
	queries  map[Query][]*account // and whose each is; the operator's is nobody's
	refusals []refusal            // of those who declare more than they may have
}

// refused is why q, which is not kept, is not watched; nil if nobody was refused it.
func (k *kept) refused(q Query) error {
	if len(k.refusals) == 0 {
		return nil
	}
	hash := hashOf(q)
	var unlisted error // of a client that has more than are listed
	for _, r := range k.refusals {
		if r.of.has(hash) {
			return r.err
		}
		if r.of.more {
			unlisted = r.err
		}
	}
	return unlisted
}

func (k *kept) has(q Query) bool {
	_, ok := k.queries[q]
	return ok
}

// Keep says which targets are declared now, by the operator and by clients: their watches
// start at once, so that a first connection finds an answer, and do not stop for idleness.
// Those of a client that has more than its share fail, with a reason. A target is to be
// kept before the first connection asks for it.
func (r *Resolver) Keep(operator []Target, clients ...Owned) {
	var now kept
	now.queries, now.refusals = r.shares.assign(operator, clients)
	r.kept.Store(&now)
	<-r.running
	for q, owners := range now.queries {
		r.declare(r.watch(q, nil), owners)
	}
	if r.count.Load() > int64(len(now.queries)+unownedWatches) {
		r.stopUnowned(&now)
	}
}

// stopUnowned stops the watches that were used the longest ago of those that somebody has
// declared and nobody does any more, when they are too many to wait for their idleness.
func (r *Resolver) stopUnowned(now *kept) {
	var left []*watch
	r.watches.Range(func(_, value any) bool {
		if w := value.(*watch); !now.has(w.query) && w.owners.Load() != nil {
			left = append(left, w)
		}
		return true
	})
	slices.SortFunc(left, func(a, b *watch) int { return b.usedAt().Compare(a.usedAt()) })
	for _, w := range left[min(len(left), unownedWatches):] {
		r.forget(w)
	}
}

// wanted reports whether anybody declares what w watches, or what led to it. A name in an answer is
// wanted as long as one of those declares anything.
func (r *Resolver) wanted(w *watch) bool {
	owners := w.owners.Load()
	return r.kept.Load().has(w.query) || w.looksUp && owners != nil && r.shares.declares(*owners)
}

// forget stops a watch.
func (r *Resolver) forget(w *watch) {
	if r.watches.CompareAndDelete(w.query, w) {
		w.stop() // which wakes those who wait for it
	}
}

// watching returns the running watch of q, nil if there is none. It takes no lock.
func (r *Resolver) watching(q Query, _ *watch) *watch {
	if w, ok := r.watches.Load(q); ok {
		return w.(*watch)
	}
	return nil
}

// watch returns the running watch of q, and starts it if there is none: on behalf of those
// who declare it, or of the owners of by, whose answer has it.
func (r *Resolver) watch(q Query, by *watch) *watch {
	if known, ok := r.watches.Load(q); ok {
		w := known.(*watch)
		if w.isAnothers(by) {
			r.lend(w, by)
		}
		return w
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w, ok := r.watches.Load(q); ok {
		return w.(*watch)
	}
	w := newWatch(q, &r.options, r.log)
	source, ok := r.sources[q.Scheme]
	switch {
	case !ok:
		w.fail(hint.Errorf("this is a defect; please report it", "no source for scheme %q", q.Scheme), true)
		return w
	case r.ctx.Err() != nil:
		w.fail(errors.New("the resolver has stopped"), true)
		return w
	}
	w.wanted = r.wanted
	lookup, err := r.ownersOf(w, by)
	if err != nil { // each connection that wants it tells; nothing has happened that the log should
		w.state.Store(&state{err: err, failed: w.created, failing: w.created, standing: true})
		return w
	}
	var ctx context.Context
	ctx, w.stop = context.WithCancel(r.ctx)
	w.allowance = &Allowance{shares: r.shares, owners: &w.owners}
	r.watches.Store(q, w)
	r.count.Add(1)
	r.wg.Go(func() {
		w.run(ctx, source, &r.registries, r.turns[q.Scheme])
		r.count.Add(-1)
		r.shares.endLookup(lookup)
	})
	return w
}

// ownersOf notes in w whose it is, and returns for whom it is counted as a lookup of a
// name in an answer, if it is one.
func (r *Resolver) ownersOf(w, by *watch) (lookup *account, err error) {
	now := r.kept.Load()
	if owners, ok := now.queries[w.query]; ok {
		w.owners.Store(&owners)
		if w.isAnothers(by) {
			w.lend(by)
		}
		return nil, nil
	}
	if by == nil {
		return nil, now.refused(w.query)
	}
	// Others may have been refused that name: whose answer it is in has done nothing.
	owners := by.owners.Load()
	if owners == nil {
		return nil, nil
	}
	w.owners.Store(owners)
	w.looksUp = true
	return r.shares.lookup(*owners)
}

// mostLenders bounds the owners of answers for whom a name is looked up, beside those who
// declare it.
const mostLenders = 64

// isAnothers reports whether the answer of by, which has the name that w looks up, is of
// somebody else than w is: then what those do with their share must not take w away.
func (w *watch) isAnothers(by *watch) bool {
	if by == nil {
		return false
	}
	of, others := w.owners.Load(), by.owners.Load()
	switch {
	case of == nil || len(*of) == 0 || of == others: // the operator's is counted for nobody
		return false
	case others == nil || len(*others) == 0:
		return true
	}
	return slices.ContainsFunc(*others, func(a *account) bool { return !slices.Contains(*of, a) })
}

func (r *Resolver) lend(w, by *watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.lend(by)
}

// lend has w be of the owners of by, too. It is called with the Resolver's mu held.
func (w *watch) lend(by *watch) {
	others := by.owners.Load()
	if others == nil || len(*others) == 0 {
		w.free, w.lenders = true, nil
		w.owners.Store(&[]*account{})
		return
	}
	all := *w.owners.Load()
	for _, a := range *others {
		if len(w.lenders) < mostLenders && !slices.Contains(all, a) {
			w.lenders = append(w.lenders, a)
			all = append(all[:len(all):len(all)], a)
		}
	}
	w.owners.Store(&all)
}

// declare has w be of those who declare it, none for the operator, beside those in whose
// answers it is.
func (r *Resolver) declare(w *watch, owners []*account) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.free {
		owners = nil
	}
	if len(owners) > 0 {
		owners = owners[:len(owners):len(owners)]
		for _, a := range w.lenders {
			if !slices.Contains(owners, a) {
				owners = append(owners, a)
			}
		}
	}
	if known := w.owners.Load(); known == nil || !slices.Equal(*known, owners) {
		w.owners.Store(&owners)
	}
}
