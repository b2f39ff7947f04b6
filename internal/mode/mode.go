// Package mode has the interface of a mode, which is one way in which connections of containers
// get to the daemon, and a table of what each needs: the daemon, the settings, doctor and the
// commands about rules read that as far as they can, in place of naming modes. The modes
// themselves are in the packages below.
package mode

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/identity"
)

// Mode is one way in. The daemon calls its methods from one goroutine at a time.
type Mode interface {
	// Update makes it follow t, which is replaced with every change of a container or of the
	// configuration. It starts the work and does not wait for it. After Stop(true) it sees to the
	// connections alone whose client was not known yet.
	Update(ctx context.Context, t *identity.Table)
	// Ready returns when it serves all that the daemon before us served; Update has been called.
	// An error means that this daemon cannot take over.
	Ready(ctx context.Context) error
	// Stop lets nothing more be led to this daemon, and returns when that is so. A connection that
	// is accepted is served. With handOver it leaves sockets and rules as they are, since another daemon goes
	// on with them.
	Stop(handOver bool) Remains
}

// Remains is what a mode still has for connections that go on after Stop.
type Remains interface {
	// Routed lets go of what was kept for connections that were being routed. It is called after
	// a handover alone.
	Routed()
	// Drained lets go of the rest: the last connection has ended. The rules go with it, unless
	// another daemon has them.
	Drained()
}

// Early is a Mode that serves containers which are just starting.
type Early interface {
	Mode
	// Hasten does what cannot wait until Update: a container may be about to dial.
	Hasten(t *identity.Table)
	// AwaitWatch returns when a container that starts from now on is seen, or it takes too long.
	AwaitWatch(ctx context.Context)
}
