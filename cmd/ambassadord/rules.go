package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/cleanup"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/logging"
	"github.com/ambassadord/ambassadord/internal/rulescmd"
	"github.com/ambassadord/ambassadord/internal/shorten"
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
			err := cleanup.Remove(cmd.Context(), folder, force, logging.New(config.Default(), cmd.ErrOrStderr()), func(r cleanup.Removed) {
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
			fmt.Fprintf(out, "%s removed\n", shorten.Count(count, "chain", "chains"))
			return err
		},
	}
	registerRunDir(cmd.Flags(), &folder)
	cmd.Flags().BoolVar(&force, "force", false, "remove them although a daemon is running, here or elsewhere, which puts them back: in containers at once, elsewhere at its next repair; connections that another process carries on break")
	return cmd
}

func rulesShowCommand() *cobra.Command {
	var o output
	var folder string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show every rule of ours, with its counters, whose it is and why it is there",
		Long: `Show every rule of ours in every network namespace of this host: how much it
has matched, whose it is and why it is there. Chains that a dead daemon left are
named as orphans, unless connections need them that another process carries on, as
after kill -9 of the daemon: then that is said. Neither a daemon nor the engine is needed.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			var all []shownJSON
			err := rulescmd.Show(cmd.Context(), folder, logging.New(config.Default(), cmd.ErrOrStderr()), func(s rulescmd.Shown) {
				all = append(all, shown(s))
			})
			out := cmd.OutOrStdout()
			if len(all) == 0 && o.format == "text" {
				fmt.Fprintln(out, "no rules of ours")
			}
			return errors.Join(err, printAll(&o, out, all, printShown))
		},
	}
	o.register(cmd.Flags())
	registerRunDir(cmd.Flags(), &folder)
	return cmd
}

type shownJSON struct {
	Namespace string       `json:"namespace"`
	Family    string       `json:"family"`
	Variant   string       `json:"variant"`
	Rules     []ruleJSON   `json:"rules"`
	Orphans   []orphanJSON `json:"orphans"`
	Carried   string       `json:"carried,omitempty"`
	Unlisted  string       `json:"unlisted,omitempty"`
}

type ruleJSON struct {
	Rule     string `json:"rule"`
	Chain    string `json:"chain"`
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	Kind     string `json:"kind"`
	Client   string `json:"client,omitempty"`
	ID       string `json:"id,omitempty"`
	Declared string `json:"declared,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Listen   uint16 `json:"listen_port,omitempty"`
	Why      string `json:"why"`
}

type orphanJSON struct {
	Chain  string `json:"chain"`
	Reason string `json:"reason"`
}

func shown(s rulescmd.Shown) shownJSON {
	j := shownJSON{
		Namespace: s.Namespace, Family: s.Family.String(), Variant: string(s.Variant),
		Rules: []ruleJSON{}, Orphans: []orphanJSON{}, Carried: s.Carried,
	}
	for _, r := range s.Rules {
		j.Rules = append(j.Rules, ruleJSON{
			Rule: r.Text, Chain: r.Chain, Packets: r.Counters.Packets, Bytes: r.Counters.Bytes, Kind: string(r.Kind),
			Client: r.Client, ID: r.ID, Declared: r.Declared, Port: r.Port, Listen: r.Listen, Why: r.Why,
		})
	}
	for _, o := range s.Orphans {
		j.Orphans = append(j.Orphans, orphanJSON(o))
	}
	j.Unlisted = unlisted(s.Unlisted)
	return j
}

// unlisted is why a table could not be listed, and what to do about it, in one line.
func unlisted(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%v; %s", err, hint.Of(err))
}

func printShown(w io.Writer, s shownJSON) {
	fmt.Fprintf(w, "# %s, %s (%s)\n", s.Namespace, s.Family, s.Variant)
	if s.Unlisted != "" {
		fmt.Fprintf(w, "# %s\n", s.Unlisted)
	}
	for _, r := range s.Rules {
		fmt.Fprintf(w, "%s\n", r.Rule)
		if s.Unlisted != "" {
			fmt.Fprint(w, "    not counted")
		} else {
			fmt.Fprintf(w, "    %d packets, %d bytes", r.Packets, r.Bytes)
		}
		if r.Client != "" {
			fmt.Fprintf(w, "; %s (%s)", r.Client, r.ID)
		}
		if r.Declared != "" {
			fmt.Fprintf(w, ", %s", r.Declared)
		}
		fmt.Fprintf(w, "\n    %s\n", r.Why)
	}
	if s.Carried != "" {
		fmt.Fprintf(w, "needed by %s; ambassadord rules remove leaves it for them\n", s.Carried)
	}
	for _, o := range s.Orphans {
		fmt.Fprintf(w, "orphan %s: %s; ambassadord rules remove takes it away\n", o.Chain, o.Reason)
	}
}
