package dockerd

import (
	"cmp"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	docker "github.com/fsouza/go-dockerclient"
	"golang.org/x/sys/unix"
)

// What is known of a container before it is inspected. Two events are believed for that long: that
// a container was created, since the engine answers for none that it is starting, and that one was
// told to stop, since it may be gone before the engine answers.

// announcement is what is known of a container from the event of its creation; nil for any
// other event.
func (w *Watcher) announcement(event *docker.APIEvents) *Container {
	created := announced(event)
	if created != nil {
		saved := w.savedOf(created.ID)
		created.Env, created.NetworkMode = saved.env, saved.networkMode
		created.keepDeclared()
	}
	return created
}

// announce makes a new container known before it is inspected. The engine answers
// for no container that it is starting, and on a busy machine that may begin
// before our question is there.
func (f *eventFollower) announce(ctx context.Context, n containerEvent) {
	if n.created == nil || f.containers[n.id] != nil {
		return
	}
	f.containers[n.id] = n.created
	f.changed = true
	if n.created.NetworkMode == "" {
		f.askMode(ctx, n.id)
	}
}

// savedConfig is what the engine has saved of a container before it announces it.
type savedConfig struct {
	env         []string
	networkMode string // "" where it is out of our sight
}

// savedOf reads what the engine has saved of a container that was just made; nothing where that is
// out of our sight. The event of its creation tells neither, and the engine,
// asked for a container that is being started, answers only when it runs.
func (w *Watcher) savedOf(id string) savedConfig {
	var saved savedConfig
	folder := w.savedConfigs.Load()
	if folder == nil || len(id) != idLen || strings.Trim(id, "0123456789abcdef") != "" { // it becomes part of a path
		return saved
	}
	var config struct{ Config struct{ Env []string } }
	if readSaved(filepath.Join(*folder, id, "config.v2.json"), &config) {
		saved.env = config.Config.Env
	}
	var host struct{ NetworkMode string }
	if readSaved(filepath.Join(*folder, id, "hostconfig.json"), &host) {
		saved.networkMode = host.NetworkMode
	}
	return saved
}

// readSaved reports whether value is what the file at path says.
func readSaved(path string, value any) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	return decodeDescription(file, value) == nil
}

// modesAtOnce bounds the questions of askMode that are on their way.
const modesAtOnce = 8

// networkMode is that of a container that is announced.
type networkMode struct{ id, mode string }

// askMode asks for the network mode of a container that is announced, where what
// the engine has saved of it is out of our sight: whose namespace it is going to join has to be known
// before it runs. The list says so also while the engine starts the container, and answers
// no question about the container alone.
func (f *eventFollower) askMode(ctx context.Context, id string) {
	if f.modesBusy == modesAtOnce {
		return // the inspection tells, if later
	}
	f.modesBusy++
	f.wg.Go(func() {
		mode, err := f.w.engine.networkMode(ctx, id)
		if err != nil {
			mode = ""
		}
		f.modes <- networkMode{id, mode} // has room for every one that may run
	})
}

// learnMode takes the answer to askMode.
func (f *eventFollower) learnMode(m networkMode) {
	f.modesBusy--
	c := f.containers[m.id]
	if m.mode == "" || c == nil || !c.Announced || c.NetworkMode == m.mode {
		return
	}
	known := *c
	known.NetworkMode = m.mode
	f.containers[m.id] = &known
	f.changed = true
}

// findPodman asks whether the engine is Podman, whose stream of events may be late: it
// looks four times a second for what is new in a file of them.
func (w *Watcher) findPodman(ctx context.Context) {
	if v, err := w.engine.version(ctx); err == nil {
		w.late.Store(v.isPodman())
	}
}

// CatchUp has the engine asked at once for containers that were made a moment ago, if its
// stream tells of them late. A caller has seen a sign of a container that is about to start. It
// does not wait.
func (w *Watcher) CatchUp() {
	if !w.late.Load() {
		return
	}
	select {
	case w.catchUp <- struct{}{}:
	default: // it is about to be asked
	}
}

// askMade asks for the containers that were made a moment ago, and again if that is wanted
// meanwhile: those that were made since may be missing.
func (f *eventFollower) askMade(ctx context.Context) {
	if f.asking {
		f.askAgain = true
		return
	}
	f.asking = true
	f.wg.Go(func() {
		var made []containerEvent
		body, err := f.w.engine.justMade(ctx)
		if err == nil {
			made = f.readMade(body)
			_ = body.Close()
		}
		f.asked <- made // without an answer the stream tells in time
	})
}

// readMade reads what was announced, and is there still, until the answer ends.
func (f *eventFollower) readMade(body io.Reader) []containerEvent {
	var made []containerEvent
	for events := newEventReader(body); ; {
		event, err := events.next()
		if err != nil {
			return made
		}
		switch created := f.w.announcement(event); {
		case created != nil:
			made = append(made, containerEvent{id: created.ID, created: created})
		case event.Action == "remove", event.Action == "destroy":
			made = slices.DeleteFunc(made, func(n containerEvent) bool { return n.id == event.Actor.ID })
		}
	}
}

// learnMade takes the answer to askMade.
func (f *eventFollower) learnMade(ctx context.Context, made []containerEvent) {
	made = slices.DeleteFunc(made, func(n containerEvent) bool { return f.containers[n.id] != nil })
	for _, n := range made {
		f.announce(ctx, n)
		f.touch(n.id)
	}
	f.asking = false
	if f.askAgain {
		f.askAgain = false
		f.askMade(ctx)
	}
}

// believedStopping is how long a container that was told to stop is taken to be
// about to. The engine kills it after ten seconds by default; what runs on for much
// longer has been sent the signal for something else.
const believedStopping = time.Minute

// kill is a signal that the engine has sent to a container.
type kill struct {
	signal   int
	at       time.Time // by the engine's clock, as a container's start
	received time.Time
}

// killedBy is the signal that an event tells of, nil for any other event.
func killedBy(event *docker.APIEvents) *kill {
	if event.Type != "container" || event.Action != "kill" {
		return nil
	}
	signal, err := strconv.Atoi(event.Actor.Attributes["signal"])
	if err != nil { // an engine that does not say which
		return nil
	}
	return &kill{signal: signal, at: time.Unix(0, event.TimeNano), received: time.Now()}
}

// stopping marks a container that was told to stop, without asking the engine
// about it first: by the time it answers, the container may be gone.
func (f *eventFollower) stopping(n containerEvent) {
	c := f.containers[n.id]
	if n.killed == nil || c == nil {
		return
	}
	if s := n.killed.signal; s != int(unix.SIGKILL) && s != cmp.Or(c.StopSignal, int(unix.SIGTERM)) {
		return
	}
	f.killed[n.id] = *n.killed
	if !c.Stopping && f.isStopping(c) {
		marked := *c
		marked.Stopping = true
		f.containers[n.id] = &marked
		f.changed = true
	}
}

// isStopping says whether c was told to stop since it was started. An event may be
// an old one: the stream begins a little before it was asked for.
func (f *eventFollower) isStopping(c *Container) bool {
	k, ok := f.killed[c.ID]
	return ok && c.Running && k.at.After(c.StartedAt) && time.Since(k.received) < believedStopping
}
