package dockerd

import (
	"cmp"
	"context"
	"encoding/json"
	"net/url"
	"slices"

	"github.com/ambassadord/ambassadord/internal/ociruntime"
)

// Info is what an engine says of itself.
type Info struct {
	// Podman says that it is Podman, behind its Docker-compatible socket.
	Podman bool
	// Version is the engine's, as "28.2.2"; APIVersion the newest it speaks, "1.50".
	Version, APIVersion string
	// FirewallBackend is what the engine makes its own rules with: "iptables" or
	// "nftables", with "+firewalld" behind it where it goes through that. Engines
	// before 28 do not say and know only iptables.
	FirewallBackend string
	// LiveRestore says whether Docker's containers outlive a restart of the engine;
	// Podman's do without it.
	LiveRestore bool
	// Running counts the containers that run.
	Running int
}

// Info asks the engine about itself now. The error carries a hint.
func (w *Watcher) Info(ctx context.Context) (Info, error) {
	defer w.engine.transport.CloseIdleConnections()
	var v version
	if err := w.engine.ask(ctx, "asking for its version", "/version", &v); err != nil {
		return Info{}, err
	}
	var info struct {
		LiveRestoreEnabled bool
		ContainersRunning  int
		FirewallBackend    struct{ Driver string }
	}
	if err := w.engine.ask(ctx, "asking for its settings", "/info", &info); err != nil {
		return Info{}, err
	}
	return Info{
		Podman:          v.isPodman(),
		Version:         v.Version,
		APIVersion:      v.APIVersion,
		FirewallBackend: cmp.Or(info.FirewallBackend.Driver, "iptables"),
		LiveRestore:     info.LiveRestoreEnabled,
		Running:         info.ContainersRunning,
	}, nil
}

// Runtimes asks the engine which runtimes its settings name. The error carries a hint.
func (w *Watcher) Runtimes(ctx context.Context) (map[string]ociruntime.Runtime, error) {
	var info struct {
		Runtimes map[string]struct {
			Path string   `json:"path"`
			Type string   `json:"runtimeType"`
			Args []string `json:"runtimeArgs"`
		}
	}
	if err := w.engine.ask(ctx, "asking for its runtimes", "/info", &info); err != nil {
		return nil, err
	}
	all := map[string]ociruntime.Runtime{}
	for name, r := range info.Runtimes {
		all[name] = ociruntime.Runtime{Name: name, Path: r.Path, Type: r.Type, Args: r.Args}
	}
	return all, nil
}

// version is the answer to /version.
type version struct {
	Version    string
	APIVersion string `json:"ApiVersion"`
	Components []struct{ Name string }
}

func (v *version) isPodman() bool {
	return slices.ContainsFunc(v.Components, func(c struct{ Name string }) bool { return c.Name == "Podman Engine" })
}

// ask decodes the answer to a GET of path into value.
func (e *engine) ask(ctx context.Context, operation, path string, value any) error {
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	defer cancel()
	body, err := e.get(ctx, path)
	if err != nil {
		return e.explain(ctx, operation, err)
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(value); err != nil {
		return e.explain(ctx, operation, err)
	}
	return nil
}

// networkMode returns the network mode of one container, "" if the engine has no such or
// does not say.
func (e *engine) networkMode(ctx context.Context, id string) (string, error) {
	filters, err := json.Marshal(map[string][]string{"id": {id}})
	if err != nil {
		return "", err
	}
	ctx, cancel := withTimeout(ctx, e.inspectTimeout)
	defer cancel()
	body, err := e.get(ctx, "/containers/json?"+url.Values{"all": {"1"}, "filters": {string(filters)}}.Encode())
	if err != nil {
		return "", err
	}
	defer body.Close()
	var all []struct {
		ID         string `json:"Id"`
		HostConfig struct{ NetworkMode string }
	}
	if err := decodeDescription(body, &all); err != nil {
		return "", err
	}
	for _, c := range all {
		if c.ID == id {
			return c.HostConfig.NetworkMode, nil
		}
	}
	return "", nil
}
