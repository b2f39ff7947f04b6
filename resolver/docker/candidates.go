package docker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// candidates are the containers that q means, in whatever state, by name. What a name means
// must not depend on who runs. The error, which carries a hint, says that q could mean
// several.
func candidates(s *dockerd.Snapshot, q query, scope dockerd.Scope) (matches []*dockerd.Container, err error) {
	asked := func(c *dockerd.Container) bool { return (q.project == "" || c.Project() == q.project) && q.labelled(c) }
	switch {
	case q.name == "": // one-off tasks serve nobody unless they are asked for by name
		matches = only(s.Containers(), func(c *dockerd.Container) bool { return !c.OneOff() && asked(c) })
	case q.project != "":
		// Within a project a name is that of its service: the container's own has the
		// project in it already.
		matches = only(s.Containers(), func(c *dockerd.Container) bool { return isInstance(c, q.name) && asked(c) })
	default:
		own := s.ByName(q.name)
		matches, err = named(s, q, scope, only(s.Containers(), func(c *dockerd.Container) bool {
			return (c == own || isInstance(c, q.name)) && asked(c)
		}))
	}
	slices.SortFunc(matches, byName)
	return matches, err
}

// named are those of all, which have the name of q themselves or as their service, that a
// client of that scope means: those of its own Compose project; else those on its own
// networks; else all. In each of the three the container's own name wins over a service's,
// even while it is stopped. A service is one project's: which of several is meant is not
// guessed.
func named(s *dockerd.Snapshot, q query, scope dockerd.Scope, all []*dockerd.Container) ([]*dockerd.Container, error) {
	near := only(all, func(c *dockerd.Container) bool { return scope.Shares(s, c) })
	mates := func(c *dockerd.Container) bool { return c.Project() == scope.Project }
	if scope.Project != "" {
		// Of which project it is a container says itself, on which networks it is the engine
		// does. So one that only says the first comes in only where the client shares no
		// network with any.
		for _, of := range [][]*dockerd.Container{only(near, mates), only(all, mates)} {
			if len(of) > 0 {
				return nameFirst(q, of), nil
			}
		}
	}
	where := "on the client's networks"
	if len(near) == 0 {
		near, where = all, "on this host"
	}
	return unique(q, nameFirst(q, near), where)
}

// nameFirst is the one of all that has the name of q itself, else all.
func nameFirst(q query, all []*dockerd.Container) []*dockerd.Container {
	if i := slices.IndexFunc(all, func(c *dockerd.Container) bool { return c.Name == q.name }); i >= 0 {
		return all[i : i+1]
	}
	return all
}

// unique is called, which have the name of q as their service or are one container, if they
// are of one project.
func unique(q query, called []*dockerd.Container, where string) ([]*dockerd.Container, error) {
	of := map[string]*dockerd.Container{} // the first of each, by what it belongs to
	for _, c := range called {
		if first := of[belongs(c)]; first == nil || byName(c, first) < 0 {
			of[belongs(c)] = c
		}
	}
	if len(of) <= 1 {
		return called, nil
	}
	firsts := make([]*dockerd.Container, 0, len(of))
	for _, c := range of {
		firsts = append(firsts, c)
	}
	slices.SortFunc(firsts, byName)
	var texts []string
	or := "a container by its name"
	for _, c := range firsts[:min(len(firsts), mostCandidates)] {
		texts = append(texts, fmt.Sprintf("%s of %s", shorten.Text(c.Name, maxShown), shorten.Text(belongs(c), maxShown)))
		if c.Project() == "" && c.Task {
			or = fmt.Sprintf("swarm://%s:%d, or %s", q.name, q.port, or)
		}
	}
	if more := len(firsts) - len(texts); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return nil, hint.Errorf(
		fmt.Sprintf("say which: docker://%s:%d?project=PROJECT, or %s", q.name, q.port, or), // not one of them, which could be a stranger's
		"%s is a service of more than one project %s: %s", q.name, where, strings.Join(texts, ", "))
}

const (
	// mostCandidates bounds how many meanings of a name an error lists.
	mostCandidates = 5
	// maxShown is how many bytes of a container's or a project's name it shows.
	maxShown = 64
)

// belongs is whose the service is that c is an instance of, for people too.
func belongs(c *dockerd.Container) string {
	switch {
	case c.Project() != "":
		return "project " + c.Project()
	case c.Task:
		return "Swarm"
	}
	return "no project"
}

// isInstance reports whether c is an instance of a service of that name.
func isInstance(c *dockerd.Container, name string) bool { return c.Service() == name && !c.OneOff() }

func only(all []*dockerd.Container, is func(*dockerd.Container) bool) []*dockerd.Container {
	var some []*dockerd.Container
	for _, c := range all {
		if is(c) {
			some = append(some, c)
		}
	}
	return some
}

func byName(a, b *dockerd.Container) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}

// labelled reports whether c has the labels of q.
func (q *query) labelled(c *dockerd.Container) bool {
	return !slices.ContainsFunc(q.labels, func(l label) bool { return !l.matches(c) })
}
