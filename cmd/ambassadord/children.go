package main

import (
	"context"
	"os"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/logging"
	"github.com/ambassadord/ambassadord/internal/oneshot"
)

// The commands that a process of ours starts, by its own program: hidden, for they are not for people.
const keeperName, sweeperName, preparerName = "keeper", "sweeper", "preparer"

// parentFile is the first descriptor at which such a process is left something by its parent:
// by the daemon its socket, and then the claim; by the keeper its pipe.
const parentFile = 3

// keeperCommand is the process that the daemon starts to keep its connections.
func keeperCommand() *cobra.Command {
	return childCommand(&cobra.Command{
		Use:   keeperName,
		Short: "Carry connections on when the daemon dies; the daemon starts it",
	}, "it is not for people to start", func(ctx context.Context, cmd *cobra.Command, flags *runFlags, claimName string) error {
		cfg := config.Default()
		if err := flags.logging(&cfg); err != nil {
			return err
		}
		cfg.DrainTimeout = flags.drainTimeout
		cfg.Sweeper = flags.childArgs(sweeperName, cfg)
		files := oneshot.KeeperFiles{Socket: os.NewFile(parentFile, "the daemon's socket"), ClaimName: claimName}
		if claimName != "" {
			syscall.CloseOnExec(parentFile + 1)
			files.Claim = os.NewFile(parentFile+1, claimName)
		}
		log, _, flush := logging.NewBuffered(cfg, cmd.ErrOrStderr(), nil)
		defer flush()
		return oneshot.Keep(ctx, cfg, files, log)
	})
}

// sweeperCommand is the process that the keeper starts when its daemon is dead. It finds
// at descriptor 3 what ends with the keeper.
func sweeperCommand() *cobra.Command {
	return childCommand(&cobra.Command{
		Use:   sweeperName,
		Short: "Remove what was left for connections of a daemon that died; the keeper starts it",
	}, "run: ambassadord rules remove", func(ctx context.Context, cmd *cobra.Command, flags *runFlags, claimName string) error {
		cfg := config.Default()
		if err := flags.logging(&cfg); err != nil {
			return err
		}
		log, _, flush := logging.NewBuffered(cfg, cmd.ErrOrStderr(), nil)
		defer flush()
		// A service manager that stops a service ends all of its processes: ours ends after the keeper's, which drains.
		return cleanup.Sweep(context.WithoutCancel(ctx), flags.runDir, claimName, os.NewFile(parentFile, "the keeper's pipe"), log)
	})
}

// childCommand is a command that a process of ours starts; fix is what to do instead.
func childCommand(cmd *cobra.Command, fix string, run func(context.Context, *cobra.Command, *runFlags, string) error) *cobra.Command {
	flags := newRunFlags(nil)
	var claimName string
	cmd.Hidden, cmd.Args = true, exactArgs(0)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		nameProcess()
		// Who has the access log opened again may tell all processes of a service, and Go's default is to end.
		_, stop := asked(syscall.SIGUSR1)
		defer stop()
		// No process that this one starts is to have it: what it stands for would live on.
		syscall.CloseOnExec(parentFile)
		if err := unix.Fstat(parentFile, new(unix.Stat_t)); err != nil {
			return usage(hint.Errorf(fix, "%s was started by nobody of ours: descriptor %d is closed", cmd.Name(), parentFile))
		}
		return run(cmd.Context(), cmd, flags, claimName)
	}
	flags.registerDrain(cmd.Flags())
	flags.registerLogging(cmd.Flags())
	registerRunDir(cmd.Flags(), &flags.runDir)
	cmd.Flags().StringVar(&claimName, "claim", "", "the file, in the folder of --run-dir, in which the keeper says what it carries")
	return cmd
}

// keeperArgs is how to start it: this very program, also when its file has been
// replaced, with what is set of the flags that it shares with the daemon.
func (f *runFlags) keeperArgs(c config.Config) []string { return f.childArgs(keeperName, c) }

func (f *runFlags) childArgs(name string, c config.Config) []string {
	return []string{
		"/proc/self/exe", name, "--drain-timeout", c.DrainTimeout.String(), "--run-dir", f.runDir,
		"--log-format", c.LogFormat, "--log-level", c.LogLevel.String(),
		"--access-log", c.AccessLog.To, "--access-log-format", c.AccessLog.Format, "--access-log-sample", strconv.Itoa(c.AccessLog.Sample),
	}
}

// nameProcess names our process as our program, for ps(1) and for other tools that show which
// process has a connection: it was started by /proc/self/exe, and would be called "exe".
func nameProcess() { _ = os.WriteFile("/proc/self/comm", []byte("ambassadord"), 0) }

// preparerCommand is the process that the daemon starts to prepare new network namespaces.
func preparerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    preparerName + " FOLDER...",
		Short:  "Prepare new network namespaces; the daemon starts it",
		Hidden: true,
		RunE: func(cmd *cobra.Command, folders []string) error {
			_, stop := asked(syscall.SIGUSR1) // as the others
			defer stop()
			socket := os.NewFile(parentFile, "the daemon's socket")
			if _, err := socket.Stat(); err != nil {
				return usage(hint.Errorf("it is not for people to start", "%s has no daemon: descriptor %d is closed", preparerName, parentFile))
			}
			return oneshot.GoAhead(cmd.Context(), socket, folders)
		},
	}
}

// preparerArgs is how to start it: this very program, also when its file has been replaced.
func preparerArgs() []string { return []string{"/proc/self/exe", preparerName} }
