package identity

import (
	"cmp"
	"slices"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/status"
)

// Report is part of status.Reporter: the clients, and what they declare.
func (t *Table) Report(s *status.Snapshot) {
	if t == nil {
		return
	}
	owners := map[string]string{}
	overruled := map[*Client][]Overruled{}
	for _, n := range t.Namespaces() {
		for _, c := range n.Clients {
			owners[c.Container.ID] = n.Owner.ShortID()
		}
		for _, o := range n.Overruled {
			overruled[o.Client] = append(overruled[o.Client], o)
		}
	}
	clients := t.Clients()
	s.Containers = slices.Grow(s.Containers, len(clients))
	for _, c := range clients {
		one := status.Container{
			Name: c.Container.Name, ID: c.Container.ShortID(), Project: c.Container.Labels[dockerd.LabelProject], Service: c.Container.Service(),
			Namespace: owners[c.Container.ID], Bindings: make([]status.Binding, 0, c.Bindings.Len()), Mistakes: c.Bindings.Mistakes,
		}
		for b := range c.Bindings.Each() {
			bound := status.Binding{Port: b.Port, Target: b.Text, Meaning: b.Meaning(), Origin: b.Origin}
			if b.Problem != nil {
				bound.Problem = b.Problem.Error()
			}
			for _, o := range overruled[c] {
				if o.Problem.Origin == b.Origin {
					bound.Overruled = o.Problem.Error()
				}
			}
			one.Bindings = append(one.Bindings, bound)
		}
		for _, p := range c.Bindings.Problems {
			one.Problems = append(one.Problems, status.Problem{Origin: p.Origin, Error: p.Err.Error(), Hint: hint.Of(p.Err)})
		}
		s.Containers = append(s.Containers, one)
	}
	slices.SortFunc(s.Containers, func(a, b status.Container) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
}
