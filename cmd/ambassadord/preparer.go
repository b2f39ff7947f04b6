package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
)

const preparerName = "preparer"

// preparerCommand is the process that the daemon starts to prepare new network namespaces.
func preparerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    preparerName + " FOLDER...",
		Short:  "Prepare new network namespaces; the daemon starts it",
		Hidden: true,
		RunE: func(cmd *cobra.Command, folders []string) error {
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
