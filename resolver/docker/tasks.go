package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/resolver"
)

// SchemeSwarm is the scheme of targets that name a service of Swarm.
const SchemeSwarm = "swarm"

// recheck is how often a manager is asked for tasks on other nodes.
const recheck = 10 * time.Second

// tasks follows one service. It is of one Watch.
type tasks struct {
	ask     func(ctx context.Context, service string) ([]dockerd.Task, error)
	service string

	known []dockerd.Task // by a manager, if this is one
	asked time.Time
}

// match answers q from a snapshot, and says after which time to look again. Which containers of
// this host are tasks, its engine says of each.
func (t *tasks) match(ctx context.Context, s *dockerd.Snapshot, q query, from dialOrigin) (a resolver.Answer, again time.Duration) {
	all := only(s.Containers(), func(c *dockerd.Container) bool {
		return c.Labels[dockerd.LabelSwarmService] == q.name && (c.Task || c.Running)
	})
	slices.SortFunc(all, byName)
	now := time.Now()
	if t.asked.IsZero() || now.Sub(t.asked) >= recheck {
		if known, err := t.ask(ctx, t.service); err == nil || errors.Is(err, dockerd.ErrNotManager) {
			t.known = known
		}
		t.asked = now
	}
	a = answerOf(s, only(all, func(c *dockerd.Container) bool { return c.Task && q.labelled(c) }), q, from)
	for _, c := range all {
		if !c.Task {
			a.LeftOut = append(a.LeftOut, resolver.LeftOut{Name: c.Name, Why: "has the labels of a task, and the engine says that it is none"})
		}
	}
	a.LeftOut = append(a.LeftOut, t.elsewhere(s)...)
	if len(a.Endpoints) == 0 && len(a.LeftOut) == 0 {
		a.Note = fmt.Sprintf("no task of a Swarm service named %s is on this host", q.name)
		a.Hint = "docker service ls lists the services; one whose tasks are on other nodes is reached by a port that it publishes: write NODE:PORT"
	}
	return a, recheck - now.Sub(t.asked)
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
