package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/confine"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/netrules/iptables"
	"github.com/ambassadord/ambassadord/netrules/netns"
)

const (
	// keptLease is for how long the sweeper puts an address of mode host on lo, and
	// keptLeaseEvery how often.
	keptLease      = 2 * time.Minute
	keptLeaseEvery = keptLease / 8
)

// orphaned readies the keeper's process for what its daemon has left: it says in the folder
// that it carries connections, starts the sweeper, and gives up what it needs no longer. The
// sweeper is a process of its own, since the keeper may neither change rules nor start
// programs while it moves bytes of others. release is called at the keeper's end.
func orphaned(cfg config.Config, log *slog.Logger) (release func()) {
	release = func() {}
	if dir, err := rundir.Open(cfg.RunDir); err != nil {
		log.Debug("not said that connections are carried on", "error", err)
	} else if mark, err := dir.MarkKeeping(); err != nil {
		log.Debug("not said that connections are carried on", "error", err)
	} else {
		release = mark.Leave // the sweeper removes the file
	}
	theirs, err := startSweeper(cfg)
	if err != nil {
		log.Warn("rules and addresses that carried connections need will not be looked after", "error", err,
			"hint", "when the last connection has ended, run: ambassadord rules remove")
	} else {
		leave := release
		release = func() { theirs.Close(); leave() }
	}
	// From here on it moves bytes of others, as the daemon does, and needs nothing but
	// their sockets.
	if err := confine.ToOpenDescriptors(); err != nil {
		log.Debug("what keeps connections", "error", err)
	}
	return release
}

// startSweeper starts the command cfg.Sweeper, with one end of a pipe at its descriptor 3.
// The pipe ends with our process, or when the other end, which is returned, is closed.
func startSweeper(cfg config.Config) (*os.File, error) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	cmd := exec.CommandContext(context.Background(), cfg.Sweeper[0], cfg.Sweeper[1:]...)
	cmd.Args[0] = "ambassadord" // not the path, which may be /proc/self/exe
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{ours}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives us
	if err := cmd.Start(); err != nil {
		theirs.Close()
		return nil, fmt.Errorf("start the process that removes rules in the end: %w", err)
	}
	return theirs, nil
}

// Sweep waits until the keeper at the other end of carrier has ended, and then removes
// the chains that were left, unhooked, for its connections. Meanwhile it renews the
// addresses of mode host that these are to. What is hooked is a daemon's, or was left for
// the next one, and stays.
func Sweep(ctx context.Context, folder string, carrier io.Reader, log *slog.Logger) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, carrier) // nothing is ever written
	}()
	ticker := time.NewTicker(keptLeaseEvery)
	defer ticker.Stop()
	for waiting := true; waiting; {
		renewKept(log)
		select {
		case <-ended:
			waiting = false
		case <-ticker.C:
		}
	}
	if dir, err := rundir.Find(folder); err == nil {
		_, _ = dir.Marks() // which removes the keeper's
	}
	var living *living
	var carriers carriers
	err := everywhere(ctx, log, func(rules *iptables.Rules, ns *netns.Namespace) error {
		if living == nil {
			living = findLiving(ctx, rules)
		}
		return living.sweep(ctx, ns, &carriers, log)
	})
	if err != nil {
		log.Error("cannot remove all rules that were left for connections of a daemon that is gone", "error", err, hint.Attr(err))
	}
}

// sweep removes from ns what was left for connections that nobody carries any more.
func (l *living) sweep(ctx context.Context, ns *netns.Namespace, c *carriers, log *slog.Logger) error {
	left, err := l.leftBehind(ctx, ns)
	if err != nil || !left {
		return err
	}
	by, err := l.servedBy(ctx, ns) // a container's daemon may be about to hook them
	if err != nil || by != "" {
		return err
	}
	ports, err := l.destinations(ctx, ns)
	if err != nil {
		return err
	}
	others, err := c.carriedBy(ctx, ns, ports)
	if err != nil || !others.none() {
		return err
	}
	return removeAll(ctx, l.rules, ns, func(r Removed) {
		log.Info("removed the rules that were left for connections of a daemon that is gone", "namespace", r.Namespace,
			"family", r.Family.String(), "chains", r.Chains, "addresses", r.Addrs)
	})
}

// renewKept renews those addresses of mode host that connections are to.
func renewKept(log *slog.Logger) {
	var own *netns.Namespace
	leases, err := own.Leases()
	if err != nil {
		log.Debug("cannot look for addresses of mode host", "error", err)
		return
	}
	for _, addr := range leases {
		used, err := own.Connections(func(local netip.AddrPort) bool { return local.Addr().Unmap() == addr })
		if err == nil && len(used) > 0 {
			_, err = own.Lease(addr, keptLease)
		}
		if err != nil {
			log.Warn("cannot renew an address that live connections use", "address", addr.String(), "error", err)
		}
	}
}
