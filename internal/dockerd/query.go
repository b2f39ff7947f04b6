package dockerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// What the engine is asked past the snapshot, when a caller wants to know.

// Inspect asks the engine for one container now, past the snapshot: for callers
// that must know that what the snapshot says still holds.
func (w *Watcher) Inspect(ctx context.Context, id string) (*Container, error) {
	c, err := w.engine.inspect(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("container %.12s: %w", id, err)
	}
	return c, nil
}

// IsGone reports whether err says that the engine has no such container.
func IsGone(err error) bool { return errors.Is(err, errNoContainer) }

// OpenNamespace opens the network namespace of owner: by the engine's name for it, which no other
// namespace ever has, or where that folder is out of our sight, through /proc.
func (w *Watcher) OpenNamespace(ctx context.Context, owner *Container) (*netns.Namespace, error) {
	var sandboxErr error
	if owner.SandboxKey != "" {
		ns, err := netns.Open(owner.SandboxKey)
		if err == nil {
			return ns, nil
		}
		sandboxErr = err
	}
	if owner.PID == 0 {
		return nil, fmt.Errorf("container %s has no process", owner.Name)
	}
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", owner.PID))
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) { // not there: ended, or of another pid namespace
			err = hint.Wrap(err, "through /proc this needs CAP_SYS_PTRACE and the host's pid namespace; or mount the engine's netns folder")
		}
		return nil, errors.Join(sandboxErr, err)
	}
	// A process ID is reused: it was the container's when we opened it only if it
	// still is.
	now, err := w.Inspect(ctx, owner.ID)
	if err != nil || !now.Running || now.PID != owner.PID {
		ns.Close()
		return nil, fmt.Errorf("container %s ended while we entered it", owner.Name)
	}
	return ns, nil
}

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
	v, err := w.engine.version(ctx)
	if err != nil {
		return Info{}, err
	}
	var settings settingsAnswer
	if err := w.engine.info(ctx, "asking for its settings", &settings); err != nil {
		return Info{}, err
	}
	return Info{
		Podman:          v.isPodman(),
		Version:         v.Version,
		APIVersion:      v.APIVersion,
		FirewallBackend: cmp.Or(settings.FirewallBackend.Driver, "iptables"),
		LiveRestore:     settings.LiveRestoreEnabled,
		Running:         settings.ContainersRunning,
	}, nil
}

// Runtimes asks the engine which runtimes its settings name. The error carries a hint.
func (w *Watcher) Runtimes(ctx context.Context) (map[string]ociruntime.Runtime, error) {
	var settings runtimesAnswer
	if err := w.engine.info(ctx, "asking for its runtimes", &settings); err != nil {
		return nil, err
	}
	all := map[string]ociruntime.Runtime{}
	for name, r := range settings.Runtimes {
		all[name] = ociruntime.Runtime{Name: name, Path: r.Path, Type: r.Type, Args: r.Args}
	}
	return all, nil
}

// ErrNotManager is that this engine does not know the tasks of Swarm's services: it is a
// worker, or in no swarm.
var ErrNotManager = errors.New("the engine is no manager of a swarm")

// Task is one of a Swarm service that is to run.
type Task struct {
	// Container is the ID of its container, on whatever node, "" before there is one.
	Container string
	// Node is the ID of the node that it is on, "" before it has one.
	Node string
	// Slot tells the replicas of a service apart; 0 for one on each node.
	Slot int
	// State is Swarm's word for how far it is, "running" for example.
	State string
}

// Tasks asks a manager for the tasks that are to run of a service, named by its name or ID.
// There are none of a service that it does not know. The error is ErrNotManager where the
// engine cannot know.
func (w *Watcher) Tasks(ctx context.Context, service string) ([]Task, error) {
	found, err := w.engine.tasks(ctx, service)
	switch status := statusOf(err); {
	case status == http.StatusServiceUnavailable:
		return nil, ErrNotManager
	case status == http.StatusNotFound:
		return nil, nil
	case err != nil:
		return nil, err
	}
	tasks := make([]Task, len(found))
	for i, t := range found {
		tasks[i] = Task{Container: t.Status.ContainerStatus.ContainerID, Node: t.NodeID, Slot: t.Slot, State: t.Status.State}
	}
	return tasks, nil
}

// Image is what an image says itself of the containers made from it. It never changes:
// its ID is the hash of that.
type Image struct {
	Labels map[string]string
	// Env holds KEY=VALUE.
	Env []string
}

const (
	// mostImages bounds the images that are remembered.
	mostImages = 1024
	// imageRetry is how long an image that could not be asked for is not asked for again.
	imageRetry = time.Second
)

// images remembers those that were asked for.
type images struct {
	mu  sync.Mutex
	all map[string]*askedImage
}

type askedImage struct {
	done  chan struct{} // closed when the rest is known
	image *Image
	err   error
	at    time.Time
}

var errNoImage = errors.New("the container's image is not known")

// Image is the image of that ID (Container.ImageID). Calls that come while the engine is asked for
// it wait for the same answer.
func (w *Watcher) Image(ctx context.Context, id string) (*Image, error) {
	if id == "" {
		return nil, errNoImage
	}
	asked := w.askImage(id)
	select {
	case <-asked.done:
		return asked.image, asked.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// KnowsImage reports whether Image would answer at once, and well.
func (w *Watcher) KnowsImage(id string) bool {
	w.images.mu.Lock()
	defer w.images.mu.Unlock()
	asked := w.images.all[id]
	return asked != nil && asked.answered() && asked.err == nil
}

func (a *askedImage) answered() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// hasFailed reports whether it is worth asking again.
func (a *askedImage) hasFailed() bool {
	return a.answered() && a.err != nil && time.Since(a.at) > imageRetry
}

// askImage is the answer of an image that is known or asked for, after asking for it if
// it is neither. It does not wait.
func (w *Watcher) askImage(id string) *askedImage {
	w.images.mu.Lock()
	defer w.images.mu.Unlock()
	if asked := w.images.all[id]; asked != nil && !asked.hasFailed() {
		return asked
	}
	if w.images.all == nil {
		w.images.all = map[string]*askedImage{}
	}
	for other, asked := range w.images.all {
		if len(w.images.all) < mostImages {
			break
		}
		if asked.answered() {
			delete(w.images.all, other)
		}
	}
	asked := &askedImage{done: make(chan struct{})}
	w.images.all[id] = asked
	go asked.ask(w.engine, id)
	return asked
}

// ask asks the engine, within its own time.
func (a *askedImage) ask(e *engine, id string) {
	defer close(a.done)
	a.image, a.err = e.image(context.Background(), id)
	a.at = time.Now()
}
