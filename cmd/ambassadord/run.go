package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/daemon"
	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/internal/logging"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/settings"
)

const runHelp = `Serve every container of this host that declares what it needs, until SIGTERM.

A container declares with labels or environment:

  connect.PORT=TARGET, connect[PORT]=TARGET     labels
  CONNECT_PORT=TARGET, BACKEND_PORT=TARGET      environment, in any case

TARGET is one of

%s
With LISTEN_PORT=TARGET arguments it forwards those ports instead, and serves
containers too only if --mode says so.`

func runCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	cmd := &cobra.Command{
		Use:   "run [LISTEN_PORT=TARGET …]",
		Short: "Run the daemon",
		Long:  fmt.Sprintf(runHelp, targetFormsHelp()),
		Example: `  ambassadord run
  ambassadord run 6379=redis.service.consul 5432=docker://postgres:5432
  ambassadord run --listen 127.0.0.1:6379 redis.example.com:6379`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(cmd.Flags(), args)
			if err != nil {
				return err
			}
			kept := new(events.Log)
			log, change, flush := logging.NewBuffered(cfg, cmd.ErrOrStderr(), kept)
			defer flush()
			hooks := daemon.Hooks{Applied: change, Events: kept}
			if flags.configFile != "" {
				hooks.Load = func() (config.Config, error) { return flags.load(cmd.Flags(), args) }
			}
			return serve(cmd.Context(), cfg, log, hooks)
		},
	}
	flags.register(cmd.Flags())
	flags.registerFile(cmd)
	return cmd
}

// serve checks what can be checked and runs the daemon.
func serve(ctx context.Context, cfg config.Config, log *slog.Logger, hooks daemon.Hooks) error {
	parse, err := oneshot.NewParser(cfg, log)
	if err != nil {
		return usage(err)
	}
	if err := settings.Check(cfg, parse); err != nil {
		return usage(err)
	}
	ctx, hooks.Stop = context.WithCancel(ctx)
	defer hooks.Stop()
	log.Info("starting", "version", versionText())
	reload, stop := asked(syscall.SIGHUP)
	defer stop()
	reopen, stopReopen := asked(syscall.SIGUSR1)
	defer stopReopen()
	hurry, stopHurry := secondSignal(ctx)
	defer stopHurry()
	hooks.Reload, hooks.Reopen, hooks.Hurry = reload, reopen, hurry
	return daemon.Run(ctx, cfg, log, hooks)
}

// asked is a signal that asks the daemon for something, until stop: SIGHUP to read its configuration again, SIGUSR1
// to open its access log again.
func asked(by os.Signal) (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, by)
	return c, func() { signal.Stop(c) }
}

// secondSignal returns what is closed at the second of the signals that end the daemon:
// the first ends ctx, and somebody who sends another does not want to wait.
func secondSignal(ctx context.Context) (second <-chan struct{}, stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	closed := make(chan struct{})
	stopped, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		for range 2 {
			select {
			case <-signals:
			case <-stopped.Done():
				return
			}
		}
		close(closed)
	}()
	return closed, func() {
		signal.Stop(signals)
		cancel()
	}
}
