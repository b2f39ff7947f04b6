package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/operate"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/internal/status"
)

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
