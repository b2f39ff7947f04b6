package oneshot

import (
	"context"
	"fmt"
	"time"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rights"
)

// Reload asks the daemon at the control socket with that path to reload, and returns what
// became of that. Without a path it is the daemon of this network namespace that has its
// socket in folder, a config.Config.RunDir.
func Reload(ctx context.Context, folder, name, program string) error {
	if name == "" {
		var err error
		if name, err = control.Find(folder); err != nil {
			return err
		}
	}
	c, err := control.Dial(name)
	if err != nil {
		return hint.Wrap(fmt.Errorf("ask the daemon to reload: %w", err), hint.Of(err))
	}
	defer c.Close()
	defer context.AfterFunc(ctx, c.Close)()
	if err := c.Ask(control.Reload, program); err != nil {
		return fmt.Errorf("ask the daemon to reload: %w", err)
	}
	var answer control.Answer
	fds, err := c.Receive(&answer, control.ReloadPatience+time.Second)
	rights.Close(fds)
	if err != nil {
		return fmt.Errorf("wait for the daemon's answer: %w", err)
	}
	return answer.Err()
}
