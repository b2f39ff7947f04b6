package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/lint"
	"github.com/ambassadord/ambassadord/internal/logging"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/printable"
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

// standardInput is the name of a FILE that is none.
const standardInput = "-"

func lintCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	var o output
	var kind, stage string
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check what Compose files, Dockerfiles and files of labels declare",
		Long: `lint reads what files declare for containers, as the daemon would, and prints what is wrong with
it: FILE:LINE:COLUMN, and what to do. It asks nobody, and reads no other files. What a file does
not say, such as ${REDIS} in a Compose file, is told as a note, and what is only probably wrong as a
warning: neither changes the exit code.

The kind of a file is told by its name: *.yml, *.yaml and *.json are Compose's, Dockerfile,
Dockerfile.* and *.Dockerfile are Dockerfiles; others, and - for standard input, have a label
KEY=VALUE a line, as docker run --label-file takes.`,
		Example: `  ambassadord lint compose.yaml
  ambassadord lint --target web Dockerfile
  docker inspect -f '{{range $k, $v := .Config.Labels}}{{println $k "=" $v}}{{end}}' app |
    sed 's/ = /=/' | ambassadord lint -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(hint.Errorf("give one, for example: ambassadord lint compose.yaml", "lint takes a FILE"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			options, err := flags.linting(cmd)
			if err != nil {
				return err
			}
			options.Stage = stage
			var all []lint.Finding
			var failed []error
			for _, name := range args {
				options.Kind = cmp.Or(kind, lint.KindOf(name))
				found, err := lintFile(cmd.Context(), name, cmd.InOrStdin(), options)
				all, failed = append(all, found...), append(failed, err)
			}
			if err := printAll(&o, printable.Writer(cmd.OutOrStdout()), all, printFinding); err != nil {
				return err
			}
			if err := hint.Join(failed...); err != nil {
				return usage(err)
			}
			if slices.ContainsFunc(all, func(f lint.Finding) bool {
				return f.Level == lint.LevelMistake || strict && f.Level == lint.LevelWarning
			}) {
				return exitStatus(exitFailure)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "of the files, whatever their names: "+strings.Join(lint.Kinds(), ", "))
	cmd.Flags().StringVar(&stage, "target", "", "the stage of a Dockerfile that is built, by its name or number (default the last)")
	cmd.Flags().BoolVar(&strict, "strict", false, "end with 1 for warnings, too")
	o.register(cmd.Flags())
	flags.registerFile(cmd)
	return cmd
}

// linting are the options of lint by which declarations are read as a daemon reads them that has the
// flags of cmd.
func (f *runFlags) linting(cmd *cobra.Command) (lint.Options, error) {
	cfg, err := f.load(cmd.Flags(), nil)
	if err != nil {
		return lint.Options{}, err
	}
	parse, err := oneshot.NewParser(cfg, logging.New(cfg, cmd.ErrOrStderr()))
	if err != nil {
		return lint.Options{}, usage(err)
	}
	modes := cfg.Modes
	if slices.Contains(modes, config.Auto) {
		modes = []config.Mode{config.Redirect}
	}
	s, err := (&settings.Reader{Parse: parse, Modes: modes}).Read(cfg)
	if err != nil {
		return lint.Options{}, usage(err)
	}
	return lint.Options{Parse: parse, Layers: s.Layers}, nil
}

func lintFile(ctx context.Context, name string, stdin io.Reader, o lint.Options) ([]lint.Finding, error) {
	var content []byte
	var err error
	read := make(chan struct{})
	go func() { // a pipe to which nobody writes takes for ever, to open or to read, and signals only end ctx
		defer close(read)
		content, err = readFile(name, stdin)
	}()
	select {
	case <-read:
	case <-ctx.Done():
		return nil, hint.Wrap(fmt.Errorf("%s was not read to its end: %w", name, context.Cause(ctx)), "give a file, or a pipe that somebody writes to")
	}
	if err != nil {
		return nil, err
	}
	return lint.File(name, content, o)
}

// readFile reads no more of name, - for stdin, than lint takes, and a byte.
func readFile(name string, stdin io.Reader) ([]byte, error) {
	from := stdin
	if name != standardInput {
		f, err := os.Open(name)
		if err != nil {
			return nil, hint.Wrap(err, "give a file that this user may read, or - for standard input")
		}
		defer f.Close()
		from = f
	}
	content, err := io.ReadAll(io.LimitReader(from, lint.MaxFile+1))
	if err != nil {
		return nil, hint.Wrap(err, "give a file")
	}
	return content, nil
}

// printFinding writes FILE:LINE:COLUMN: and what is there, and what to do on a line of its own.
func printFinding(w io.Writer, f lint.Finding) {
	var text strings.Builder
	fmt.Fprintf(&text, "%s:%d:%d: ", f.File, f.Line, f.Column)
	if f.Level != lint.LevelMistake {
		fmt.Fprintf(&text, "%s: ", f.Level)
	}
	if f.Service != "" {
		fmt.Fprintf(&text, "%s: ", f.Service)
	}
	if f.Origin != "" {
		fmt.Fprintf(&text, "%s: ", f.Origin)
	}
	text.WriteString(f.Message)
	fmt.Fprintln(w, printable.Text(text.String()))
	if f.Hint != "" {
		fmt.Fprintf(w, "  hint: %s\n", printable.Text(f.Hint))
	}
}
