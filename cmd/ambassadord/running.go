package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/admin"
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

const closeHelp = `Close connections that the daemon carries: both sides are reset, and the log says
operator_closed. Say which, by what "ambassadord connections" shows of them; what is
said twice has to hold at once. Needs root, or the daemon's user.`

func closeCommand() *cobra.Command {
	var path string
	var order operate.CloseOrder
	cmd := &cobra.Command{
		Use:   "close",
		Short: "Close connections",
		Long:  closeHelp,
		Example: `  ambassadord connections close --endpoint 10.1.2.3:6379
  ambassadord connections close --source 172.17.0.4:51234`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (order == operate.CloseOrder{}) {
				return usage(hint.Errorf("give --client, --port, --target, --endpoint or --source, or --all", "which connections is not said"))
			}
			d := operate.At(path)
			defer d.Close()
			closed, _, err := d.CloseConnections(cmd.Context(), order)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "closed: %d\n", closed.Closed)
			return nil
		},
	}
	registerAdminPath(cmd.Flags(), &path)
	cmd.Flags().StringVar(&order.Client, "client", "", "those of the container with this name, `ID` or service")
	cmd.Flags().Uint16Var(&order.Port, "port", 0, "those that dialled this port")
	cmd.Flags().StringVar(&order.Target, "target", "", "those that lead to this target, as the log writes it")
	cmd.Flags().StringVar(&order.Endpoint, "endpoint", "", "those to this endpoint: HOST:PORT, HOST or its name")
	cmd.Flags().StringVar(&order.Source, "source", "", "the one from this `ADDRESS`")
	cmd.Flags().BoolVar(&order.All, "all", false, "every connection")
	completeAbout(cmd, &path)
	return cmd
}

const endpointsHelp = `Show or change what an operator has decided of endpoints. Each command needs root, or
the daemon's user; the list does not.

What is decided holds for all targets that have the endpoint, over reloads, takeovers
and restarts, until "restore" takes it back; connections that are open go on. Endpoints
are named by HOST:PORT with an IP address, or as their source names them.`

func endpointsCommand(environ []string) *cobra.Command {
	var path string
	var out output
	show := func(cmd *cobra.Command, ask func(d *operate.Daemon) (admin.Decisions, []byte, error)) error {
		if err := out.check(); err != nil {
			return err
		}
		d := operate.At(path)
		defer d.Close()
		all, text, err := ask(d)
		if err != nil {
			return err
		}
		if out.format == "json" {
			return writeJSON(cmd.OutOrStdout(), text)
		}
		operate.WriteDecisions(cmd.OutOrStdout(), all, time.Now(), styleOf(cmd, environ))
		return nil
	}
	root := &cobra.Command{
		Use:   "endpoints",
		Short: "Drain, eject, weigh and restore endpoints",
		Long:  endpointsHelp,
		Example: `  ambassadord endpoints
  ambassadord endpoints drain 10.1.2.3:6379
  ambassadord endpoints eject redis-2 --for 10m
  ambassadord endpoints weight 10.1.2.3:6379 5
  ambassadord endpoints restore 10.1.2.3:6379`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, func(d *operate.Daemon) (admin.Decisions, []byte, error) { return d.Endpoints(cmd.Context()) })
		},
	}
	registerAdminPath(root.PersistentFlags(), &path)
	out.register(root.PersistentFlags())
	for _, one := range []struct{ use, short, long string }{
		{"drain ENDPOINT", "Give an endpoint no more connections", "Give an endpoint no more connections, not for want of others either. Those that it has go on."},
		{"eject ENDPOINT", "Take an endpoint out for a while", "Take an endpoint out: it gets connections for want of others alone, until --for is over, or restore."},
		{"weight ENDPOINT WEIGHT", "Give an endpoint another weight", "Give an endpoint another weight, from 0 to 65535, in place of its source's. With 0 it gets a hundredth of one with 1."},
		{"restore ENDPOINT", "Take back what was decided of an endpoint", "Take back what was decided of an endpoint, and end an ejection after failures."},
	} {
		action, rest, _ := strings.Cut(one.use, " ")
		order := operate.EndpointOrder{Action: action}
		var lasts time.Duration
		cmd := &cobra.Command{
			Use: one.use, Short: one.short, Long: one.long, Args: exactArgs(len(strings.Fields(rest))),
			RunE: func(cmd *cobra.Command, args []string) error {
				order.Endpoint = args[0]
				if len(args) > 1 {
					n, err := strconv.ParseUint(args[1], 10, 16)
					if err != nil {
						return usage(hint.Errorf("give a number from 0 to 65535", "%q is no weight", args[1]))
					}
					order.Weight = uint16(n)
				}
				if lasts < 0 {
					return usage(hint.Errorf("give a duration such as 10m", "--for must be more than 0"))
				}
				if lasts > 0 {
					order.For = lasts.String()
				}
				return show(cmd, func(d *operate.Daemon) (admin.Decisions, []byte, error) { return d.Decide(cmd.Context(), order) })
			},
		}
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completions(&path, endpointsOf)(cmd, args, begun)
		}
		if action == "eject" {
			cmd.Flags().DurationVar(&lasts, "for", 0, "how long, such as 10m; without it until restore")
		}
		if action != "restore" {
			cmd.Flags().BoolVar(&order.Unknown, "unknown", false, "take an address that no target names yet")
		}
		root.AddCommand(cmd)
	}
	return root
}

const logLevelHelp = `Set the level from which on the daemon that runs here logs, until a reload or its end.
Needs root, or the daemon's user.`

func logLevelCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "loglevel LEVEL",
		Short: "Set the daemon's log level: debug, info, warn or error",
		Long:  logLevelHelp,
		Example: `  ambassadord loglevel debug
  ambassadord loglevel info`,
		Args:      exactArgs(1),
		ValidArgs: []string{"debug", "info", "warn", "error"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(cmd.ValidArgs, args[0]) {
				return usage(hint.Errorf("debug, info, warn or error", "%q is no level", args[0]))
			}
			d := operate.At(path)
			defer d.Close()
			done, err := d.LogLevel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), operate.Said(done.Done))
			return nil
		},
	}
	registerAdminPath(cmd.Flags(), &path)
	return cmd
}

const drainHelp = `Stop the daemon that runs here, as SIGTERM does: it accepts nothing more, and ends when its
last connection has, or --drain-timeout is over. What supervises it may start it again.
Needs root, or the daemon's user. For single endpoints: ambassadord endpoints drain.`

func drainCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Stop the daemon, once its connections have ended",
		Long:  drainHelp,
		Args:  exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := operate.At(path)
			defer d.Close()
			done, err := d.Drain(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), operate.Said(done.Done))
			return nil
		},
	}
	registerAdminPath(cmd.Flags(), &path)
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

// completePatience is how long a shell waits for the daemon to say what may be written there.
const completePatience = 2 * time.Second

// completions are what the daemon at *path knows of what begins with what was written; nothing where it is not
// reached, or where a shell might make something else of it.
func completions(path *string, of func(v *status.View) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completePatience)
		defer cancel()
		d := operate.At(*path)
		defer d.Close()
		v, _, err := d.Status(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all := slices.DeleteFunc(of(&v), func(text string) bool {
			return text == "" || !strings.HasPrefix(text, begun) || printable.Text(text) != text || strings.ContainsAny(text, "\t ")
		})
		slices.Sort(all)
		return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeAbout completes the flags of cmd that say what is meant.
func completeAbout(cmd *cobra.Command, path *string) {
	for flag, of := range map[string]func(*status.View) []string{
		"client": clientsOf, "target": targetsOf, "endpoint": endpointsOf, "port": portsOf,
		"source": func(v *status.View) []string {
			return texts(v.Connections, func(c *status.ConnectionView) []string { return []string{c.Source} })
		},
		"level": func(*status.View) []string { return []string{"debug", "info", "warn", "error"} },
	} {
		if cmd.Flags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, completions(path, of)) // it is there, and has none
		}
	}
}

// texts are those of all of a list.
func texts[T any](list []T, of func(*T) []string) (all []string) {
	for i := range list {
		all = append(all, of(&list[i])...)
	}
	return all
}

func clientsOf(v *status.View) []string {
	return texts(v.Containers, func(c *status.Container) []string { return []string{c.Name, c.Service} })
}

func targetsOf(v *status.View) []string {
	return append(texts(v.Listeners, func(l *status.ListenerView) []string { return []string{l.Target} }),
		texts(v.Containers, func(c *status.Container) []string {
			return texts(c.Bindings, func(b *status.Binding) []string { return []string{b.Target} })
		})...)
}

func endpointsOf(v *status.View) []string {
	return texts(v.Pools, func(p *status.PoolView) []string {
		return texts(p.Members, func(m *status.MemberView) []string { return []string{m.Address, m.Name} })
	})
}

func portsOf(v *status.View) []string {
	return texts(v.Containers, func(c *status.Container) []string {
		return texts(c.Bindings, func(b *status.Binding) []string { return []string{strconv.Itoa(int(b.Port))} })
	})
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
