package dockerd

import (
	"cmp"
	"strconv"
	"time"

	docker "github.com/fsouza/go-dockerclient"
	"golang.org/x/sys/unix"
)

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
