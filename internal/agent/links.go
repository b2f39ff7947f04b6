package agent

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
)

// engineTimeout is how long a command that needs the engine waits for it.
const engineTimeout = 10 * time.Second

// LinkListeners is what --links listens for: the link variables in env
// (KEY=VALUE items), or where the engine sets none, as on user networks and in
// newer engines, the links of our own container and the ports that the linked
// containers expose.
func LinkListeners(ctx context.Context, cfg config.Config, env []string, log *slog.Logger) ([]config.Listener, error) {
	if listeners := config.LinkListeners(env); len(listeners) > 0 {
		return listeners, nil
	}
	const fix = "link a container: docker run --link redis:redis … ambassadord --links"
	self, ok := dockerd.Self(ctx)
	if !ok {
		return nil, hint.Errorf(fix, "no link variables in the environment, and this is no container whose links could be asked for")
	}
	parts, err := build(cfg, self, nil, log)
	if err != nil {
		return nil, err
	}
	defer parts.close()
	var listeners []config.Listener
	err = withSnapshot(ctx, parts.docker, func(snapshot *dockerd.Snapshot) error {
		listeners = linkListeners(snapshot, self)
		return nil
	})
	switch {
	case err != nil:
		return nil, hint.Wrap(err, "mount the engine's socket: -v /var/run/docker.sock:/var/run/docker.sock")
	case len(listeners) == 0:
		return nil, hint.Errorf(fix, "this container has no links to containers that expose a port")
	}
	return listeners, nil
}

// linkListeners names linked containers by their aliases, which the engine's DNS
// and its hosts file resolve for us, live.
func linkListeners(snapshot *dockerd.Snapshot, self string) []config.Listener {
	me := snapshot.Get(self)
	if me == nil {
		return nil
	}
	links := slices.Clone(me.Links)
	for _, n := range me.Networks {
		links = append(links, n.Links...)
	}
	var aliases []config.Alias
	for _, l := range links {
		c := snapshot.ByName(l.Container)
		if c == nil {
			c = snapshot.Get(l.Container)
		}
		if c == nil {
			continue
		}
		for _, port := range c.ExposedPorts {
			aliases = append(aliases, config.Alias{Name: l.Alias, Port: port})
		}
	}
	return config.AliasListeners(aliases)
}
