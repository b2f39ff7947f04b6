package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/agent"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
)

const keeperName = "keeper"

// keeperSocket is the descriptor at which the daemon leaves its socket.
const keeperSocket = 3

// keeperCommand is the process that the daemon starts to keep its connections.
func keeperCommand() *cobra.Command {
	flags := newRunFlags(nil)
	cmd := &cobra.Command{
		Use:    keeperName,
		Short:  "Carry connections on when the daemon dies; the daemon starts it",
		Hidden: true,
		Args:   exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nameProcess()
			cfg := config.Default()
			if err := flags.logging(&cfg); err != nil {
				return err
			}
			cfg.DrainTimeout, cfg.RunDir = flags.drainTimeout, flags.runDir
			cfg.Sweeper = flags.childArgs(sweeperName, cfg)
			socket := os.NewFile(keeperSocket, "the daemon's socket")
			if _, err := socket.Stat(); err != nil {
				return usage(hint.Errorf("it is not for people to start", "%s has no daemon: descriptor %d is closed", keeperName, keeperSocket))
			}
			log, _, flush := newDaemonLogger(cfg, cmd.ErrOrStderr())
			defer flush()
			return agent.Keep(cmd.Context(), cfg, socket, log)
		},
	}
	flags.registerDrain(cmd.Flags())
	flags.registerLogging(cmd.Flags())
	registerRunDir(cmd.Flags(), &flags.runDir)
	return cmd
}

const sweeperName = "sweeper"

// sweeperCommand is the process that the keeper starts when its daemon is dead. It finds
// at descriptor 3 what ends with the keeper.
func sweeperCommand() *cobra.Command {
	flags := newRunFlags(nil)
	cmd := &cobra.Command{
		Use:    sweeperName,
		Short:  "Remove what was left for connections of a daemon that died; the keeper starts it",
		Hidden: true,
		Args:   exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nameProcess()
			cfg := config.Default()
			if err := flags.logging(&cfg); err != nil {
				return err
			}
			carrier := os.NewFile(keeperSocket, "the keeper's pipe")
			if _, err := carrier.Stat(); err != nil {
				return usage(hint.Errorf("run: ambassadord rules remove", "%s has no keeper: descriptor %d is closed", sweeperName, keeperSocket))
			}
			log, _, flush := newDaemonLogger(cfg, cmd.ErrOrStderr())
			defer flush()
			// Who stops a service ends all of its processes: ours ends after the keeper's, which drains.
			agent.Sweep(context.WithoutCancel(cmd.Context()), flags.runDir, carrier, log)
			return nil
		},
	}
	flags.registerDrain(cmd.Flags())
	flags.registerLogging(cmd.Flags())
	registerRunDir(cmd.Flags(), &flags.runDir)
	return cmd
}

// keeperArgs is how to start it: this very program, also when its file has been
// replaced, with what is set of the flags that it shares with the daemon.
func (f *runFlags) keeperArgs(c config.Config) []string { return f.childArgs(keeperName, c) }

func (f *runFlags) childArgs(name string, c config.Config) []string {
	return []string{
		"/proc/self/exe", name, "--drain-timeout", c.DrainTimeout.String(), "--run-dir", f.runDir,
		"--log-format", c.LogFormat, "--log-level", c.LogLevel.String(),
	}
}

// nameProcess names our process as our program, for ps(1) and for whoever asks who has a
// socket: it was started by /proc/self/exe, and would be called "exe".
func nameProcess() { _ = os.WriteFile("/proc/self/comm", []byte("ambassadord"), 0) }
