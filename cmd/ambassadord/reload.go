package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/oneshot"
)

const reloadHelp = `Make the daemon that runs here read its configuration again, as SIGHUP does, and
say what became of it. It must run as the same user, and where the daemon runs: with
one in a container, by docker exec.

With --control it is the daemon that has this socket; otherwise it is the one that
there is.`

func reloadCommand() *cobra.Command {
	var name, folder string
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its configuration again",
		Long:  reloadHelp,
		Example: `  ambassadord reload
  ambassadord reload --run-dir /run/user/1000/ambassadord`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := oneshot.Reload(cmd.Context(), folder, name, versionText()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "reloaded")
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "control", "", "the path of the daemon's control socket, where there are several (they are in --run-dir)")
	registerRunDir(cmd.Flags(), &folder)
	return cmd
}
