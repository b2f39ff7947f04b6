package main

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/doctor"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/proxy"
)

var update = flag.Bool("update", false, "write docs/reference.md")

const referencePage = "../../docs/reference.md"

// TestReference: docs/reference.md is what the program knows of itself.
func TestReference(t *testing.T) {
	want := reference(t)
	if *update {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); to write it: go test ./cmd/ambassadord -run TestReference -update\n%s", referencePage, diff)
	}
}

// reference is the page.
func reference(t *testing.T) string {
	t.Helper()
	root := rootCommand(nil)
	root.InitDefaultCompletionCmd()
	var b strings.Builder
	b.WriteString("# Reference\n\nEvery command, flag, target, reason, check and variable, as the program itself knows them.\n" +
		"This page is made by `go test ./cmd/ambassadord -run TestReference -update`; the same test fails where\n" +
		"the page and the program differ.\n\n" +
		"[Commands](#commands) · [Flags](#flags-of-run) · [Exit codes](#exit-codes) · [Targets](#targets) · [Options](#options) ·\n" +
		"[Reasons](#reasons) · [Checks of doctor](#checks-of-doctor) · [Environment](#environment)\n")
	writeCommands(&b, root)
	b.WriteString("\n## Exit codes\n\n| code | when |\n| --- | --- |\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "| %d | %s |\n", e.code, e.meaning)
	}
	b.WriteString("\n## Targets\n\nWhat a container or a listener may name. Details, parameters and rules: [targets.md](targets.md).\n\n| target | endpoints |\n| --- | --- |\n")
	for _, f := range targetForms {
		forms := make([]string, len(f.forms))
		for i, form := range f.forms {
			forms[i] = "`" + strings.ReplaceAll(form, "|", `\|`) + "`"
		}
		means := f.means
		if f.more != "" {
			means += "; " + f.more
		}
		fmt.Fprintf(&b, "| %s | %s |\n", strings.Join(forms, ", "), means)
	}
	writeOptions(&b)
	b.WriteString("\n## Reasons\n\nWhy a connection failed or was ended: `reason` of its line in the log. The client gets a reset.\nWhat to do about each: [troubleshooting.md](troubleshooting.md).\n\n| reason | what happened |\n| --- | --- |\n")
	for _, r := range proxy.Reasons() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r, r.Meaning())
	}
	b.WriteString("\n## Checks of doctor\n\n| check | looks at |\n| --- | --- |\n")
	for _, c := range doctor.Checks(t.Context(), doctor.Options{}) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", c.Name, c.LooksAt)
	}
	b.WriteString("\n## Environment\n\nVariables of the daemon's own environment. What a container declares in its own: [options.md](options.md).\n\n| variable | is |\n| --- | --- |\n")
	for _, v := range environment {
		fmt.Fprintf(&b, "| `%s` | %s |\n", v.name, v.means)
	}
	return b.String()
}

// writeCommands writes the table of commands, run's flags, and of each other command what is its own.
func writeCommands(b *strings.Builder, root *cobra.Command) {
	commands := commandsOf(root)
	b.WriteString("\n## Commands\n\n| command | does |\n| --- | --- |\n")
	for _, c := range commands {
		fmt.Fprintf(b, "| [`%s`](#%s) | %s |\n", usageLine(c), anchor(c), lowerFirst(c.Short))
	}
	run, _, err := root.Find([]string{"run"})
	if err != nil {
		panic(err)
	}
	for _, c := range commands {
		fmt.Fprintf(b, "\n### %s\n\n```text\n%s\n```\n", c.CommandPath(), strings.TrimSpace(cmp.Or(c.Long, c.Short+".")))
		if c.Example != "" {
			fmt.Fprintf(b, "\n```console\n%s\n```\n", prompts(c.Example))
		}
		if c == run {
			b.WriteString("\nIts flags: [below](#flags-of-run).\n")
			continue
		}
		var shared []string
		var own []*pflag.Flag
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			switch of := run.Flags().Lookup(f.Name); {
			case f.Hidden || f.Name == "help":
			case of != nil && of.Usage == f.Usage && of.DefValue == f.DefValue:
				shared = append(shared, f.Name)
			default:
				own = append(own, f)
			}
		})
		all := 0
		run.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" {
				all++
			}
		})
		switch {
		case len(shared) == all:
			b.WriteString("\nIt takes every flag of [`run`](#flags-of-run).\n")
		case len(shared) == all-1 && !slices.Contains(shared, configFlag):
			b.WriteString("\nIt takes every flag of [`run`](#flags-of-run) but `--config`.\n")
		case len(shared) > 0:
			fmt.Fprintf(b, "\nFlags of [`run`](#flags-of-run) that it takes: `--%s`.\n", strings.Join(shared, "`, `--"))
		}
		writeFlags(b, own)
	}
	b.WriteString("\n## Flags of run\n\nEach is a key of the [configuration file](config.md) as well, but for `--config`, `--listen`, `--default` and\n`--limit`.\n")
	var flags []*pflag.Flag
	run.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			flags = append(flags, f)
		}
	})
	writeFlags(b, flags)
}

// commandsOf are c and those below it that a user may know of, in the order of help.
func commandsOf(c *cobra.Command) []*cobra.Command {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	all := []*cobra.Command{c}
	if c.Name() == "completion" { // one for each shell, which say the same
		return all
	}
	for _, sub := range c.Commands() {
		all = append(all, commandsOf(sub)...)
	}
	return all
}

func usageLine(c *cobra.Command) string {
	if c.Name() == "completion" {
		return c.CommandPath() + " SHELL"
	}
	return strings.TrimSuffix(strings.ReplaceAll(c.UseLine(), "|", `\|`), " [flags]")
}

func anchor(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func lowerFirst(s string) string {
	if s == "" || strings.HasPrefix(s[1:], strings.ToUpper(s[1:2])) {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// prompts puts a prompt before each command of an example.
func prompts(example string) string {
	lines := strings.Split(strings.TrimRight(example, "\n"), "\n")
	for i, l := range lines {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "ambassadord") {
			l = "# " + l
		}
		lines[i] = l
	}
	return strings.Join(lines, "\n")
}

// presetInText is a default that a flag's usage says, where no value of its own is one.
var presetInText = regexp.MustCompile(`^(.*) \(default:? ([^)]*)\)(.*)$`)

// zeroInText is what a flag's usage says that 0 means.
var zeroInText = regexp.MustCompile(`^(.*) \((0: [^)]*)\)(.*)$`)

// reasonInText is a reason of package proxy in a usage.
var reasonInText = regexp.MustCompile(`\b[a-z]+_[a-z_]+\b`)

var pageInText = regexp.MustCompile(`See docs/([a-z-]+\.md)`)

func writeFlags(b *strings.Builder, flags []*pflag.Flag) {
	if len(flags) == 0 {
		return
	}
	b.WriteString("\n| flag | default | |\n| --- | --- | --- |\n")
	for _, f := range flags {
		_, usage := pflag.UnquoteUsage(f)
		preset := f.DefValue
		switch preset {
		case "false", "[]":
			preset = ""
		}
		preset = strings.ReplaceAll(strings.Trim(preset, "[]"), ",", "`, `")
		if preset != "" {
			preset = "`" + preset + "`"
		}
		if m := presetInText.FindStringSubmatch(usage); m != nil {
			usage, preset = m[1]+m[3], m[2]
		}
		if m := zeroInText.FindStringSubmatch(usage); m != nil {
			usage = m[1] + m[3] + "; " + strings.Replace(m[2], "0: ", "0 is ", 1)
		}
		usage = reasonInText.ReplaceAllString(usage, "`$0`")
		usage = pageInText.ReplaceAllString(usage, "See [$1]($1)")
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", name, preset, strings.ReplaceAll(usage, "|", `\|`))
	}
}

// writeOptions lists the names of the options; their table is docs/options.md's.
func writeOptions(b *strings.Builder) {
	b.WriteString("\n## Options\n\nWhat can be set for a port, a target, or all. Default, range and meaning of each, and where it may be\n" +
		"set: [options.md](options.md), made of the same table.\n\n| options | |\n| --- | --- |\n")
	var group option.Group
	for i, o := range option.All() {
		switch {
		case i > 0 && o.Group == group:
			b.WriteString(", ")
		case i > 0:
			b.WriteString(" |\n")
			fallthrough
		default:
			group = o.Group
			fmt.Fprintf(b, "| [%s](options.md#%s) | ", group, strings.ReplaceAll(strings.ToLower(string(group)), " ", "-"))
		}
		b.WriteString("`" + o.Name + "`")
	}
	b.WriteString(" |\n")
}

// TestTargetFormsAreThoseOfTheSources: each parses to the scheme that it says, and no scheme
// that the daemon knows is without one, or is a kind of target that no rule of the policy can name.
func TestTargetFormsAreThoseOfTheSources(t *testing.T) {
	parse, err := oneshot.NewParser(config.Default(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for _, f := range targetForms {
		target, err := parse(f.example)
		if err != nil {
			t.Errorf("%s: %v", f.example, err)
			continue
		}
		if f.scheme == "" {
			if len(target.Choices) < 2 {
				t.Errorf("%s is no chain", f.example)
			}
			continue
		}
		for q := range target.Queries() {
			if q.Scheme != f.scheme {
				t.Errorf("%s is answered by the source %s, not %s", f.example, q.Scheme, f.scheme)
			}
		}
		described[f.scheme] = true
	}
	_, err = parse("nothing://x")
	known := regexp.MustCompile(`the schemes are \[(.*)\]`).FindStringSubmatch(hint.Of(err))
	if known == nil {
		t.Fatalf("a scheme that is not known has no hint that lists those that are: %v, %q", err, hint.Of(err))
	}
	for _, scheme := range strings.Fields(known[1]) {
		if !described[scheme] {
			t.Errorf("targetForms has no row of the scheme %s", scheme)
		}
		if !slices.Contains(policy.Kinds(), scheme) {
			t.Errorf("no rule of the policy can name the scheme %s: internal/policy has no such kind", scheme)
		}
	}
}

// ofLibraries are variables that libraries read, which our own sources need not name.
var ofLibraries = []string{
	api.HTTPAddrEnvName, api.HTTPTokenEnvName, api.HTTPTokenFileEnvName, api.HTTPAuthEnvName, api.HTTPSSLEnvName,
	api.HTTPSSLVerifyEnvName, api.HTTPCAFile, api.HTTPCAPath, api.HTTPClientCert, api.HTTPClientKey, api.HTTPTLSServerName,
	api.HTTPNamespaceEnvName, api.HTTPPartitionEnvName,
	"LISTEN_FDS", // go-systemd's activation
	"HTTP_PROXY", // net/http's ProxyFromEnvironment, which consul/api's transport has
}

// TestEnvironmentIsWhatIsRead: every variable that the daemon's sources read is in the table,
// and each of the table is read by them or by a library.
func TestEnvironmentIsWhatIsRead(t *testing.T) {
	read := map[string]string{}
	for _, name := range ofLibraries {
		read[name] = "a library"
	}
	for _, top := range []string{"cmd/ambassadord", "internal", "netrules", "proxy", "resolver"} {
		if err := filepath.WalkDir(filepath.Join("..", "..", top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || ofTests(path) {
				return err
			}
			return variablesOf(path, func(name string) { read[name] = path })
		}); err != nil {
			t.Fatal(err)
		}
	}
	described := map[string]bool{}
	for _, v := range environment {
		if described[v.name] || v.means == "" {
			t.Errorf("%s is there twice, or says nothing", v.name)
		}
		described[v.name] = true
		if read[v.name] == "" {
			t.Errorf("the table has %s, which nothing reads", v.name)
		}
	}
	for name, by := range read {
		if !described[name] {
			t.Errorf("%s reads %s, which the table in reference.go lacks", by, name)
		}
	}
}

// ofTests reports whether the file is of a package that tests alone import.
func ofTests(path string) bool {
	folder := filepath.Base(filepath.Dir(path))
	return strings.HasSuffix(folder, "test") || folder == "netlab" || folder == "matrix"
}

// variablesOf finds the literal names that a source file reads of the environment, by os or by
// the lookup of run's flags.
func variablesOf(path string, found func(string)) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || f.Sel.Name != "Getenv" && f.Sel.Name != "LookupEnv" && f.Sel.Name != "lookup" {
			return true
		}
		literal, ok := call.Args[0].(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		if name, err := strconv.Unquote(literal.Value); err == nil && name == strings.ToUpper(name) {
			found(name)
		}
		return true
	})
	return nil
}
