package engines_test

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/engines"
)

var update = flag.Bool("update", false, "write docs/engines.md anew, of the results that are there")

const again = "make engines runs the tests on every engine and writes both anew"

// TestPageIsNotStale: docs/engines.md is made of the table and of the results of a run, and
// that was a run of these tests on these engines, which all have passed.
func TestPageIsNotStale(t *testing.T) {
	root := filepath.Join("..", "..")
	results, err := engines.Load(filepath.Join(root, "docs", "engines.json"))
	if err != nil {
		t.Fatalf("%v\n%s", err, again)
	}
	if err := results.Check(engines.Features); err != nil {
		t.Errorf("docs/engines.json: %v\n%s", err, again)
	}
	pinned, err := engines.Pinned(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range engines.Engines {
		if of := results.Engines[e.Name]; of != nil && e.Built && of.Version != pinned {
			t.Errorf("docs/engines.json is of %s %s, and tools/engine29 pins %s\n%s", e.Name, of.Version, pinned, again)
		}
	}
	file, page := filepath.Join(root, "docs", "engines.md"), engines.Page(engines.Features, results)
	if *update {
		if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != page {
		t.Errorf("docs/engines.md is not what the table and docs/engines.json make (%v)\ngo test ./internal/engines -update writes it anew", err)
	}
}

// TestInstallSaysWhatIsTested: the versions that docs/install.md says are those that the
// repository pins.
func TestInstallSaysWhatIsTested(t *testing.T) {
	root := filepath.Join("..", "..")
	text, err := os.ReadFile(filepath.Join(root, "docs", "install.md"))
	if err != nil {
		t.Fatal(err)
	}
	engine, err := engines.Pinned(root)
	if err != nil {
		t.Fatal(err)
	}
	compose, err := engines.PinnedCompose(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{engine, compose} {
		if !strings.Contains(string(text), want) {
			t.Errorf("docs/install.md does not say %q", want)
		}
	}
}

// TestFeatures: every row has tests, which exist, of packages that are run, and whose names
// no other package's tests have: those would be left out beside the distribution's engine.
func TestFeatures(t *testing.T) {
	everywhere := functions(t)
	known := map[string]bool{}
	for _, e := range engines.Engines {
		known[e.Name] = true
	}
	for _, f := range engines.Features {
		if len(f.Tests) == 0 {
			t.Errorf("%s: %s: no test holds it", f.Mode, f.Name)
		}
		for engine, why := range f.Not {
			if !known[engine] || why == "" {
				t.Errorf("%s: %s: it does not work on %q, because %q", f.Mode, f.Name, engine, why)
			}
		}
		for _, test := range f.Tests {
			pkg, name, _ := strings.Cut(test, ".")
			name, _, _ = strings.Cut(name, "/")
			want := []string{filepath.FromSlash(engines.Packages[pkg])}
			if got := everywhere[name]; !slices.Equal(got, want) {
				t.Errorf("%s is a test of %q, want %q alone", test, got, want)
			}
		}
	}
}

// TestAlone: what is to run alone exists, in package e2e only: it is left out of the run of all
// packages.
func TestAlone(t *testing.T) {
	everywhere := functions(t)
	for _, name := range engines.Alone {
		if got := everywhere[name]; !slices.Equal(got, []string{"e2e"}) {
			t.Errorf("%s is a test of %q, want e2e alone", name, got)
		}
		if test := "e2e." + name; !engines.IsAlone(test) || !engines.IsAlone(test+"/part") || engines.IsAlone(test+"More") || engines.IsAlone("docker."+name) {
			t.Errorf("%s is not told from others", name)
		}
	}
}

var function = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)

// functions are the folders of all test functions, by name.
func functions(t *testing.T) map[string][]string {
	t.Helper()
	root, all := filepath.Join("..", ".."), map[string][]string{}
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		for _, match := range function.FindAllStringSubmatch(string(text), -1) {
			all[match[1]] = append(all[match[1]], folder)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A cell is worth what its tests say.
func TestPage(t *testing.T) {
	features := []engines.Feature{
		{Mode: "redirect", Name: "one", Tests: []string{"e2e.TestOne", "docker.TestTwo/part"}},
		{Mode: "host", Name: "three", Tests: []string{"e2e.TestThree"}, Not: map[string]string{"29": "it cannot"}},
		{Mode: "host", Name: "nothing"},
	}
	passed := map[string]string{"e2e.TestOne": engines.Passed, "docker.TestTwo/part": engines.Passed, "e2e.TestThree": engines.Passed}
	part := map[string]string{"e2e.TestOne": engines.Passed, "docker.TestTwo/part": engines.Skipped}
	results := &engines.Results{Engines: map[string]*engines.EngineResults{
		"20.10": {Version: "v1", Tests: passed}, "29": {Version: "v2", Tests: part},
	}}
	page := engines.Page(features, results)
	for _, want := range []string{
		"- **Debian's, iptables**: v1\n", "- **29, nftables**: not run\n",
		"| redirect | one | works | unproven: 1 of 2 tests passed | unproven: 0 of 2 tests passed | `TestOne`, `docker.TestTwo/part` |\n",
		"| host | three | works | no: it cannot | unproven: 0 of 1 tests passed | `TestThree` |\n",
		"| host | nothing | unproven: no test | unproven: no test | unproven: no test |  |\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	err := results.Check(features)
	for _, want := range []string{"engine 29: docker.TestTwo/part: skipped", "engine 29-nft: no results"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// What is run on an engine is what its rows name, and no more.
func TestRuns(t *testing.T) {
	features := []engines.Feature{
		{Tests: []string{"e2e.TestOne/a_b", "e2e.TestOne/c"}},
		{Tests: []string{"docker.TestTwo"}},
		{Tests: []string{"e2e.TestThree/d"}, Not: map[string]string{"29": "it cannot"}},
	}
	want := []engines.Run{
		{Folder: "e2e", Tests: []string{"TestOne", "TestThree"}, Skip: "^TestThree$/^d$"},
		{Folder: "resolver/docker", Tests: []string{"TestTwo"}},
	}
	if got := engines.Runs(features, "29"); !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	want[0].Skip = ""
	if got := engines.Runs(features, "20.10"); !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := engines.Wanted(features, "29"), []string{"docker.TestTwo", "e2e.TestOne/a_b", "e2e.TestOne/c"}; !slices.Equal(got, want) {
		t.Errorf("wanted %q, want %q", got, want)
	}
}

// Lines of a test's stream that are no events are told, and do no harm.
func TestReadEvents(t *testing.T) {
	stream := "version: 1\n" + `{"Action":"pass","Package":"example.org/x/e2e","Test":"TestOne/a"}` + "\n{\n" + strings.Repeat("x", 1<<20) + "\n{}\n"
	var events, others []string
	err := engines.ReadEvents(strings.NewReader(stream),
		func(e engines.Event) { events = append(events, e.Action+" "+e.Name()) },
		func(line string) { others = append(others, line) })
	if err != nil || !slices.Equal(events, []string{"pass e2e.TestOne/a"}) || len(others) != 4 || others[0] != "version: 1" {
		t.Errorf("%q, %d others, %v", events, len(others), err)
	}
}
