package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/logging"
	"github.com/ambassadord/ambassadord/internal/rulescmd"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

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
