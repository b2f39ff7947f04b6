package main

import (
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/agent"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
)

func resolveCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	var watch bool
	cmd := &cobra.Command{
		Use:   "resolve TARGET",
		Short: "Print the endpoints of a target",
		Example: `  ambassadord resolve redis.service.consul
  ambassadord resolve --watch 'docker://?label=app=redis&port=6379'`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.config(cmd.Flags(), nil)
			if err != nil {
				return err
			}
			log := slog.New(slog.DiscardHandler) // the answer says what failed
			parse, err := agent.NewParser(cfg, log)
			if err != nil {
				return usage(err)
			}
			if _, err := parse(args[0]); err != nil {
				return usage(err)
			}
			out := cmd.OutOrStdout()
			return agent.Resolve(cmd.Context(), cfg, args[0], watch, log, func(endpoints []resolver.Endpoint, err error) {
				if watch {
					fmt.Fprintf(out, "# %s\n", time.Now().Format(time.TimeOnly))
				}
				if err != nil {
					fmt.Fprintf(out, "# %v\n", err)
					if h := hint.Of(err); h != "" {
						fmt.Fprintf(out, "# hint: %s\n", h)
					}
					return
				}
				printEndpoints(out, endpoints)
			})
		},
	}
	flags.registerSources(cmd.Flags())
	cmd.Flags().BoolVar(&watch, "watch", false, "print again after every change, until interrupted")
	return cmd
}

func printEndpoints(out io.Writer, endpoints []resolver.Endpoint) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	for _, e := range endpoints {
		fmt.Fprintf(w, "%s\tpriority=%d\tweight=%d\t%s\n", e.Addr, e.Priority, e.Weight, e.Name)
	}
}
