package oneshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/ambassadord/ambassadord/internal/accesslog"
	"github.com/ambassadord/ambassadord/internal/claim"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/confine"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/keeper"
	"github.com/ambassadord/ambassadord/internal/trim"
	"github.com/ambassadord/ambassadord/proxy"
)

// keeperGarbage is how much of what it needs the keeper may have in garbage, in percent:
// it has all the time there is to collect it.
const keeperGarbage = 20

// KeeperFiles are what the daemon leaves its keeper.
type KeeperFiles struct {
	Socket *os.File // where it hands its connections over
	// Claim is the claim that it has made for the keeper, and ClaimName the name of that; nil
	// and "" if there could be none.
	Claim     *os.File
	ClaimName string
}

// Keep is the process that Config.Keeper starts: it carries the connections of a
// daemon that died on to their end.
func Keep(ctx context.Context, cfg config.Config, files KeeperFiles, log *slog.Logger) error {
	trimming, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go trim.Run(trimming, 0)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(keeperGarbage)
	}
	lines := accesslog.New(log, nil)
	defer lines.Close()
	server := &proxy.Server{Done: lines.Done, Log: log}
	release := func() {}
	defer func() { release() }()
	return keeper.Serve(ctx, files.Socket, server, cfg.DrainTimeout, func(needs claim.Needs) func(claim.Needs) {
		lines.Change(cfg)
		lines.Reopen(time.Second) // later no file can be opened
		var say func(claim.Needs)
		say, release = orphaned(cfg, files, needs, log)
		return say
	}, log)
}

// orphaned readies the keeper's process for what its daemon has left: the process says which
// rules the connections need, has a sweeper started, and gives up the rights it needs no longer.
// The sweeper is a process of its own, since the keeper may neither change rules nor start programs
// while it moves bytes of others; until here it has moved none, and has read from its daemon
// alone. say is called with what is needed still, and release at the keeper's end.
func orphaned(cfg config.Config, files KeeperFiles, needs claim.Needs, log *slog.Logger) (say func(claim.Needs), release func()) {
	say, release = func(claim.Needs) {}, func() {}
	if files.Claim == nil {
		if needs.Total() > 0 {
			log.Warn("connections that are carried on break when rules are removed", "error", errors.New("there is no folder to say in that they are carried"),
				"hint", "give the daemon a --run-dir that it can use, and remove no rules until they have ended")
		}
	} else {
		writer := claim.NewWriter(files.Claim)
		say = func(needs claim.Needs) {
			if err := writer.Write(needs); err != nil {
				log.Warn("connections that are carried on may break when rules are removed, or these stay too long", "error", err,
					"hint", "make room in the file system of --run-dir; when the last connection has ended, run: ambassadord rules remove")
			}
		}
		say(needs) // first, since a process that removes rules waits for it
	}
	if files.Claim != nil && needs.Total() > 0 {
		sweeper, err := startSweeper(cfg, files.ClaimName)
		if err != nil {
			log.Warn("rules and addresses that carried connections need will not be looked after", "error", err,
				"hint", "when the last connection has ended, run: ambassadord rules remove")
		} else {
			release = func() { sweeper.Close() }
		}
	}
	if err := confine.ToOpenDescriptors(); err != nil {
		log.Debug("what keeps connections", "error", err)
	}
	return say, release
}

// startSweeper starts the command cfg.Sweeper for the claim of that name, with one end of a
// pipe at its descriptor 3. The pipe ends with our process, or when the other end, which is
// returned, is closed.
func startSweeper(cfg config.Config, claimName string) (*os.File, error) {
	if len(cfg.Sweeper) == 0 {
		return nil, hint.Errorf("run: ambassadord rules remove", "no command removes rules in the end")
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	args := append(cfg.Sweeper[1:len(cfg.Sweeper):len(cfg.Sweeper)], "--claim", claimName)
	cmd := exec.CommandContext(context.Background(), cfg.Sweeper[0], args...)
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
