package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/resolver"
)

// pages are what users read: the README and the pages under docs, without the decisions, which
// tell of what was.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file)] = string(text)
	}
	return texts
}

var (
	// span is code within a line, commandLine a line of a console block.
	span        = regexp.MustCompile("`([^`\n]+)`")
	commandLine = regexp.MustCompile(`(?m)^(?:[#$] )?(ambassadord(?: .*)?)$`)
	// remark is what a command line says of itself, behind two spaces.
	remark = regexp.MustCompile(`\s{2,}#? ?.*$`)
	word   = regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)
	// declared is a label or an option as a page writes it: connect.6379.wait=5s.
	declared = regexp.MustCompile(`\bconnect(?:\.(?:PORT|\d+)|\[(?:PORT|\d+)\])?((?:\.[a-z-]+)?)=('[^']*'|[^\s` + "`" + `,)]+)`)
	flagSpan = regexp.MustCompile(`^--([a-z][a-z-]*)`)
)

// TestPagesNameCommandsThatThereAre: each command line of ours that a page shows has flags that
// its command takes, and each flag that a page names by itself is one of ours or is listed here.
func TestPagesNameCommandsThatThereAre(t *testing.T) {
	root := rootCommand(nil)
	known := map[string]bool{"version": true, "help": true}
	for _, c := range commandsOf(root) {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	}
	seen := 0
	for page, text := range pages(t) {
		var lines []string
		for _, m := range commandLine.FindAllStringSubmatch(text, -1) {
			lines = append(lines, remark.ReplaceAllString(m[1], ""))
		}
		for _, m := range span.FindAllStringSubmatch(text, -1) {
			switch flag := flagSpan.FindStringSubmatch(m[1]); {
			case strings.HasPrefix(m[1], "ambassadord ") && !strings.Contains(m[1], "…"):
				lines = append(lines, m[1])
			case flag != nil && !known[flag[1]] && !slices.Contains(flagsOfOthers, flag[1]):
				t.Errorf("%s: no command of ours has the flag --%s, nor is it listed as another program's", page, flag[1])
			}
		}
		for _, line := range lines {
			seen++
			checkCommandLine(t, root, page, line)
		}
	}
	if seen < 20 {
		t.Errorf("only %d command lines found: are they written otherwise by now?", seen)
	}
}

// flagsOfOthers are flags of docker, dockerd, iptables and others that pages name.
var flagsOfOthers = []string{
	"cap-add", "cap-drop", "exec-root", "expose", "internal", "link", "net", "network", "noflush", "pid", "privileged", "tmpfs",
}

func checkCommandLine(t *testing.T, root *cobra.Command, page, line string) {
	t.Helper()
	words := word.FindAllString(line, -1)[1:]
	cmd, _, err := root.Find(words)
	if err != nil {
		t.Errorf("%s: %q: %v", page, line, err)
		return
	}
	for _, w := range words {
		if w == "--" || w == "|" {
			return
		}
		name, isFlag := strings.CutPrefix(w, "--")
		name, _, _ = strings.Cut(name, "=")
		if isFlag && name != "version" && name != "help" && cmd.Flags().Lookup(name) == nil {
			t.Errorf("%s: %q: %s has no flag --%s", page, line, cmd.CommandPath(), name)
		}
	}
}

// TestPagesDeclareWhatParses: each label that a page shows is a target that parses, or an option
// with a value that it takes.
func TestPagesDeclareWhatParses(t *testing.T) {
	parse, err := oneshot.NewParser(config.Default(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for page, text := range pages(t) {
		for _, m := range declared.FindAllStringSubmatch(text, -1) {
			name, value := strings.TrimPrefix(m[1], "."), strings.Trim(m[2], `'"`)
			if value == "TARGET" || value == "VALUE" || name == "" && strings.HasPrefix(m[0], "connect=") {
				continue
			}
			seen++
			if name == "" {
				checkTarget(t, parse, page, value)
				continue
			}
			o, err := option.Lookup(name)
			if err == nil {
				err = o.Validate(value)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", page, m[0], err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d declarations found: are they written otherwise by now?", seen)
	}
}

// TestReadmeTargetsParse: the first column of the README's table of targets.
func TestReadmeTargetsParse(t *testing.T) {
	parse, err := oneshot.NewParser(config.Default(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(pages(t)["../README.md"], "## Targets\n")
	table, _, _ := strings.Cut(rest, "\n## ")
	rows := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		rows++
		cell, _, _ := strings.Cut(strings.ReplaceAll(line[1:], `\|`, "\x00"), "|")
		for _, m := range span.FindAllStringSubmatch(cell, -1) {
			target := strings.NewReplacer("HOST:PORT", "127.0.0.1:8500", "\x00", "|").Replace(m[1])
			checkTarget(t, parse, "README.md", target)
		}
	}
	if !ok || rows == 0 {
		t.Error("the README has no table of targets")
	}
}

func checkTarget(t *testing.T, parse func(string) (resolver.Target, error), page, text string) {
	t.Helper()
	if _, err := parse(text); err != nil {
		t.Errorf("%s: %q is no target: %v", page, text, err)
	}
}
