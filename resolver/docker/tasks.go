package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/backoff"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
)

// SchemeSwarm is the scheme of targets that name a service of Swarm.
const SchemeSwarm = "swarm"

const (
	// A container that says it is a task is asked about again after leastRecheck, then ever
	// later, up to recheck: a manager hears of a task's container a moment after it has
	// started. At recheck it is asked at the latest, for tasks on other nodes.
	leastRecheck = 100 * time.Millisecond
	recheck      = 10 * time.Second
)

// tasks follows one service. Which containers are its tasks, a manager of the swarm knows;
// their labels anybody can have. It is of one Watch.
type tasks struct {
	ask     func(ctx context.Context, service string) ([]dockerd.Task, error)
	service string

	known   []dockerd.Task
	worker  bool            // labels have to do
	unknown map[string]bool // by ID: those that were asked about and are not known as tasks
	pauses  backoff.Backoff // before the next question about these
	nextAsk time.Time       // not before
	asked   time.Time
}

// match answers q from a snapshot, and says after which time to look again.
func (t *tasks) match(ctx context.Context, s *dockerd.Snapshot, q query, from place) (a resolver.Answer, again time.Duration) {
	all := only(s.Containers(), func(c *dockerd.Container) bool {
		return c.Labels[dockerd.LabelSwarmService] == q.name && q.labelled(c)
	})
	slices.SortFunc(all, byName)
	strangers := func() []*dockerd.Container {
		return only(all, func(c *dockerd.Container) bool { return c.Running && !t.knows(c) })
	}
	now, unknown := time.Now(), strangers()
	// Another one is asked about at once, whoever else there is that is not known.
	if slices.ContainsFunc(unknown, func(c *dockerd.Container) bool { return !t.unknown[c.ID] }) {
		t.pauses.Reset()
		t.nextAsk = now
	}
	if now.Sub(t.asked) >= recheck || len(unknown) > 0 && !now.Before(t.nextAsk) {
		t.refresh(ctx, now)
		unknown = strangers()
	}
	again, t.unknown = recheck-now.Sub(t.asked), map[string]bool{}
	for _, c := range unknown {
		t.unknown[c.ID] = true
		again = min(again, max(t.nextAsk.Sub(now), leastRecheck))
	}
	a = answerOf(s, only(all, func(c *dockerd.Container) bool { return !c.Running || t.knows(c) }), q, from)
	for _, c := range unknown {
		a.LeftOut = append(a.LeftOut, resolver.LeftOut{Name: c.Name, Why: "has the labels of a task, and Swarm has not said that it is one"})
	}
	a.LeftOut = append(a.LeftOut, t.elsewhere(s)...)
	if len(a.Endpoints) == 0 && len(a.LeftOut) == 0 {
		a.Note = fmt.Sprintf("no task of a Swarm service named %s is on this host", q.name)
		a.Hint = "docker service ls lists the services; one whose tasks are on other nodes is reached by a port that it publishes: write NODE:PORT"
	}
	return a, again
}

// knows reports whether c is a task.
func (t *tasks) knows(c *dockerd.Container) bool {
	return t.worker || slices.ContainsFunc(t.known, func(k dockerd.Task) bool { return k.Container == c.ID })
}

// refresh asks which are the tasks. If that fails, those that were known are.
func (t *tasks) refresh(ctx context.Context, now time.Time) {
	known, err := t.ask(ctx, t.service)
	t.worker = errors.Is(err, dockerd.ErrNotManager)
	if err == nil || t.worker {
		t.known = known
	}
	t.asked, t.nextAsk = now, now.Add(t.pauses.Next())
}

// elsewhere are the tasks that run on other nodes.
func (t *tasks) elsewhere(s *dockerd.Snapshot) []resolver.LeftOut {
	own := map[string]bool{} // our own node, whose tasks are seen a moment later than a manager knows them
	for _, k := range t.known {
		if c := s.Get(k.Container); c != nil {
			own[c.Labels[dockerd.LabelSwarmNode]] = true
		}
	}
	var out []resolver.LeftOut
	for _, k := range t.known {
		if own[k.Node] || k.State != "running" || k.Container == "" || s.Get(k.Container) != nil {
			continue
		}
		out = append(out, resolver.LeftOut{
			Name: fmt.Sprintf("%s.%d", t.service, k.Slot),
			Why:  fmt.Sprintf("is on the node %.12s, to whose containers this host has no way: publish a port of the service and write NODE:PORT", k.Node),
		})
	}
	return out
}
