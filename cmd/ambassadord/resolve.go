package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/resolver"
)

const resolveHelp = `Print the endpoints of a target: where, with which priority and weight, which
source named it, how long ago, its health where that is known, and its name.

Below them, each line with a #: the instances that were left out and why, what
the sources have to say, and which of them fail. With -o json each answer is one
object on a line of its own.`

func resolveCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	var question oneshot.Question
	var out output
	cmd := &cobra.Command{
		Use:   "resolve TARGET",
		Short: "Print the endpoints of a target",
		Long:  resolveHelp,
		Example: `  ambassadord resolve redis.service.consul
  ambassadord resolve --watch 'docker://?label=app=redis&port=6379'
  ambassadord resolve --as shop-app-1 docker://redis:6379
  ambassadord resolve -o json 'consul-service://redis | file:///etc/redis.list'`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if err := mistakenTarget(cmd.Root(), args[0]); err != nil {
				return err
			}
			cfg, err := flags.config(cmd.Flags(), nil)
			if err != nil {
				return err
			}
			log := slog.New(slog.DiscardHandler) // the answer says what failed
			parse, err := oneshot.NewParser(cfg, log)
			if err != nil {
				return usage(err)
			}
			if _, err := parse(args[0]); err != nil {
				return usage(err)
			}
			printer := statusPrinter{out: cmd.OutOrStdout(), json: out.format == "json", watch: question.Watch}
			question.Target = args[0]
			return oneshot.Resolve(cmd.Context(), cfg, question, log, func(s resolver.Status) { printer.print(s) })
		},
	}
	flags.registerSources(cmd.Flags())
	flags.registerMaxStale(cmd.Flags())
	cmd.Flags().StringVar(&question.As, "as", "", "`CONTAINER`, by its name or ID, for which to ask: a name in docker:// means one of its own project and networks first")
	cmd.Flags().BoolVar(&question.Watch, "watch", false, "print again after every change, until interrupted")
	out.register(cmd.Flags())
	return cmd
}
