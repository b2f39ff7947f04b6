// Package registries says what becomes of targets while their registry fails: the table of
// docs/registries.md. Each cell of it is a test with real servers, which is run beside the
// others.
package registries

import (
	"fmt"
	"strings"
)

// Promise is what holds in a cell.
type Promise int

const (
	// Nothing is for a cell that means nothing; Why says so.
	Nothing Promise = iota
	// Keeps is that the last answer stays, and that the failure is told.
	Keeps
	// Returns is Keeps, and that a change is heard within 3 s of the registry's return.
	Returns
	// Hears is that a change is heard within 3 s, and a new target is served within the
	// resolver's patience, all the while.
	Hears
)

// words are what a table says of a promise.
var words = map[Promise]string{
	Keeps:   "the last answer stays",
	Returns: "the last answer stays; heard 3 s after its return",
	Hears:   "goes on",
}

// Faults are what may happen to a registry, or to the first of its servers.
var Faults = []struct{ Name, What string }{
	{"stopped", "the process is killed, and nobody listens any more"},
	{"frozen", "the process stands still (SIGSTOP), with its connections open; then goes on"},
	{"restarted", "it is killed, and started again with what it had"},
	{"restored", "it has again what it had when a backup was made, behind addresses that stay"},
	{"authenticated", "it wants a token or a login, and is restarted"},
	{"certified", "its certificate and its authority are others, in files that the client names"},
	{"leaderless", "the leader is killed"},
	{"slow", "each of its answers comes 2 s late"},
	{"half", "each of its answers ends in the middle"},
}

// Cell is one cell of the table.
type Cell struct {
	Promise Promise
	Why     string // for people: why it means nothing, or what else there is to say
}

func (c Cell) String() string {
	text := words[c.Promise]
	switch {
	case text == "":
		return "–: " + c.Why
	case c.Why != "":
		text += " (" + c.Why + ")"
	}
	return text
}

// Row is what becomes of a registry with one server and with several, by fault.
type Row struct{ One, Several map[string]Cell }

// Registries are the table's, in its order.
var Registries = []struct {
	Name string
	Row  Row
}{
	{"Consul", Row{
		One: map[string]Cell{
			"stopped": {Promise: Keeps}, "frozen": {Promise: Returns}, "restarted": {Promise: Returns},
			"restored": {Promise: Hears}, "authenticated": {Promise: Returns}, "certified": {Promise: Returns},
			"leaderless": {Why: "it is its own leader: see restarted"}, "slow": {Promise: Hears}, "half": {Promise: Returns},
		},
		Several: map[string]Cell{
			"stopped": {Promise: Hears}, "frozen": {Promise: Hears}, "restarted": {Promise: Hears},
			"restored": {Promise: Hears}, "authenticated": {Why: "each server for itself: see one"}, "certified": {Why: "each server for itself: see one"},
			"leaderless": {Promise: Hears, Why: "once there is another leader"}, "slow": {Promise: Hears}, "half": {Promise: Hears},
		},
	}},
	{"etcd", Row{
		One: map[string]Cell{
			"stopped": {Promise: Keeps}, "frozen": {Promise: Returns}, "restarted": {Promise: Returns},
			"restored": {Promise: Returns}, "authenticated": {Promise: Returns}, "certified": {Promise: Returns},
			"leaderless": {Why: "it is its own leader: see restarted"}, "slow": {Promise: Hears}, "half": {Promise: Returns},
		},
		Several: map[string]Cell{
			"stopped": {Promise: Hears}, "frozen": {Promise: Hears}, "restarted": {Promise: Hears},
			"restored": {Why: "all members are restored together: see one"}, "authenticated": {Why: "each server for itself: see one"}, "certified": {Why: "each server for itself: see one"},
			"leaderless": {Promise: Hears, Why: "once there is another leader"}, "slow": {Promise: Hears}, "half": {Promise: Hears},
		},
	}},
	{"DNS", Row{
		One: map[string]Cell{
			"stopped": {Promise: Keeps}, "frozen": {Promise: Returns}, "restarted": {Promise: Returns},
			"restored": {Why: "an answer has no history"}, "authenticated": {Why: "it knows no login"}, "certified": {Why: "it is asked without TLS"},
			"leaderless": {Why: "it knows no leader"}, "slow": {Promise: Hears, Why: "its TTL and two answers later"}, "half": {Promise: Returns},
		},
		Several: map[string]Cell{
			"stopped": {Promise: Hears}, "frozen": {Promise: Hears}, "restarted": {Promise: Hears},
			"restored": {Why: "an answer has no history"}, "authenticated": {Why: "it knows no login"}, "certified": {Why: "it is asked without TLS"},
			"leaderless": {Why: "it knows no leader"}, "slow": {Promise: Hears}, "half": {Promise: Hears},
		},
	}},
}

// Markdown is the table of a registry for docs/registries.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| fault | |\n| --- | --- |\n")
	for _, f := range Faults {
		fmt.Fprintf(&b, "| %s | %s |\n", f.Name, f.What)
	}
	for _, r := range Registries {
		fmt.Fprintf(&b, "\n## %s\n\n| fault | one server | several, of which the first |\n| --- | --- | --- |\n", r.Name)
		for _, f := range Faults {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", f.Name, r.Row.One[f.Name], r.Row.Several[f.Name])
		}
	}
	return b.String()
}
