package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/status"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

const (
	// mostNamed bounds how many containers an error names.
	mostNamed = 5
	// maxName is how many bytes of a name it shows.
	maxName = 64
)

// find is the container that ref means: its name, the beginning of its ID, or the service of Compose
// or Swarm of which it is the only instance, or the only one that runs. PROJECT/SERVICE names that of one project.
func find(s *dockerd.Snapshot, ref string) (*dockerd.Container, error) {
	if c := s.Find(ref); c != nil {
		return c, nil
	}
	project, service, of := strings.Cut(ref, "/")
	if !of {
		project, service = "", ref
	}
	var all, running []*dockerd.Container
	for _, c := range s.Containers() {
		if c.Service() != service || service == "" || c.OneOff() || of && c.Project() != project {
			continue
		}
		all = append(all, c)
		if c.Running {
			running = append(running, c)
		}
	}
	if len(running) > 0 {
		all = running
	}
	switch {
	case len(all) == 0:
		return nil, unknown(s, ref)
	case len(all) == 1 || !severalProjects(all): // instances of a service are alike
		slices.SortFunc(all, func(a, b *dockerd.Container) int { return strings.Compare(a.Name, b.Name) })
		return all[0], nil
	}
	var names, choices []string
	for _, c := range all[:min(len(all), mostNamed)] {
		names = append(names, fmt.Sprintf("%s of project %s", shorten.Text(c.Name, maxName), shorten.Text(c.Project(), maxName)))
		if choice := shorten.Text(c.Project(), maxName) + "/" + shorten.Text(service, maxName); !slices.Contains(choices, choice) {
			choices = append(choices, choice)
		}
	}
	return nil, hint.Errorf("say which: ambassadord explain "+strings.Join(choices, ", or ")+", or a container's name",
		"%s is a service of more than one project: %s", shorten.Text(ref, maxName), strings.Join(names, ", "))
}

func severalProjects(all []*dockerd.Container) bool {
	return slices.ContainsFunc(all, func(c *dockerd.Container) bool { return c.Project() != all[0].Project() })
}

// unknown says that there is no such container, and which may have been meant.
func unknown(s *dockerd.Snapshot, ref string) error {
	var names []string
	for _, c := range s.Containers() {
		names = append(names, c.Name)
		if service := c.Service(); service != "" {
			names = append(names, service)
		}
	}
	return noSuch(ref, names)
}

func noSuch(ref string, names []string) error {
	fix := "docker ps -a lists the containers; give a name, the beginning of an ID, or a service of Compose"
	if meant := suggest.Closest(ref, names); meant != "" {
		fix = "did you mean " + shorten.Text(meant, maxName) + "?"
	}
	return hint.Errorf(fix, "there is no container %s", shorten.Text(ref, maxName))
}

// findKnown is find among those that the daemon knows, for when the engine does not answer.
func findKnown(v *status.View, ref string) (*status.Container, error) {
	var names []string
	var found *status.Container
	for i := range v.Containers {
		c := &v.Containers[i]
		switch {
		case c.Name == ref:
			return c, nil
		case found == nil && (c.Service == ref || len(ref) >= 4 && strings.HasPrefix(c.ID, ref) || len(ref) > len(c.ID) && strings.HasPrefix(ref, c.ID)):
			found = c
		}
		names = append(names, c.Name)
	}
	if found == nil {
		return nil, noSuch(ref, names)
	}
	return found, nil
}
