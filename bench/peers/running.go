package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// descriptors is how many files a contestant may have open.
const descriptors = 20_000

// running is a contestant that has been started.
type running struct {
	contestant
	backendSet
	dir       string
	processes []*exec.Cmd
	ready     time.Duration // from the start to the first exchange
	held      func()        // ends its idle connections; nil if it has none
}

// start starts a contestant and waits until each of its ports answers. uid 0 is root.
func (b *bench) start(ctx context.Context, c contestant, w backendSet, uid uint32) (_ *running, err error) {
	r := &running{contestant: c, backendSet: w}
	if c.commands == nil { // direct
		return r, nil
	}
	if r.dir, err = os.MkdirTemp(b.Dir, c.name); err != nil {
		return nil, err
	}
	if err := os.Chown(r.dir, int(uid), int(uid)); err != nil {
		return nil, err
	}
	commands, err := c.commands(b.options, r.dir, w)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(r.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	began := time.Now()
	for _, command := range commands {
		if err := r.launch(ctx, command, log, uid); err != nil {
			r.stop()
			return nil, fmt.Errorf("start %s: %w", c.name, err)
		}
	}
	if err := r.answers(ctx, began); err != nil {
		text, _ := os.ReadFile(log.Name())
		r.stop()
		return nil, fmt.Errorf("%s is not ready: %w; its log: %.2000s", c.name, err, text)
	}
	return r, nil
}

func (r *running) launch(ctx context.Context, c command, log *os.File, uid uint32) error {
	limit := fmt.Sprintf("--nofile=%d:%d", descriptors, descriptors)
	cmd := exec.CommandContext(ctx, "prlimit", append([]string{limit, "--"}, c.args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}}
	}
	if c.status {
		status, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer status.Close()
		cmd.ExtraFiles = []*os.File{status}
	}
	var stdin io.WriteCloser
	if c.stdin != nil {
		var err error
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.processes = append(r.processes, cmd)
	if stdin != nil {
		defer stdin.Close()
		_, err := stdin.Write(c.stdin)
		return err
	}
	return nil
}

// answers waits for the first exchange, whose time counts, and then for the other
// ports.
func (r *running) answers(ctx context.Context, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := exchange(ctx, r.Listen.Echo)
		if err == nil {
			break
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
	r.ready = time.Since(began)
	for _, addr := range r.Listen.all() {
		for {
			conn, err := dialer().DialContext(ctx, "tcp", addr.String())
			if err == nil {
				_ = conn.Close()
				break
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return err
			}
		}
	}
	return nil
}

// dialer does without MPTCP, as all the traffic does.
func dialer() *net.Dialer {
	d := &net.Dialer{Timeout: 2 * time.Second}
	d.SetMultipathTCP(false)
	return d
}

// exchange sends a few bytes and waits for them to come back.
func exchange(ctx context.Context, to netip.AddrPort) error {
	conn, err := dialer().DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 5))
	return err
}

// pids are the roots of its process trees.
func (r *running) pids() (pids []int) {
	for _, p := range r.processes {
		pids = append(pids, p.Process.Pid)
	}
	return pids
}

// alive says whether all of its processes run.
func (r *running) alive() bool {
	for _, pid := range r.pids() {
		// A process that has ended is a zombie until it is waited for, without memory.
		if rss, err := procstat.Status(pid, "VmRSS"); err != nil || rss == 0 {
			return false
		}
	}
	return true
}

func (r *running) usage() (sum procstat.Usage, err error) {
	for _, pid := range r.pids() {
		u, err := procstat.TreeUsage(pid)
		if err != nil {
			return sum, fmt.Errorf("%s: %w", r.name, err)
		}
		sum.RSS, sum.Unbacked = sum.RSS+u.RSS, sum.Unbacked+u.Unbacked
		sum.Descriptors, sum.Pipes = sum.Descriptors+u.Descriptors, sum.Pipes+u.Pipes
	}
	return sum, nil
}

// stop ends its idle connections and its processes, the children first known, and waits for them.
func (r *running) stop() {
	if r.held != nil {
		r.held()
	}
	var trees []int
	for _, pid := range r.pids() {
		tree, err := procstat.Tree(pid)
		if err == nil {
			trees = append(trees, tree...)
		}
	}
	for _, p := range r.processes {
		_ = p.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range r.processes {
		timer := time.AfterFunc(time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait() // however it ended
		timer.Stop()
	}
	for _, pid := range trees { // what its root has left behind
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			continue
		}
	}
}
