package doctor

import (
	"context"
	"slices"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/mode"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/resolver"
)

func checkRuntimes(ctx context.Context, h *environment) Result {
	snapshot, err := h.snapshot(ctx)
	if err != nil {
		return undone(err)
	}
	watcher, err := dockerd.New(dockerd.Config{Endpoint: h.DockerHost})
	if err != nil {
		return broken(err)
	}
	known, err := watcher.Runtimes(ctx)
	if err != nil {
		return undone(err)
	}
	return judgeRuntimes(snapshot.Containers(), known, h.modes)
}

// judgeRuntimes looks for running containers that declare something, and whose runtime has a
// network stack of its own.
func judgeRuntimes(containers []*dockerd.Container, known map[string]ociruntime.Runtime, modes []config.Mode) Result {
	// The declaring containers matter here, not their targets: any will do.
	parse := func(string) (resolver.Target, error) { return resolver.Target{}, nil }
	i := slices.IndexFunc(modes, func(m config.Mode) bool { return mode.Of(m).Enters })
	count, first, kind := 0, (*dockerd.Container)(nil), ""
	for _, c := range containers {
		runtime := known[c.Runtime]
		runtime.Name = c.Runtime
		k := runtime.OwnStack()
		if !c.Running || k == "" || len(binding.Read(binding.Declarer{Name: c.Name, Labels: c.Labels, Env: c.Env}, nil, parse).Ports()) == 0 {
			continue
		}
		if count++; first == nil {
			first, kind = c, k
		}
	}
	having := shorten.Count(count, "container with a network stack of its own", "containers with a network stack of their own")
	switch {
	case count == 0:
		return ok("no running container that declares something has a network stack of its own")
	case i < 0:
		return ok("served by source addresses: %s, %s among them (%s)", having, first.Name, kind)
	}
	err := ociruntime.OwnStackError(first.Runtime, kind, string(modes[i]))
	return warn(hint.Of(err), "%s cannot be served by mode %s, %s among them: %v", having, modes[i], first.Name, err)
}
