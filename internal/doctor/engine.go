package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/netrules/filter"
	"github.com/ambassadord/ambassadord/resolver"
)

func checkEngine(ctx context.Context, h *environment) Result {
	watcher, err := dockerd.New(dockerd.Config{Endpoint: h.DockerHost})
	if err != nil {
		return broken(err)
	}
	info, err := watcher.Info(ctx)
	if err != nil {
		return broken(err)
	}
	var variant netrules.Variant
	if rules, err := filter.Open(ctx, h.Rules); err == nil && h.needsRules() {
		variant = rules.Variant()
	}
	return judgeEngine(info, variant)
}

// judgeEngine takes "" for the variant where no rules of ours are needed.
func judgeEngine(info dockerd.Info, variant netrules.Variant) Result {
	if info.Podman { // it says nothing of its firewall, and its containers need no daemon
		return ok("Podman, version %s, API %s, %s running; containers outlive its service",
			info.Version, info.APIVersion, shorten.Count(info.Running, "container", "containers"))
	}
	restore := "containers end with it (live-restore is off)"
	if info.LiveRestore {
		restore = "containers outlive it (live-restore is on)"
	}
	r := ok("version %s, API %s, firewall by %s, %s running; %s",
		info.Version, info.APIVersion, info.FirewallBackend, shorten.Count(info.Running, "container", "containers"), restore)
	if variant == netrules.IPTablesLegacy && strings.HasPrefix(info.FirewallBackend, "nftables") {
		r.Status = Warn
		r.Hint = "use --rules nft, or the nft variant: update-alternatives --config iptables (and ip6tables)"
		r.Summary += "; our iptables is of variant legacy"
	}
	return r
}

// exposure counts running containers.
type exposure struct {
	running   int
	declaring int    // those that declare a port, and so are worth pretending to be
	raw       int    // those that hold NET_RAW, whether they declare anything or not
	example   string // the last of these
}

func checkRawPackets(ctx context.Context, h *environment) Result {
	snapshot, err := h.snapshot(ctx)
	if err != nil {
		return undone(err)
	}
	return judgeExposure(expose(snapshot.Containers()), h.modes)
}

func expose(containers []*dockerd.Container) exposure {
	// The declaring containers matter here, not their targets: any will do.
	parse := func(string) (resolver.Target, error) { return resolver.Target{}, nil }
	var e exposure
	for _, c := range containers {
		if !c.Running {
			continue
		}
		e.running++
		if len(binding.Read(binding.Declarer{Name: c.Name, Labels: c.Labels, Env: c.Env}, nil, parse).Ports()) > 0 {
			e.declaring++
		}
		if c.NetRaw {
			e.raw++
			e.example = c.Name
		}
	}
	return e
}

func judgeExposure(e exposure, modes []config.Mode) Result {
	summary := fmt.Sprintf("%d of %s can send packets with any source address (NET_RAW)", e.raw, shorten.Count(e.running, "running container", "running containers"))
	switch {
	case e.declaring == 0:
		return ok("no running container declares anything")
	case e.raw == 0:
		return ok("%s", summary)
	case slices.Contains(modes, config.Link):
		return warn("start them with --cap-drop NET_RAW, or use mode redirect",
			"%s, %s among them; mode link cannot tell them from who they pretend to be", summary, e.example)
	case slices.Contains(modes, config.Host):
		return ok("%s; mode host guards against that, see bridge-filter", summary)
	}
	return ok("%s; %s does not go by source addresses", summary, modeNames(modes))
}

// checkJoinedNetworks looks for containers that share the network of one that has another by now.
func checkJoinedNetworks(ctx context.Context, h *environment) Result {
	snapshot, err := h.snapshot(ctx)
	if err != nil {
		return undone(err)
	}
	var all []dockerd.Left
	joined := 0
	for _, c := range snapshot.Containers() {
		if c.Running && c.Joins() {
			joined++
		}
		if left, is := snapshot.Left(c); is {
			all = append(all, left)
		}
	}
	return judgeLeft(all, joined)
}

// judgeLeft takes how many containers join others' networks, and those that are left behind.
func judgeLeft(left []dockerd.Left, joined int) Result {
	if len(left) == 0 {
		return ok("%s the network of another, as it is now", shorten.Count(joined, "container shares", "containers share"))
	}
	first := left[0]
	return warn(first.Fix(), "%d of %d containers that share the network of another have loopback alone: of %s, %s",
		len(left), joined, first.Container.Name, first.Why())
}

// snapshot asks the engine for all containers, once.
func (h *environment) snapshot(ctx context.Context) (*dockerd.Snapshot, error) {
	watcher, err := dockerd.New(dockerd.Config{Endpoint: h.DockerHost})
	if err != nil {
		return nil, err
	}
	// A watcher waits for an engine that is away; this one is not to.
	if _, err := watcher.Info(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = watcher.Run(ctx) }() // returns nil, when ctx ends
	defer func() { cancel(); <-done }()
	snapshot, err := watcher.Wait(ctx, nil)
	if err != nil {
		if cause := watcher.Err(); cause != nil {
			return nil, cause
		}
		return nil, errors.New("the engine did not list its containers in time")
	}
	return snapshot, nil
}
