package daemon

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
)

// maxTold is how many lines about its declarations one container gets at a time. Whoever
// has made many mistakes mends the first of them first.
const maxTold = 10

// problemLog tells the log of the mistakes in what containers declare. One goroutine uses it.
type problemLog struct {
	log  *slog.Logger
	told map[string]binding.Set // by container ID: of which the log has told
	left map[string]toldLeft    // likewise: of those that are left behind
}

func newProblems(log *slog.Logger) *problemLog {
	return &problemLog{log: log, told: map[string]binding.Set{}}
}

// tell tells of the mistakes in the declarations of table's clients, of each once: not again
// when its container is started again as it was. previous is the table before, nil if there was none.
func (p *problemLog) tell(previous, table *identity.Table) {
	for id := range p.told {
		if !table.Has(id) {
			delete(p.told, id)
		}
	}
	for _, c := range table.Clients() {
		before, told := p.told[c.Container.ID]
		if told && before.Same(c.Bindings) {
			continue
		}
		p.told[c.Container.ID] = c.Bindings
		p.tellOf(c, untold(c.Bindings.Problems, before.Problems), c.Bindings.Mistakes)
		if !told && c.Bindings.Len() > 0 && c.Container.NetworkMode == "host" {
			p.log.Warn("declaration", "client", c.Container.Name, "id", c.Container.ShortID(),
				"error", "its network is the host's, where nothing is redirected", "hint", "give it a network of its own")
		}
	}
	p.tellLeft(table)
	for _, n := range table.Namespaces() {
		var before *identity.Namespace
		if previous != nil {
			before = previous.Owned(n.Owner.ID)
		}
		if before != n && len(n.Overruled) > 0 {
			p.tellOverruled(before, n)
		}
	}
}

// toldLeft is what was told of one that is left behind, since it was started.
type toldLeft struct {
	since time.Time
	whys  []string
}

// tellLeft tells of containers that are left in a network namespace that another one had,
// once of each, if that concerns us.
func (p *problemLog) tellLeft(table *identity.Table) {
	known := p.left
	p.left = map[string]toldLeft{}
	for _, left := range table.Left() {
		c := left.Container
		told := known[c.ID]
		if !told.since.Equal(c.StartedAt) {
			told = toldLeft{since: c.StartedAt}
		}
		fresh := !slices.Contains(told.whys, left.Why())
		if fresh {
			told.whys = append(told.whys, left.Why())
		}
		p.left[c.ID] = told
		if !fresh {
			continue
		}
		declares := table.Client(c.ID).Bindings.Len() > 0
		if !declares && (left.Owner == nil || !table.Declares(left.Owner.ID)) {
			continue
		}
		of := "what it dials is refused"
		if n := table.Owned(c.ID); declares && n != nil && n.LeftBehind() {
			of = "what it declares itself is served"
		} else if declares && c.Netns != 0 {
			of = "what it declares itself is served, as far as others there do not declare it"
		}
		p.log.Warn("a container is left in a network namespace that is nobody's", "client", c.Name, "id", c.ShortID(),
			"error", left.Why()+"; it has loopback alone, and "+of, "hint", left.Fix())
	}
}

// tellOverruled tells of the declarations of n that do not hold and, in before, which may
// be nil, were none of these.
func (p *problemLog) tellOverruled(before, n *identity.Namespace) {
	known := map[string][]*binding.Problem{}
	if before != nil {
		for _, o := range before.Overruled {
			known[o.Client.Container.ID] = append(known[o.Client.Container.ID], o.Problem)
		}
	}
	for at := 0; at < len(n.Overruled); {
		c := n.Overruled[at].Client
		var problems []*binding.Problem
		for ; at < len(n.Overruled) && n.Overruled[at].Client == c; at++ {
			problems = append(problems, n.Overruled[at].Problem)
		}
		p.tellOf(c, untold(problems, known[c.Container.ID]), len(problems))
	}
}

// untold are those of problems that before does not have.
func untold(problems, before []*binding.Problem) []*binding.Problem {
	if len(before) == 0 || len(problems) == 0 {
		return problems
	}
	said := make(map[string]bool, len(before))
	for _, p := range before {
		said[p.Error()] = true
	}
	var fresh []*binding.Problem
	for _, p := range problems {
		if !said[p.Error()] {
			fresh = append(fresh, p)
		}
	}
	return fresh
}

// tellOf writes a line for each of the first of problems, and one that says how many more of
// all there are.
func (p *problemLog) tellOf(c *identity.Client, problems []*binding.Problem, all int) {
	for i, one := range problems {
		if i == maxTold-1 && len(problems) > maxTold {
			name := c.Container.Name
			p.log.Warn("declaration", "client", name, "id", c.Container.ShortID(),
				"error", fmt.Sprintf("%d more problems with its declarations", max(all, len(problems))-i),
				"hint", "mend those above first; all that it declares is in: docker inspect "+name)
			return
		}
		p.log.Warn("declaration", "client", c.Container.Name, "id", c.Container.ShortID(),
			"origin", one.Origin, "error", one.Err, hint.Attr(one.Err))
	}
}
