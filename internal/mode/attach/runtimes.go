package attach

import (
	"context"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/identity"
	"github.com/ambassadord/ambassadord/internal/onclose"
)

// sayOwnStack says of a container that has just been attached that its dials will not come. It
// may take as long as the engine takes to answer, and is given up when at ends.
func (at *attachment) sayOwnStack(ctx context.Context, n *identity.Namespace) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer onclose.Call(at.ending, stop)()
	defer onclose.Call(at.leaving, stop)()
	for _, client := range n.Clients {
		c := client.Container
		kind := at.Runtimes.OwnStack(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if kind == "" || len(client.Bindings.Ports()) == 0 {
			continue
		}
		err := dockerd.OwnStackError(c.Runtime, kind, string(at.Name))
		at.Log.Warn("what a container dials at localhost does not get here, and is refused", "client", c.Name, "id", c.ShortID(),
			"runtime", c.Runtime, "error", err, hint.Attr(err))
	}
}
