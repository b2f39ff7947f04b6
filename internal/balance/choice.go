package balance

// Choice is the choosing for one connection. It is not for use by several
// goroutines at once.
type Choice struct {
	pool   *Pool
	client uint64
	tried  tried

	reporter *Reporter
}

// Choose begins the choosing of a connection of client, which is who keeps an
// endpoint under policy Source: a container's ID, an address.
func (p *Pool) Choose(client string) Choice {
	p.touch()
	c := Choice{pool: p}
	if p.options.Policy == Source {
		c.client = hashText(client)
	}
	return c
}

// ChooseFor is Choose for a client that is known: what one client alone says of an endpoint
// that answers holds for that client.
func (p *Pool) ChooseFor(r *Reporter) Choice {
	if snap := p.current(); snap.out > 0 {
		p.pardon(snap, r)
	}
	c := p.Choose(r.Key)
	c.reporter = r
	return c
}

// pardon ends the ejections that one client alone has reported, if r is another.
func (p *Pool) pardon(snap *snapshot, r *Reporter) {
	for i := range snap.members {
		h := snap.members[i].health
		if e := h.ejection.Load(); e != nil && e.alone != "" && e.alone != r.Key {
			h.pardon(e)
		}
	}
}

// Next returns the best endpoint that has not been tried in this round, and false
// when all have been. Those who are well come first, by priority, then distance if
// the pool prefers the near, then policy. Those who are out come after them, in case
// that is an error. It returns the endpoints of now: it sees what other
// connections learn meanwhile.
//
// In each group an ejected endpoint whose time is over comes before all others, to
// one connection, which is its probe.
func (c *Choice) Next() (Use, bool) {
	snap := c.pool.current()
	for i := range snap.groups {
		g := &snap.groups[i]
		if len(g.halfOpen) > 0 {
			if u, ok := c.probe(g); ok {
				return u, true
			}
		}
		if at := g.pick(c); at >= 0 {
			return c.use(g.well[at]), true
		}
	}
	if snap.out > 0 { // in a panic these are an operator's
		for i := range snap.groups {
			out := snap.groups[i].out
			if at := scan(out, nil, &c.tried, -1); at >= 0 {
				return c.use(out[at]), true
			}
		}
	}
	return Use{}, false
}

// Left is how many endpoints Next has still to offer in this round, as it looks now.
func (c *Choice) Left() int {
	return max(0, len(c.pool.snapshot.Load().members)-c.tried.n)
}

// Drained is how many endpoints Next does not offer because an operator has drained them.
func (c *Choice) Drained() int { return c.pool.snapshot.Load().drained }

// Again begins a new round: every endpoint may be tried once more.
func (c *Choice) Again() { c.tried = tried{} }

func (c *Choice) use(m *member) Use {
	c.tried.add(m.health)
	m.health.load.Add(1)
	u := Use{shared: m.shared, mark: m.health.mark.Load(), reporter: c.reporter}
	if m.check != nil {
		u.deaths = m.check.deaths.Load()
	}
	return u
}

// probe makes this connection the probe of one of g's, if one needs one.
func (c *Choice) probe(g *group) (Use, bool) {
	now, rival := c.pool.registry.now(), g.rival(c) // once for all: each looks at all who are well
	for _, m := range g.halfOpen {
		e := m.health.ejection.Load()
		if e == nil || c.tried.has(m.health) || !g.wouldPick(c, m, rival) || !e.claim(now) {
			continue
		}
		u := c.use(m)
		u.probe = e
		return u, true
	}
	return Use{}, false
}

// tried is a small set: nearly always it is empty, or has one.
type tried struct {
	n    int
	few  [4]*health
	many map[*health]struct{} // all of them, once there are more
}

func (t *tried) add(h *health) {
	if t.has(h) {
		return
	}
	if t.n < len(t.few) {
		t.few[t.n] = h
	} else {
		if t.many == nil {
			t.many = make(map[*health]struct{})
			for _, h := range t.few {
				t.many[h] = struct{}{}
			}
		}
		t.many[h] = struct{}{}
	}
	t.n++
}

func (t *tried) has(h *health) bool {
	if t.many != nil {
		_, ok := t.many[h]
		return ok
	}
	for i := range t.n {
		if t.few[i] == h {
			return true
		}
	}
	return false
}
