package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

func rulesCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Plan, show, apply or remove the rules in containers' network namespaces",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(rulesPlanCommand(environ), rulesShowCommand(), rulesApplyCommand(environ), rulesRemoveCommand())
	return cmd
}

func rulesRemoveCommand() *cobra.Command {
	var force bool
	var folder string
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Remove every rule of ours from every network namespace of this host",
		Long: `Remove every rule of ours from every network namespace of this host, and the
addresses of mode host that a killed daemon left.

No daemon and no engine are needed: it looks through /run/docker/netns,
/run/netns and the processes. Chains that are not ours are not touched, nor those
which lead to where another daemon listens, in a container of its own, say. Chains
that connections came by which another process carries on, as after kill -9 of the
daemon, are unhooked, so that nothing new comes by them, and go with the last of these.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			count := 0
			err := cleanup.Remove(cmd.Context(), folder, force, newLogger(config.Default(), cmd.ErrOrStderr()), func(r cleanup.Removed) {
				count += len(r.Chains)
				if r.Kept != "" {
					fmt.Fprintf(out, "%s: left alone, for it is served by %s\n", r.Namespace, r.Kept)
				}
				if r.Carried != "" {
					fmt.Fprintf(out, "%s: unhooked, and left for %s; it goes with the last of them, or by the next rules remove after that\n", r.Namespace, r.Carried)
				}
				if len(r.Chains) > 0 {
					fmt.Fprintf(out, "%s, %s: removed %s\n", r.Namespace, r.Family, strings.Join(r.Chains, ", "))
				}
				for _, addr := range r.Addrs {
					fmt.Fprintf(out, "%s, %s: removed the address %s\n", r.Namespace, r.Family, addr)
				}
			})
			fmt.Fprintf(out, "%d chains removed\n", count)
			return err
		},
	}
	registerRunDir(cmd.Flags(), &folder)
	cmd.Flags().BoolVar(&force, "force", false, "remove them although a daemon is running, here or elsewhere, which puts them back: in containers at once, elsewhere at its next repair; connections that another process carries on break")
	return cmd
}

// output is the flag -o: how a command prints what it found.
type output struct{ format string }

func (o *output) register(set *pflag.FlagSet) {
	set.StringVarP(&o.format, "output", "o", "text", "text or json")
}

func (o *output) check() error {
	if o.format == "text" || o.format == "json" {
		return nil
	}
	fix := "give text or json"
	if s := suggest.Closest(o.format, []string{"text", "json"}); s != "" {
		fix = fmt.Sprintf("did you mean %s?", s)
	}
	return usage(hint.Errorf(fix, "--output does not know %q", o.format))
}

// printAll writes all as one JSON array, or each by text.
func printAll[T any](o *output, w io.Writer, all []T, text func(io.Writer, T)) error {
	if o.format == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		if all == nil {
			all = []T{} // an array, and not null
		}
		return encoder.Encode(all)
	}
	for _, one := range all {
		text(w, one)
	}
	return nil
}
