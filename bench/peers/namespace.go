package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/bench/internal/report"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

// inside runs the bench in namespaces of its own: of the network, for which see the
// package's comment, and of processes, so that whatever a contestant starts ends with
// it.
func inside(ctx context.Context, o options, progress io.Writer) (result report.Result, err error) {
	spec, err := json.Marshal(o)
	if err != nil {
		return result, err
	}
	cmd := role(ctx, o.Self, roleInside)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	cmd.Stderr = progress
	if err := exchangeJSON(cmd, spec, &result); err != nil {
		return result, fmt.Errorf("in a network namespace of its own: %w", err)
	}
	return result, nil
}

// exchangeJSON runs a command that takes JSON and answers with some.
func exchangeJSON(cmd *exec.Cmd, spec []byte, answer any) error {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = stdin.Write(append(spec, '\n'))
	if err == nil {
		err = json.NewDecoder(stdout).Decode(answer)
	}
	_ = stdin.Close()
	if failed := cmd.Wait(); failed != nil {
		return failed
	}
	return err
}

// playInside is the process inside.
func playInside(in io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return err
	}
	if err := furnish(); err != nil {
		return err
	}
	result, err := (&bench{options: o, progress: os.Stderr}).run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// furnish makes the namespaces usable: lo, ports enough, a congestion control that
// does not pace, and a /proc of the processes here.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	ns, err := netns.Current()
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := ns.LoopbackUp(); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"tcp_congestion_control": "reno",
		"ip_local_port_range":    "10000 65535", // listeners are below
		"tcp_tw_reuse":           "1",
	} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set net.ipv4.%s to %s: %w", name, value, err)
		}
	}
	return nil
}

// role is a command that runs this program in one of its roles. It dies with us.
func role(ctx context.Context, self, name string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, self, roleWord, name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	return cmd
}
