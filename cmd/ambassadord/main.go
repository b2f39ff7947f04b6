// Command ambassadord is the proxy daemon of a Docker host: containers dial a
// fixed local address and reach what they declared, wherever it runs.
//
// A file for each subcommand, or for a few of one kind (rules.go, rulesplan.go, children.go, and
// running.go, whose commands ask a running daemon): each parses, calls a package of its own (daemon, oneshot, operate, rulescmd, doctor), and prints. flags.go makes a
// config.Config of the flags, and configfile.go of a file that stands below them.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitWarning = 3
)

// exitCodes says of each exit code when the program ends with it, for documentation.
var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "all went well; `run` also where it was stopped by a signal, or has handed over to another daemon and its last connection has ended"},
	{exitFailure, "a failure; `doctor`: a check fails; `lint`: a mistake; `explain`: connections fail"},
	{exitUsage, "a mistake on the command line or in the configuration file: nothing was done; `lint`: a file that cannot be read or parsed"},
	{exitWarning, "`doctor` has warnings and nothing worse; `explain`: something may be wrong"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program; main only adds the process.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := rootCommand(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if status := exitStatus(0); errors.As(err, &status) {
		return int(status)
	}
	fmt.Fprintf(stderr, "ambassadord: %v\n", err)
	if h := hint.Of(err); h != "" {
		fmt.Fprintf(stderr, "  hint: %s\n", h)
	}
	if u := new(usageError); errors.As(err, &u) {
		return exitUsage
	}
	return exitFailure
}

// exitStatus ends the program with that code, by a command that has said why.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// usageError is a mistake on the command line: exit code 2.
type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

// flagError adds a "did you mean" to what pflag says of an unknown flag.
func flagError(cmd *cobra.Command, err error) error {
	fix := fmt.Sprintf("see: %s --help", cmd.CommandPath())
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if s := suggest.Closest(strings.TrimLeft(unknown.GetSpecifiedName(), "-"), names); s != "" {
			fix = fmt.Sprintf("did you mean --%s?", s)
		}
	}
	return usage(hint.Wrap(err, fix))
}

// exactArgs is cobra.ExactArgs with a usage error.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usage(hint.Errorf("usage: "+cmd.UseLine(), "%s takes %d argument(s), not %d", cmd.CommandPath(), n, len(args)))
		}
		return nil
	}
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
		if all == nil {
			all = []T{} // an array, and not null
		}
		return encodeJSON(w, all)
	}
	for _, one := range all {
		text(w, one)
	}
	return nil
}

// encodeJSON writes v as people can read it, too.
func encodeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// Set by the linker: -X main.version=v1.2.3 -X main.commit=HASH. A plain go build
// leaves them, and the commit is what Go itself recorded.
var (
	version = "dev"
	commit  = ""
)

// versionText names the release, the commit and the Go that built it.
func versionText() string {
	commit := cmp.Or(commit, recordedCommit(), "unknown")
	return fmt.Sprintf("ambassadord %s (commit %s, %s, %s/%s)", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// recordedCommit is the commit in Go's build information, "" if there is none.
func recordedCommit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+modified"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + modified
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit and the Go version",
		Args:  exactArgs(0),
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), versionText()) },
	}
}
