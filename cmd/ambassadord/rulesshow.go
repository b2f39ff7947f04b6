package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rulescmd"
)

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
			err := rulescmd.Show(cmd.Context(), folder, newLogger(config.Default(), cmd.ErrOrStderr()), func(s rulescmd.Shown) {
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
