package main

import (
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
			cfg := config.Default()
			if err := flags.logging(&cfg); err != nil {
				return err
			}
			cfg.DrainTimeout = flags.drainTimeout
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
	return cmd
}

// keeperArgs is how to start it: this very program, also when its file has been
// replaced, with what is set of the flags that it shares with the daemon.
func (f *runFlags) keeperArgs(c config.Config) []string {
	return []string{
		"/proc/self/exe", keeperName, "--drain-timeout", c.DrainTimeout.String(),
		"--log-format", c.LogFormat, "--log-level", c.LogLevel.String(),
	}
}
