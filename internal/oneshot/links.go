package oneshot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/containerproc"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/sources"
)

// LinkListeners is what --links listens for: the link variables in env
// (KEY=VALUE items), and the links of our own container for which the engine sets none, as
// on user networks and since engine 29, with the ports that the linked containers declare.
// A link whose port cannot be known is logged, and is an error if there is nothing else.
func LinkListeners(ctx context.Context, cfg config.Config, env []string, log *slog.Logger) ([]config.Listener, error) {
	byVariables, have := config.LinkListeners(env), config.LinkVariables(env)
	if len(byVariables) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, sources.EngineTimeout/5) // there is something to serve
		defer cancel()
	}
	links, err := askForLinks(ctx, cfg, log)
	if err != nil {
		if len(byVariables) > 0 { // an engine that sets them sets them for every link of the default bridge
			log.Debug("links without variables were not looked for", "error", err)
			return byVariables, nil
		}
		return nil, err
	}
	var aliases []config.Alias
	var left []string
	var fix string
	for _, l := range links {
		if have[config.LinkVariable(l.alias)] {
			continue
		}
		if l.why != "" {
			fix = l.fix
			left = append(left, fmt.Sprintf("%s: %s", l.alias, l.why))
			log.Warn("a link is left out, for its ports are not known", "link", l.alias, "error", l.why, "hint", l.fix)
		}
		for _, port := range l.ports {
			aliases = append(aliases, config.Alias{Name: l.alias, Port: port})
		}
	}
	listeners := config.MergeListeners(byVariables, config.AliasListeners(aliases))
	switch {
	case len(listeners) > 0:
		return listeners, nil
	case len(left) > 0:
		return nil, hint.Errorf(fix, "no link has a port that is known: %s", strings.Join(left, "; "))
	}
	return nil, hint.Errorf(linkFix, "this container has no links")
}

const linkFix = "link a container: docker run --link redis:redis … ambassadord --links"

// portFix says how to name a port of a link.
func portFix(alias string) string {
	return fmt.Sprintf("start the linked container with --expose PORT, or name the port here: ambassadord run 6379=%s:6379", alias)
}

// linked is a linked container as the engine knows it.
type linked struct {
	alias string
	ports []uint16
	why   string // no port is known
	fix   string // what to do about that
}

// askForLinks asks the engine for the links of our own container.
func askForLinks(ctx context.Context, cfg config.Config, log *slog.Logger) ([]linked, error) {
	self, ok := containerproc.Self(ctx)
	if !ok {
		return nil, hint.Errorf(linkFix, "no link variables in the environment, and this is no container whose links could be asked for")
	}
	built, err := sources.Build(cfg, self, nil, log)
	if err != nil {
		return nil, err
	}
	defer built.Close()
	endpoint := built.Docker.Endpoint()
	if socket, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
			return nil, hint.Errorf(unaskedFix(hostsFile),
				"no link variables in the environment, and the engine cannot be asked for the links of this container: there is no socket at %s", socket)
		}
	}
	var links []linked
	err = built.WithSnapshot(ctx, func(snapshot *dockerd.Snapshot) error {
		if snapshot.Get(self) == nil {
			return hint.Errorf("mount the socket of the engine that runs this container", "the engine at %s does not know this container, %s", endpoint, self[:12])
		}
		links = linksOf(snapshot, self)
		return nil
	})
	if err != nil && hint.Of(err) == "" {
		err = hint.Wrap(err, unaskedFix(hostsFile))
	}
	return links, err
}

const hostsFile = "/etc/hosts"

// unaskedFix says what to do where the engine is out of reach. The links of the default
// bridge stand in the file hosts, without their ports.
func unaskedFix(hosts string) string {
	fix := "engines since 29 set no link variables, nor does any on user networks: mount the engine's socket, -v /var/run/docker.sock:/var/run/docker.sock, or name each port: ambassadord run 6379=ALIAS:6379"
	if names := linkedIn(hosts); len(names) > 0 {
		fix += "; names in " + hostsFile + " that may be links: " + strings.Join(names, ", ")
	}
	return fix
}

// linkedIn are the first names of those lines of a hosts file that are neither a loopback
// address's nor our own container's, at most ten.
func linkedIn(hosts string) (names []string) {
	const most, longest = 10, 1 << 16
	file, err := os.Open(hosts)
	if err != nil {
		return nil
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, longest))
	for lines.Scan() && len(names) < most {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		own := slices.Contains(fields[1:], containerproc.Hostname())
		if err == nil && !addr.IsLoopback() && !addr.IsMulticast() && !addr.IsUnspecified() && !own &&
			!strings.HasPrefix(fields[1], "ip6-") && !slices.Contains(names, fields[1]) {
			names = append(names, fields[1])
		}
	}
	return names
}

// linkListeners names linked containers by their aliases, which the engine's DNS
// and its hosts file resolve for us, live.
func linkListeners(snapshot *dockerd.Snapshot, self string) []config.Listener {
	var aliases []config.Alias
	for _, l := range linksOf(snapshot, self) {
		for _, port := range l.ports {
			aliases = append(aliases, config.Alias{Name: l.alias, Port: port})
		}
	}
	return config.AliasListeners(aliases)
}

// linksOf are the links of a container on all its networks.
func linksOf(snapshot *dockerd.Snapshot, self string) []linked {
	me := snapshot.Get(self)
	if me == nil {
		return nil
	}
	links := slices.Clone(me.Links)
	for _, n := range me.Networks {
		links = append(links, n.Links...)
	}
	var all []linked
	for _, l := range links {
		one := linked{alias: l.Alias, fix: portFix(l.Alias)}
		c := snapshot.ByName(l.Container)
		if c == nil {
			c = snapshot.Get(l.Container)
		}
		switch {
		case c == nil:
			one.why = fmt.Sprintf("the engine knows no container %q any more", l.Container)
			one.fix = "start it again, and then this container"
		case len(c.ExposedPorts) == 0:
			one.why = fmt.Sprintf("container %s declares no TCP port, neither by EXPOSE in its image nor by --expose or -p", c.Name)
		default:
			one.ports = c.ExposedPorts
		}
		all = append(all, one)
	}
	return all
}
