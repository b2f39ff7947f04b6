package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// New makes a network namespace without a name, a mount or a process: it goes
// when it is closed and no socket made in it is left. Its lo is down. It takes
// CAP_SYS_ADMIN.
func New() (*Namespace, error) {
	home, err := Current()
	if err != nil {
		return nil, err
	}
	defer func() { _ = home.Close() }()
	var made *Namespace
	// Do brings the thread that moves into the new namespace back, or ends it.
	err = home.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		made, err = Current()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return made, nil
}
