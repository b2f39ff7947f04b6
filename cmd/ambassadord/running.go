package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/operate"
	"github.com/ambassadord/ambassadord/internal/printable"
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

const statusHelp = `Show what the daemon that runs here knows, in one screen, what is wrong first: whether
it is ready, its listeners, containers with what they get at which port and the
mistakes in their declarations, targets with their endpoints, and limits.

With -o json it is the answer of the admin interface to /v1/status, which docs/admin.md
describes.`

func statusCommand(environ []string) *cobra.Command {
	var path string
	var out output
	var all bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon knows: containers, targets, endpoints, limits",
		Long:  statusHelp,
		Example: `  ambassadord status
  ambassadord status --all
  ambassadord status -o json`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			d := operate.At(path)
			defer d.Close()
			v, text, err := d.Status(cmd.Context())
			if err != nil {
				return err
			}
			if out.format == "json" {
				return writeJSON(cmd.OutOrStdout(), text)
			}
			ready, err := d.Ready(cmd.Context())
			if err != nil {
				return err
			}
			style := styleOf(cmd, environ)
			style.All = all
			operate.WriteStatus(cmd.OutOrStdout(), v, ready, style)
			return nil
		},
	}
	registerAdminPath(cmd.Flags(), &path)
	cmd.Flags().BoolVar(&all, "all", false, "show every row, however many there are")
	out.register(cmd.Flags())
	return cmd
}

const connectionsHelp = `List the connections that the daemon carries now, the oldest first, those that needed
more than one attempt before the others: who dialled which port, where that leads, for
how long, and how many bytes have gone to the endpoint and come from it.

With -o json it is the answer of the admin interface to /v1/connections, which
docs/admin.md describes.`

// usualConnections is how many connections are listed unless --limit says otherwise.
const usualConnections = 100

func connectionsCommand(environ []string) *cobra.Command {
	var path string
	var out output
	wanted := operate.Wanted{Limit: usualConnections}
	cmd := &cobra.Command{
		Use:   "connections",
		Short: "List the connections that go on",
		Long:  connectionsHelp,
		Example: `  ambassadord connections
  ambassadord connections --client shop-app-1 --port 6379
  ambassadord connections --endpoint 10.1.2.3 -o json`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if wanted.Limit < 1 {
				return usage(hint.Errorf("give a number such as 1000", "--limit must be more than 0"))
			}
			d := operate.At(path)
			defer d.Close()
			c, text, err := d.Connections(cmd.Context(), wanted)
			if err != nil {
				return err
			}
			if out.format == "json" {
				return writeJSON(cmd.OutOrStdout(), text)
			}
			operate.WriteConnections(cmd.OutOrStdout(), c, styleOf(cmd, environ))
			return nil
		},
	}
	registerAdminPath(cmd.Flags(), &path)
	cmd.Flags().StringVar(&wanted.Client, "client", "", "those of the container with this name, `ID` or service")
	cmd.Flags().Uint16Var(&wanted.Port, "port", 0, "those that dialled this port")
	cmd.Flags().StringVar(&wanted.Target, "target", "", "those that lead to this target, as the log writes it")
	cmd.Flags().StringVar(&wanted.Endpoint, "endpoint", "", "those to this endpoint: HOST:PORT, HOST or its name")
	cmd.Flags().IntVar(&wanted.Limit, "limit", wanted.Limit, "how many are listed at most")
	out.register(cmd.Flags())
	return cmd
}

// styleOf is how cmd shows things to people.
func styleOf(cmd *cobra.Command, environ []string) operate.Style {
	f := &runFlags{environ: environ}
	colors := f.lookup("NO_COLOR") == "" && f.lookup("TERM") != "dumb" // no-color.org
	return operate.StyleFor(cmd.OutOrStdout(), colors, f.lookup("COLUMNS"))
}

// writeJSON prints an answer as it came, but for characters that a terminal would act on.
func writeJSON(w io.Writer, text []byte) error {
	_, err := printable.Writer(w).Write(text)
	return err
}
