// Package engines is what the project promises on each Docker engine, and the tests
// behind it: the table of docs/engines.md.
//
// [Features] is the one list of the tests that depend on the engine. The command in
// matrix/ runs them on every one of [Engines], each in namespaces of its own
// (scripts/engine), and writes down what came of them; [Page] makes the page of that.
// All other tests run once, beside the distribution's engine, in the same run.
package engines

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Engine is one that the tests run on.
type Engine struct {
	// Name is scripts/engine's.
	Name string
	// Title heads its column.
	Title string
	// Backend is the firewall backend, as the engine calls it.
	Backend string
	// Built says that it is built from the modules that the repository pins.
	Built bool
	// Release begins the version of one that is not: it is the distribution's.
	Release string
}

// Engines are the columns of the table.
var Engines = []Engine{
	{Name: "20.10", Title: "Debian's", Backend: "iptables", Release: "20.10."},
	{Name: "29", Title: "29", Backend: "iptables", Built: true},
	{Name: "29-nft", Title: "29", Backend: "nftables", Built: true},
}

// Feature is a row of the table: something that users rely on.
type Feature struct {
	// Mode is the mode that it is about, or what else rows are grouped by.
	Mode string
	// Name says what works.
	Name string
	// Tests hold it, each as PACKAGE.TestName or PACKAGE.TestName/subtest, where PACKAGE
	// is the last element of its folder. It works where all of them pass.
	Tests []string
	// Not are the engines, by name, on which it does not work, and why. Its tests do not
	// run there.
	Not map[string]string
}

// Packages are the folders of the tests, by their last element.
var Packages = map[string]string{
	"e2e":        "e2e",
	"dockerd":    "internal/dockerd",
	"dockertest": "internal/dockertest",
	"docker":     "resolver/docker",
}

// split returns the package and the name of a test.
func split(test string) (pkg, name string) {
	pkg, name, _ = strings.Cut(test, ".")
	return pkg, name
}

// function is the test function of a test or subtest.
func function(test string) string {
	name, _, _ := strings.Cut(test, "/")
	return name
}

// Run is what to run of one package on an engine.
type Run struct {
	// Folder is that of the package.
	Folder string
	// Tests are the test functions that are to run, in the order of their names.
	Tests []string
	// Skip matches, for go test's flag -skip, what of them is not to run; it may be "".
	Skip string
}

// Runs are what to run of features on the engine named engine, in the order of the packages'
// names.
func Runs(features []Feature, engine string) []Run {
	functions, without := map[string][]string{}, map[string][]string{}
	for _, f := range features {
		_, not := f.Not[engine]
		for _, test := range f.Tests {
			pkg, name := split(test)
			if not {
				without[pkg] = append(without[pkg], pattern(name))
			}
			functions[pkg] = append(functions[pkg], function(name))
		}
	}
	var runs []Run
	for pkg, names := range functions {
		slices.Sort(names)
		runs = append(runs, Run{Folder: Packages[pkg], Tests: slices.Compact(names), Skip: strings.Join(without[pkg], "|")})
	}
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Folder, b.Folder) })
	return runs
}

// pattern matches the test or subtest named name alone.
func pattern(name string) string {
	return "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
}

// Alone are the tests, of package e2e, that measure time, or fill the machine: they run when
// nothing else does.
var Alone = []string{
	// How quick honest clients are beside hostile ones.
	"TestHostileTenants", "TestOneClientDeniesNobody", "TestATenantEjectsNothing",
	// What a flood costs, and how much of it gets through.
	"TestNobodyFillsTheLog", "TestARegistryOfATenantsOwn",
	// Whether any first dial comes too early, of many containers that start at once.
	"TestEngineRestartsItsContainers", "TestFirstInstructionUnderLoad",
	// Memory, descriptors, thousands of connections.
	"TestManyIdleConnections", "TestOutOfDescriptors", "TestSlowPeersAffectNobody", "TestMemoryPressure",
}

// IsAlone reports whether the test or subtest, PACKAGE.TestName, is one of those.
func IsAlone(test string) bool {
	pkg, name := split(test)
	return pkg == "e2e" && slices.Contains(Alone, function(name))
}

// Either matches, for go test's flag -run, the test functions of names alone.
func Either(names []string) string { return "^(" + strings.Join(names, "|") + ")$" }

// pinnedModules are what an engine that is built from its modules consists of.
var pinnedModules = []pinnedModule{
	{"moby", "engine29/moby", "github.com/moby/moby/v2"},
	{"containerd", "engine29/containerd", "github.com/containerd/containerd/v2"},
	{"runc", "engine29/runc", "github.com/opencontainers/runc"},
}

// compose is what the tests of Compose run.
var compose = pinnedModule{"Compose", "compose", "github.com/docker/compose/v5"}

// pinnedModule is one that a go.mod in a folder of tools/ requires.
type pinnedModule struct{ name, folder, module string }

// version says which, as "NAME v1.2.3". The repository is in root.
func (p pinnedModule) version(root string) (string, error) {
	file := filepath.Join(root, "tools", p.folder, "go.mod")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	_, after, found := strings.Cut(string(text), "\t"+p.module+" v")
	if !found {
		return "", fmt.Errorf("%s requires no %s", file, p.module)
	}
	version, _, _ := strings.Cut(after, "\n")
	version, _, _ = strings.Cut(version, " ")
	return p.name + " v" + version, nil
}

// Pinned says which versions of the engine's modules the repository in root pins.
func Pinned(root string) (string, error) {
	var parts []string
	for _, p := range pinnedModules {
		version, err := p.version(root)
		if err != nil {
			return "", err
		}
		parts = append(parts, version)
	}
	return strings.Join(parts, ", "), nil
}

// PinnedCompose says so of Compose.
func PinnedCompose(root string) (string, error) { return compose.version(root) }
