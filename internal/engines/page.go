package engines

import (
	"fmt"
	"strings"
)

// Works is what a cell of the table says where every test of its row has passed.
const Works = "works"

const heading = `# Engines

What works on which Docker engine. The tests below run on each of them, in a network, mount
and PID namespace of its own; a cell says "works" where all tests of its row have passed
there.

This page is made by ` + "`make engines`" + `, or ` + "`make test MATRIX=-update`" + `, from such a run: do not edit it.
` + "`make test`" + ` runs the same tests again, and all others beside the distribution's engine. By itself it
changes nothing, and fails if a cell says "works" and one of its tests does not pass, or if the page is
stale. Its rows are ` + "`internal/engines/features.go`" + `, its results ` + "`docs/engines.json`" + `.
` + "`scripts/engine 29 COMMAND`" + ` runs any command beside an engine.

The engines that are built are built once, from the Go modules that ` + "`tools/`" + ` pins, as are Compose
(v5) and gVisor's runsc. Podman's tests run once, beside the distribution's engine.

`

// Page is docs/engines.md.
func Page(features []Feature, results *Results) string {
	var b strings.Builder
	b.WriteString(heading)
	for _, e := range Engines {
		version := "not run"
		if of := results.Engines[e.Name]; of != nil {
			version = of.Version
		}
		fmt.Fprintf(&b, "- **%s, %s**: %s\n", e.Title, e.Backend, version)
	}
	b.WriteString("\n| mode | feature |")
	for _, e := range Engines {
		fmt.Fprintf(&b, " %s, %s |", e.Title, e.Backend)
	}
	b.WriteString(" tests |\n| --- | --- |")
	b.WriteString(strings.Repeat(" --- |", len(Engines)) + " --- |\n")
	for _, f := range features {
		fmt.Fprintf(&b, "| %s | %s |", f.Mode, f.Name)
		for _, e := range Engines {
			fmt.Fprintf(&b, " %s |", cell(&f, results.Engines[e.Name], e.Name))
		}
		fmt.Fprintf(&b, " %s |\n", tests(&f))
	}
	return b.String()
}

// cell says whether f works on an engine.
func cell(f *Feature, of *EngineResults, engine string) string {
	if why, not := f.Not[engine]; not {
		return "no: " + why
	}
	passed := 0
	for _, test := range f.Tests {
		if of != nil && of.Tests[test] == Passed {
			passed++
		}
	}
	switch {
	case passed < len(f.Tests):
		return fmt.Sprintf("unproven: %d of %d tests passed", passed, len(f.Tests))
	case passed == 0:
		return "unproven: no test"
	}
	return Works
}

// tests names those of f.
func tests(f *Feature) string {
	names := make([]string, len(f.Tests))
	for i, test := range f.Tests {
		names[i] = "`" + strings.TrimPrefix(test, "e2e.") + "`"
	}
	return strings.Join(names, ", ")
}
