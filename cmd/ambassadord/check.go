package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/logging"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

func checkCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	cmd := &cobra.Command{
		Use:   "check [TARGET | LISTEN_PORT=TARGET …]",
		Short: "Check flags, a configuration file and targets, and touch nothing",
		Example: `  ambassadord check 6379=redis.service.consul
  ambassadord check 'docker://?label=app=redis&port=6379'
  ambassadord check --config /etc/ambassadord.yml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var listeners, targets []string
			for _, arg := range args {
				if _, _, ok := config.CutListener(arg); ok || flags.listen != "" {
					listeners = append(listeners, arg)
				} else {
					if err := mistakenTarget(cmd.Root(), arg); err != nil {
						return err
					}
					targets = append(targets, arg)
				}
			}
			cfg, err := flags.load(cmd.Flags(), listeners)
			if err != nil {
				return err
			}
			parse, err := oneshot.NewParser(cfg, logging.New(cfg, cmd.ErrOrStderr()))
			if err != nil {
				return usage(err)
			}
			if err := settings.Check(cfg, parse); err != nil {
				return usage(err)
			}
			out := cmd.OutOrStdout()
			for _, l := range cfg.Listeners {
				fmt.Fprintf(out, "listen %s -> %s\n", l.Address, l.Target)
			}
			if flags.configFile != "" {
				fmt.Fprintf(out, "config %s: %s with options, %s, %s of the policy, %s limited\n",
					flags.configFile, shorten.Count(len(cfg.Targets), "target", "targets"), shorten.Count(len(cfg.Clients), "client", "clients"),
					shorten.Count(len(cfg.Policy.Rules), "rule", "rules"), shorten.Count(len(cfg.Limits), "option", "options"))
			}
			for _, text := range targets {
				t, err := parse(text)
				if err != nil {
					return usage(err)
				}
				fmt.Fprintf(out, "target %s\n", t)
			}
			if len(args) == 0 || cmd.Flags().Changed("mode") {
				modes := make([]string, len(cfg.Modes))
				for i, m := range cfg.Modes {
					modes[i] = string(m)
				}
				fmt.Fprintf(out, "mode %s\n", strings.Join(modes, ","))
			}
			fmt.Fprintln(out, "ok")
			return nil
		},
	}
	flags.register(cmd.Flags())
	flags.registerFile(cmd)
	return cmd
}
