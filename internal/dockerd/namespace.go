package dockerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

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
