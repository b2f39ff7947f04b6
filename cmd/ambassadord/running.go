package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/operate"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/internal/status"
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
	cmd.AddCommand(closeCommand())
	registerAdminPath(cmd.Flags(), &path)
	cmd.Flags().StringVar(&wanted.Client, "client", "", "those of the container with this name, `ID` or service")
	cmd.Flags().Uint16Var(&wanted.Port, "port", 0, "those that dialled this port")
	cmd.Flags().StringVar(&wanted.Target, "target", "", "those that lead to this target, as the log writes it")
	cmd.Flags().StringVar(&wanted.Endpoint, "endpoint", "", "those to this endpoint: HOST:PORT, HOST or its name")
	cmd.Flags().IntVar(&wanted.Limit, "limit", wanted.Limit, "how many are listed at most")
	completeAbout(cmd, &path)
	out.register(cmd.Flags())
	return cmd
}

const eventsHelp = `Show what the daemon that runs here has told of lately, the oldest first: what its log
says, but for connections that ended well. The last 2000 are kept. -f goes on with what
happens from then on, also by the daemon after this one.

With -o json each is an object of its own, on a line of its own, as docs/admin.md
describes them.`

// usualEvents is how many events are shown unless --limit says otherwise.
const usualEvents = 50

func eventsCommand(environ []string) *cobra.Command {
	var path string
	var out output
	var follow bool
	var since time.Duration
	wanted := operate.EventsWanted{Limit: usualEvents}
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what has happened lately, and what happens",
		Long:  eventsHelp,
		Example: `  ambassadord events -f
  ambassadord events --level warn --since 10m
  ambassadord events --client shop-app-1 -o json`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			switch {
			case wanted.Limit < 1:
				return usage(hint.Errorf("give a number such as 1000", "--limit must be more than 0"))
			case since < 0:
				return usage(hint.Errorf("give how long ago, such as 10m", "--since must not be less than 0"))
			case since > 0:
				wanted.Since = uint64(time.Now().Add(-since).UnixMicro())
				if !cmd.Flags().Changed("limit") {
					wanted.Limit = 0
				}
			}
			d := operate.At(path)
			defer d.Close()
			w, style := cmd.OutOrStdout(), styleOf(cmd, environ)
			show := func(e status.Event, text []byte) {
				if out.format == "json" {
					_ = writeJSON(w, append(bytes.Clone(text), '\n')) // who has left sees nothing
					return
				}
				operate.WriteEvent(w, e, style)
			}
			list, _, err := d.Events(cmd.Context(), wanted)
			if err != nil {
				return err
			}
			told := func(message string) { fmt.Fprintln(cmd.ErrOrStderr(), message) }
			lost := func() { told("some events are missing: the daemon keeps the last 2000 only") }
			if list.Lost {
				lost()
			}
			wanted.Since = max(wanted.Since, list.Now)
			for _, e := range list.Events {
				text, err := json.Marshal(e)
				if err != nil {
					return err
				}
				show(e, text)
			}
			if !follow {
				return nil
			}
			return d.Follow(cmd.Context(), wanted, operate.Watcher{Event: show, Lost: lost, Away: func(err error) {
				told(fmt.Sprintf("waiting for the daemon: %v", err))
			}})
		},
	}
	registerAdminPath(cmd.Flags(), &path)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens from now on")
	cmd.Flags().DurationVar(&since, "since", 0, "what happened in the last 10m, and the like")
	cmd.Flags().StringVar(&wanted.Client, "client", "", "about the container with this name, `ID` or service")
	cmd.Flags().StringVar(&wanted.Target, "target", "", "about this target, as the log writes it")
	cmd.Flags().StringVar(&wanted.Level, "level", "", "of this level and above: debug, info, warn or error")
	cmd.Flags().StringVar(&wanted.Message, "message", "", "with this message")
	cmd.Flags().IntVar(&wanted.Limit, "limit", wanted.Limit, "how many are shown at most of those that have happened")
	completeAbout(cmd, &path)
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
