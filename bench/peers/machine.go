package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/bench/internal/report"
)

// machine says where the figures come from; what cannot be learnt stays empty.
func machine(ctx context.Context) report.Machine {
	m := report.Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	if commit, err := output(ctx, "git", "describe", "--always", "--dirty"); err == nil {
		m.Commit = strings.TrimSpace(commit)
	}
	return m
}

// programs puts the daemon and this program where every user may execute them.
func (o *options) programs(ctx context.Context) error {
	if o.Daemon == "" {
		o.Daemon = filepath.Join(o.Dir, "ambassadord")
		// As `make build` makes it.
		_, err := output(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", o.Daemon,
			"github.com/ambassadord/ambassadord/cmd/ambassadord")
		if err != nil {
			return fmt.Errorf("build the daemon: %w", err)
		}
	} else if err := copyProgram(&o.Daemon, filepath.Join(o.Dir, "ambassadord")); err != nil {
		return err
	}
	if o.Before != "" {
		if err := copyProgram(&o.Before, filepath.Join(o.Dir, "ambassadord-before")); err != nil {
			return fmt.Errorf("-before: %w", err)
		}
	}
	o.Self = "/proc/self/exe"
	return copyProgram(&o.Self, filepath.Join(o.Dir, "peers"))
}

func copyProgram(from *string, to string) error {
	source, err := os.Open(*from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	if closed := target.Close(); err == nil {
		err = closed
	}
	*from = to
	return err
}
