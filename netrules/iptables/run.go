package iptables

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// run runs a program on the calling thread's network namespace and returns its
// standard output.
func run(ctx context.Context, stdin, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second // a grandchild might hold the pipes open
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		err = ctxErr // "signal: killed" says less
	}
	return "", explain(path, err, strings.TrimSpace(stderr.String()))
}

// explain names the program and adds what its messages mean for the reader.
func explain(path string, err error, stderr string) error {
	failed := fmt.Errorf("%s: %w", filepath.Base(path), err)
	if stderr != "" {
		failed = fmt.Errorf("%w: %s", failed, stderr)
	}
	says := func(text string) bool { return strings.Contains(failed.Error(), text) }
	switch {
	case says("Table does not exist"):
		return hint.Wrap(fmt.Errorf("%w: %w", ErrUnsupported, failed),
			"load the kernel module: modprobe iptable_nat (ip6table_nat for IPv6), or use the nft variant of iptables")
	case says("Permission denied"), says("Operation not permitted"):
		return hint.Wrap(failed,
			"run as root with the capabilities NET_ADMIN and SYS_ADMIN (the legacy variant of iptables needs NET_RAW too)")
	case says("holding the xtables lock"):
		return hint.Wrap(failed, "another program holds the iptables lock; see which: fuser -v /run/xtables.lock")
	}
	return failed
}
