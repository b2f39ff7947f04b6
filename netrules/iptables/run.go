package iptables

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/netrules"
)

const (
	// maxOutput is how many bytes of rules are read: of 300,000 and more. A process with
	// NET_ADMIN in a namespace may put any number there.
	maxOutput = 64 << 20
	// maxMessages is how much of what a program complains of is read.
	maxMessages = 4 << 10
)

// tooMuch adds what to do about a table that is too large to be read.
func tooMuch(err error) error {
	return hint.Wrap(err, "look who has put so many rules into that network namespace: iptables -t nat -S there; a container needs NET_ADMIN for it")
}

// bounded keeps what is written to it, up to so many bytes; full is called when there is
// more, unless it is nil, and left is below 0 from then on.
type bounded struct {
	text *strings.Builder
	left int
	full func()
}

// Write never fails: what is too much is dropped.
func (b *bounded) Write(p []byte) (int, error) {
	if b.text == nil {
		b.text = new(strings.Builder)
	}
	b.text.Write(p[:min(len(p), max(b.left, 0))])
	if b.left -= len(p); b.left < 0 && b.full != nil {
		b.full()
	}
	return len(p), nil
}

func (b *bounded) String() string {
	if b.text == nil {
		return ""
	}
	return b.text.String()
}

// run runs a program on the calling thread's network namespace and returns its
// standard output.
func run(ctx context.Context, stdin, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second // a grandchild might hold the pipes open
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	stdout := bounded{left: maxOutput, full: cancel}
	cmd.Stdout, cmd.Stderr = &stdout, &bounded{left: maxMessages, text: &stderr}
	err := cmd.Run()
	if stdout.left < 0 {
		return "", tooMuch(fmt.Errorf("%s printed more than %d bytes", filepath.Base(path), maxOutput))
	}
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
		return hint.Wrap(fmt.Errorf("%w: %w", netrules.ErrUnsupported, failed),
			"load the kernel module: modprobe iptable_nat (ip6table_nat for IPv6), or use the nft variant of iptables")
	case says("Permission denied"), says("Operation not permitted"):
		return hint.Wrap(failed,
			"run as root with the capabilities NET_ADMIN and SYS_ADMIN (the legacy variant of iptables needs NET_RAW too)")
	case says("holding the xtables lock"):
		return hint.Wrap(failed, "another program holds the iptables lock; see which: fuser -v /run/xtables.lock")
	}
	return failed
}
