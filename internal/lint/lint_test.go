package lint_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/lint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/settings"
	"github.com/ambassadord/ambassadord/resolver"
)

var update = flag.Bool("update", false, "write the messages of testdata")

// options read a file as a daemon without any flags does.
func options(t testing.TB, name string) lint.Options {
	t.Helper()
	cfg := config.Default()
	cfg.Modes = []config.Mode{config.Redirect}
	parse, err := oneshot.NewParser(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s, err := (&settings.Reader{Parse: parse, Modes: cfg.Modes}).Read(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return lint.Options{Kind: lint.KindOf(name), Parse: parse, Layers: s.Layers}
}

// told is all that is to be told of a file, as text.
func told(name string, content []byte, o lint.Options) string {
	found, err := lint.File(name, content, o)
	if err != nil {
		return fmt.Sprintf("error: %v\n  hint: %s\n", err, hint.Of(err))
	}
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s:%d:%d: %s: %s: %s: %q\n  hint: %s\n", f.File, f.Line, f.Column, f.Level, f.Service, f.Origin, f.Message, f.Hint)
	}
	return b.String()
}

// files are those of testdata that are linted.
func files(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/*")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(path string) bool { return strings.HasSuffix(path, ".want") })
}

// TestFiles: each file has its messages, which stand beside it; those that are good have none.
func TestFiles(t *testing.T) {
	count := 0
	for _, path := range files(t) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		got := told(name, content, options(t, name))
		if strings.HasPrefix(name, "good") {
			if got != "" {
				t.Errorf("%s:\n%s", path, got)
			}
			continue
		}
		count++
		if got == "" {
			t.Errorf("%s has no findings", path)
		}
		if *update {
			if err := os.WriteFile(path+".want", []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path + ".want")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if count < 40 {
		t.Errorf("%d broken files; want 40 at least", count)
	}
}

// TestOurOwnFilesAreClean: those that we give to others, and those of our pages.
func TestOurOwnFilesAreClean(t *testing.T) {
	count := 0
	for _, folder := range []string{"examples", "deploy"} {
		err := filepath.WalkDir(filepath.Join("../..", folder), func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() && (entry.Name() == "grafana" || entry.Name() == "prometheus") {
				return filepath.SkipDir // whose files are none of Compose
			}
			if err != nil || entry.IsDir() || lint.KindOf(path) == lint.Labels {
				return err
			}
			count++
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if got := told(path, content, options(t, path)); got != "" {
				t.Error(got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
			block, _, _ = strings.Cut(block, "```")
			if !strings.HasPrefix(block, "services:") {
				continue
			}
			examples++
			if got := told("c.yaml", []byte(block), options(t, "c.yaml")); got != "" {
				t.Errorf("%s: %s\n%s", page, block, got)
			}
		}
	}
	if count == 0 || examples == 0 {
		t.Errorf("%d files and %d examples of pages are linted", count, examples)
	}
}

// TestVerdictIsTheDaemons: what is said of a file of labels is what a container with them is told.
func TestVerdictIsTheDaemons(t *testing.T) {
	for _, path := range files(t) {
		if !strings.HasPrefix(filepath.Base(path), "label-") {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		o := options(t, path)
		labels := map[string]string{}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimLeft(strings.TrimRight(line, "\n"), " "); line != "" && line[0] != '#' {
				key, value, _ := strings.Cut(line, "=")
				labels[key] = value
			}
		}
		var want []string
		for _, p := range binding.Read(binding.Declarer{Labels: labels}, o.Layers, o.Parse).Problems {
			want = append(want, p.Error())
		}
		found, err := lint.File(path, content, o)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found {
			got = append(got, f.Origin+": "+strings.TrimSuffix(f.Message, ", unless its image does"))
		}
		for _, text := range want {
			if !slices.Contains(got, text) {
				t.Errorf("%s: the daemon says %q, and lint\n%s", path, text, strings.Join(got, "\n"))
			}
		}
	}
}

// TestStages: the stage that is built is the last, or the one that is asked for, by its name or number.
func TestStages(t *testing.T) {
	content := []byte("FROM alpine AS one\nLABEL connect.1=a:x\nFROM alpine\nLABEL connect.2=a:x\nFROM one AS three\nLABEL connect.3=a:x\n")
	for stage, want := range map[string][]int{"": {2, 6}, "one": {2}, "ONE": {2}, "1": {4}, "2": {2, 6}} {
		o := options(t, "Dockerfile")
		o.Stage = stage
		found, err := lint.File("Dockerfile", content, o)
		if err != nil {
			t.Errorf("stage %q: %v", stage, err)
		}
		var got []int
		for _, f := range found {
			got = append(got, f.Line)
		}
		if !slices.Equal(got, want) {
			t.Errorf("stage %q: mistakes in lines %v; want %v", stage, got, want)
		}
	}
	o := options(t, "Dockerfile")
	o.Stage = "thre"
	_, err := lint.File("Dockerfile", content, o)
	if err == nil || err.Error() != `Dockerfile has no stage "thre"` || hint.Of(err) != "did you mean three?" {
		t.Errorf("%v, %q", err, hint.Of(err))
	}
}

// TestUnknownIsNoMistake: whatever the policy is, what is not in the file is told as that alone.
func TestUnknownIsNoMistake(t *testing.T) {
	o := options(t, "c.yaml")
	layers := *o.Layers
	layers.Permit = func(binding.Declarer, binding.Place, resolver.Target) error {
		return errors.New("nothing is permitted")
	}
	o.Layers = &layers
	got := told("c.yaml", []byte("services: {app: {labels: {connect.1: \"${A}\", connect.1.wait: \"${B}\", connect.2: \"a:1\"}}}"), o)
	want := `c.yaml:1:38: note: app: label connect.1: "not checked: ${A} is not in this file"`
	if strings.Count(got, "mistake:") != 1 || !strings.Contains(got, "label connect.2: \"nothing is permitted\"") || !strings.Contains(got, want) {
		t.Errorf("%s\nwant one mistake, of connect.2, and %s", got, want)
	}
}

func TestKindOf(t *testing.T) {
	for name, want := range map[string]string{
		"compose.yaml": lint.Compose, "a/docker-compose.override.yml": lint.Compose, "x.json": lint.Compose,
		"Dockerfile": lint.Dockerfile, "a/Dockerfile.prod": lint.Dockerfile, "web.Dockerfile": lint.Dockerfile, "Containerfile": lint.Dockerfile,
		"labels": lint.Labels, "-": lint.Labels, "app.labels": lint.Labels,
	} {
		if got := lint.KindOf(name); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
}

// TestJSON: the names of the fields are a promise.
func TestJSON(t *testing.T) {
	found, err := lint.File("c.yaml", []byte("services: {app: {labels: {conect.1: \"a:1\"}}}"), options(t, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(found)
	const want = `[{"file":"c.yaml","line":1,"column":27,"level":"mistake","service":"app","origin":"label conect.1",` +
		`"message":"looks like a declaration but is none; passed over","hint":"did you mean connect.1?"}]`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

// TestHostileFiles: files that are made to take long take no longer than others, and have bounded answers.
func TestHostileFiles(t *testing.T) {
	many := func(n int, text string) string { return strings.Repeat(text, n) }
	numbered := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	doubled := func(n int, format string) string { // each names the one before twice
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i+1, i, i)
		}
		return b.String()
	}
	for name, file := range map[string]struct{ name, content string }{
		"aliases of aliases":       {"c.yaml", "x0: &a0 {connect.1: x}\n" + doubled(40, "x%[1]d: &a%[1]d {<<: [*a%[2]d, *a%[3]d]}\n") + "services: {app: {labels: *a40}}\n"},
		"an alias of itself":       {"c.yaml", "services: {app: &a {labels: {<<: *a}}}\n"},
		"one mapping many times":   {"c.yaml", "x: &x {" + numbered(5000, "connect.%d: x,") + "}\nservices:\n" + numbered(900, "  s%d: {labels: {<<: *x}}\n")},
		"services in a row":        {"c.yaml", "services:\n  s0: {labels: [connect.1=x]}\n" + numbered(990, "  s%[1]d0: {extends: s%[1]d}\n")},
		"a cycle of services":      {"c.yaml", "services:\n  a: {extends: b, network_mode: 'service:b'}\n  b: {extends: a, network_mode: 'service:a'}\n"},
		"one long line":            {"c.yaml", "services: {app: {labels: [" + numbered(40000, "connect.%d=x,") + "]}}\n"},
		"ranges of ports":          {"c.yaml", "services: {app: {ports: [" + many(50000, "1-65535,") + "], labels: [" + numbered(1500, "connect.%d=a:1,") + "]}}\n"},
		"deep flow":                {"c.yaml", many(200000, "[")},
		"nested variables":         {"c.yaml", "services: {app: {labels: {connect.1: \"" + many(60000, "${A:-") + many(60000, "}") + "\"}}}\n"},
		"open variables":           {"c.yaml", "services: {app: {labels: {connect.1: \"" + many(200000, "${A") + "\"}}}\n"},
		"doubled variables":        {"Dockerfile", "FROM scratch\nENV A0=xxxxxxxxxxxxxxxx\n" + doubled(60, "ENV A%d=$A%d$A%d\n") + "LABEL connect.1=$A60\n"},
		"nested variables of ours": {"Dockerfile", "FROM scratch\nENV A=" + many(60000, "${A:-") + many(60000, "}") + "\n"},
		"one long instruction":     {"Dockerfile", "FROM scratch\nLABEL " + numbered(60000, "connect.%d=x ") + "\n"},
		"many lines in one":        {"Dockerfile", "FROM scratch\nLABEL " + numbered(60000, "connect.%d=x \\\n") + "\n"},
		"here-documents":           {"Dockerfile", "FROM scratch\n" + "RUN " + many(100000, "<<A ") + "\n" + many(100000, "A\n")},
		"stages":                   {"Dockerfile", "FROM scratch AS s0\n" + numbered(999, "FROM s%[1]d AS s%[1]d0\n")},
		"labels":                   {"l", numbered(60000, "connect.%d=x\n")},
		"near misses":              {"l", numbered(60000, "conect.%d=x\n")},
		"one long label":           {"l", "connect." + many(1000000, "1") + "=x"},
		"one long target":          {"l", "connect.1=" + many(1000000, "a")},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			got := told(file.name, []byte(file.content), options(t, file.name))
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if len(got) > 2<<20 {
				t.Errorf("the answer has %d bytes", len(got))
			}
		})
	}
	if got := told("l", make([]byte, lint.MaxFile+1), options(t, "l")); !strings.Contains(got, "l has more than 1048576 bytes") {
		t.Errorf("a file past the bound: %.100s", got)
	}
}

func FuzzFile(f *testing.F) {
	paths, err := filepath.Glob("testdata/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if !strings.HasSuffix(path, ".want") {
			f.Add(slices.Index(lint.Kinds(), lint.KindOf(path)), content)
		}
	}
	o := options(f, "")
	f.Fuzz(func(t *testing.T, kind int, content []byte) {
		o.Kind = lint.Kinds()[uint(kind)%uint(len(lint.Kinds()))]
		start := time.Now()
		found, err := lint.File("f", content, o)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%d bytes took %v", len(content), took)
		}
		if err != nil && (hint.Of(err) == "" || len(err.Error()) > 8192) {
			t.Errorf("%q has no hint, or is too long", err)
		}
		lines := strings.Count(string(content), "\n") + strings.Count(string(content), "\r") + strings.Count(string(content), "\u2028") +
			strings.Count(string(content), "\u2029") + strings.Count(string(content), "\u0085") + 1
		for _, one := range found {
			if one.Line < 1 || one.Line > lines || one.Column < 1 || one.Column > len(content)+2 {
				t.Errorf("%+v is not in the file, of %d lines", one, lines)
			}
			if one.Message == "" || len(one.Message) > 8192 || len(one.Hint) > 8192 {
				t.Errorf("%+v says nothing, or too much", one)
			}
		}
	})
}
