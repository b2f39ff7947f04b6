package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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

// rulesFlags are the flags that say which rules are wanted.
type rulesFlags struct {
	run    *runFlags
	mode   string
	listen uint16
	output output
}

func (f *rulesFlags) register(set *pflag.FlagSet, listen string) {
	f.run.registerSources(set)
	set.StringVar(&f.mode, "mode", string(config.Redirect),
		"redirect: the rules in each container that declares a port; host and link: those of this network namespace")
	f.run.registerHost(set)
	f.run.registerRules(set)
	set.StringVar(&f.run.configFile, configFlag, "", "the daemon's configuration file, for what it declares for containers")
	set.Uint16Var(&f.listen, "listen-port", 0, listen)
	f.output.register(set)
}

func (f *rulesFlags) parse() (config.Config, rulescmd.Wanted, error) {
	wanted := rulescmd.Wanted{ListenPort: f.listen}
	// The mode is not run's: the flag set that has it stays here.
	cfg, err := f.run.config(pflag.NewFlagSet("", pflag.ContinueOnError), nil)
	if err != nil {
		return cfg, wanted, err
	}
	modes, err := config.ParseModes([]string{f.mode})
	if err != nil {
		return cfg, wanted, usage(err)
	}
	wanted.Mode = modes[0]
	if wanted.Mode != config.Redirect && wanted.Mode != config.Host && wanted.Mode != config.Link {
		return cfg, wanted, usage(hint.Errorf("give redirect, host or link", "mode %s has no rules to plan", wanted.Mode))
	}
	if f.run.configFile != "" {
		file, err := f.run.load(pflag.NewFlagSet("", pflag.ContinueOnError), nil)
		if err != nil {
			return cfg, wanted, err
		}
		cfg.Defaults, cfg.Targets, cfg.Clients = file.Defaults, file.Targets, file.Clients
	}
	cfg.TrustSources = f.run.trustSources
	cfg.Rules = f.run.rules
	if err := cfg.ValidRules(); err != nil {
		return cfg, wanted, usage(err)
	}
	if cfg.HostAddrs, err = config.ParseHostAddrs(f.run.hostAddrs); err != nil {
		return cfg, wanted, usage(err)
	}
	return cfg, wanted, f.output.check()
}

func rulesPlanCommand(environ []string) *cobra.Command {
	flags := &rulesFlags{run: newRunFlags(environ)}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print the rules that each container needs and what would change",
		Long: `Print the rules that each container needs, and what would change for it.

Lines with + would be added, lines with - removed, the others stay. Nothing is
changed. With --mode host that includes the addresses and the guard's table.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, wanted, err := flags.parse()
			if err != nil {
				return err
			}
			var all planned
			err = rulescmd.Plan(cmd.Context(), cfg, wanted, logging.New(cfg, cmd.ErrOrStderr()), all.add)
			return all.print(&flags.output, cmd.OutOrStdout(), err)
		},
	}
	flags.register(cmd.Flags(), "the port that the rules lead to (default: a running daemon's, else what the next would take)")
	return cmd
}

func rulesApplyCommand(environ []string) *cobra.Command {
	flags := &rulesFlags{run: newRunFlags(environ)}
	cmd := &cobra.Command{
		Use:   "apply --listen-port PORT",
		Short: "Set the rules once, for another process that listens at PORT",
		Long: `Set the rules once, for hosts where another process listens at PORT: in mode
redirect on loopback inside each container that declares a port, in modes host and
link in this network namespace. Of mode host that is the chains alone, for addresses
that the host has: the guard against forged source addresses lives with its process,
so it takes --trust-source-addresses. Have the other process listen first: a daemon
that starts in another mode removes rules that lead to a port where nobody listens, as
a dead daemon's. It prints what it changed, as plan does; a second time
there is nothing to change. "ambassadord rules remove" takes the rules away.`,
		Example: `  ambassadord rules plan --listen-port 15001
  ambassadord rules apply --listen-port 15001`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, wanted, err := flags.parse()
			if err != nil {
				return err
			}
			if wanted.ListenPort == 0 {
				return usage(hint.Errorf("say where the process listens: --listen-port 15001", "--listen-port is missing"))
			}
			var all planned
			err = rulescmd.Apply(cmd.Context(), cfg, wanted, logging.New(cfg, cmd.ErrOrStderr()), all.add)
			return all.print(&flags.output, cmd.OutOrStdout(), err)
		},
	}
	flags.register(cmd.Flags(), "the port that the rules lead to")
	registerRunDir(cmd.Flags(), &flags.run.runDir)
	return cmd
}

// planned gathers what rulescmd.Plan or rulescmd.Apply report.
type planned struct {
	all    []plannedJSON
	failed []error
}

type plannedJSON struct {
	Client    string     `json:"client"`
	ID        string     `json:"id"`
	Namespace string     `json:"namespace"`
	Family    string     `json:"family"`
	Chain     string     `json:"chain"`
	Changes   int        `json:"changes"`
	Lines     []lineJSON `json:"lines"`
	Unlisted  string     `json:"unlisted,omitempty"`
}

type lineJSON struct {
	Sign string `json:"sign"` // "+", "-" or " "
	Rule string `json:"rule"`
}

func (all *planned) add(p rulescmd.Planned) {
	who := p.Client
	if who == "" {
		who = "this network namespace"
	}
	if p.Err != nil {
		all.failed = append(all.failed, fmt.Errorf("%s: %w", who, p.Err))
		return
	}
	j := plannedJSON{
		Client: p.Client, ID: p.ID, Namespace: p.Namespace, Family: p.Family.String(),
		Chain: p.Chain.Name, Changes: p.Changes, Lines: []lineJSON{}, Unlisted: unlisted(p.Unlisted),
	}
	for _, l := range p.Diff {
		j.Lines = append(j.Lines, lineJSON{Sign: string(l.Sign), Rule: l.Text})
	}
	all.all = append(all.all, j)
}

func (all *planned) print(o *output, w io.Writer, err error) error {
	printErr := printAll(o, w, all.all, func(w io.Writer, p plannedJSON) {
		who := p.Client
		if who == "" {
			who = "this network namespace"
		}
		fmt.Fprintf(w, "# %s, %s: %s\n", who, p.Family, shorten.Count(p.Changes, "change", "changes"))
		if p.Unlisted != "" {
			fmt.Fprintf(w, "# %s\n", p.Unlisted)
		}
		for _, l := range p.Lines {
			fmt.Fprintf(w, "%s %s\n", l.Sign, l.Rule)
		}
	})
	return errors.Join(append(all.failed, err, printErr)...)
}
