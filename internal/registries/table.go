// Package registries says what becomes of targets while their registry fails: the table of
// docs/registries.md. Each cell of it is a test with real servers, which is run beside the
// others.
package registries

import (
	"fmt"
	"maps"
	"slices"
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

// Fault is something that may happen to a registry.
type Fault struct{ Name, What string }

// Faults are what may happen to a registry, or to the first of its servers.
var Faults = []Fault{
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

// EngineFaults are what may happen to a Docker engine beside those, or means something else
// for it.
var EngineFaults = []Fault{
	{"restarted", "it is killed and started again, and ends its containers then, or starts them anew"},
	{"live-restored", "the same, with live-restore: its containers run on"},
	{"restored", "another engine, with another ID, listens at the same socket"},
	{"moved", "the socket is removed and made anew, and nothing more comes by the connections of before"},
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

// Column is what becomes of a kind of target, or of a number of servers, by fault.
type Column struct {
	Name  string
	Cells map[string]Cell
}

// Registry is a table: what becomes of targets that one registry answers.
type Registry struct {
	Name    string
	Faults  []Fault // its rows
	Columns []Column
}

// cell is the cell of a column and a fault, both named.
func (r Registry) cell(column, fault string) Cell {
	for _, c := range r.Columns {
		if c.Name == column {
			return c.Cells[fault]
		}
	}
	return Cell{}
}

// The columns' names.
const (
	one     = "one server"
	several = "several, of which the first"

	byName  = "`docker://NAME`"
	byLabel = "`docker://?label=`"
	bySwarm = "`swarm://`"
)

// sameConnection is why a fault of the connection to an engine is tried with other targets alone.
const sameConnection = "it is the same connection: see the others"

// engineFaults are the rows of the Docker engine: Faults, with what EngineFaults says instead of
// some of them and besides.
func engineFaults() []Fault {
	rows := slices.Clone(Faults)
	for _, f := range EngineFaults {
		if i := slices.IndexFunc(rows, func(r Fault) bool { return r.Name == f.Name }); i >= 0 {
			rows[i] = f
		} else {
			rows = append(rows, f)
		}
	}
	return rows
}

// engineCells are the cells of a kind of target that the Docker engine answers, but for those in
// others.
func engineCells(others map[string]Cell) map[string]Cell {
	cells := map[string]Cell{
		"stopped": {Promise: Keeps}, "frozen": {Promise: Returns}, "restarted": {Promise: Returns}, "live-restored": {Promise: Returns},
		"restored": {Promise: Returns, Why: "the other's containers alone"}, "authenticated": {Why: "the engine knows no login but a client's certificate: see certified"},
		"certified": {Promise: Returns}, "leaderless": {Why: "an engine says by itself what runs on its host"},
		"slow": {Promise: Hears, Why: "an event and two answers later"}, "half": {Promise: Returns}, "moved": {Promise: Returns},
	}
	maps.Copy(cells, others)
	return cells
}

// Registries are the tables, in their order.
var Registries = []Registry{
	{"Consul", Faults, []Column{
		{one, map[string]Cell{
			"stopped": {Promise: Keeps}, "frozen": {Promise: Returns}, "restarted": {Promise: Returns},
			"restored": {Promise: Hears}, "authenticated": {Promise: Returns}, "certified": {Promise: Returns},
			"leaderless": {Why: "it is its own leader: see restarted"}, "slow": {Promise: Hears}, "half": {Promise: Returns},
		}},
		{several, map[string]Cell{
			"stopped": {Promise: Hears}, "frozen": {Promise: Hears}, "restarted": {Promise: Hears},
			"restored": {Promise: Hears}, "authenticated": {Why: "each server for itself: see one"}, "certified": {Why: "each server for itself: see one"},
			"leaderless": {Promise: Hears, Why: "once there is another leader"}, "slow": {Promise: Hears}, "half": {Promise: Hears},
		}},
	}},
	{"etcd", Faults, []Column{
		{one, map[string]Cell{
			"stopped": {Promise: Keeps}, "frozen": {Promise: Returns}, "restarted": {Promise: Returns},
			"restored": {Promise: Returns}, "authenticated": {Promise: Returns}, "certified": {Promise: Returns},
			"leaderless": {Why: "it is its own leader: see restarted"}, "slow": {Promise: Hears}, "half": {Promise: Returns},
		}},
		{several, map[string]Cell{
			"stopped": {Promise: Hears}, "frozen": {Promise: Hears}, "restarted": {Promise: Hears},
			"restored": {Why: "all members are restored together: see one"}, "authenticated": {Why: "each server for itself: see one"}, "certified": {Why: "each server for itself: see one"},
			"leaderless": {Promise: Hears, Why: "once there is another leader"}, "slow": {Promise: Hears}, "half": {Promise: Hears},
		}},
	}},
	{"DNS", Faults, []Column{
		{one, map[string]Cell{
			"stopped": {Promise: Keeps}, "frozen": {Promise: Returns}, "restarted": {Promise: Returns},
			"restored": {Why: "an answer has no history"}, "authenticated": {Why: "it knows no login"}, "certified": {Why: "it is asked without TLS"},
			"leaderless": {Why: "it knows no leader"}, "slow": {Promise: Hears, Why: "its TTL and two answers later"}, "half": {Promise: Returns},
		}},
		{several, map[string]Cell{
			"stopped": {Promise: Hears}, "frozen": {Promise: Hears}, "restarted": {Promise: Hears},
			"restored": {Why: "an answer has no history"}, "authenticated": {Why: "it knows no login"}, "certified": {Why: "it is asked without TLS"},
			"leaderless": {Why: "it knows no leader"}, "slow": {Promise: Hears}, "half": {Promise: Hears},
		}},
	}},
	{"Docker", engineFaults(), []Column{
		{byName, engineCells(nil)},
		{byLabel, engineCells(nil)},
		{bySwarm, engineCells(map[string]Cell{
			"slow":          {Promise: Hears, Why: "an event and three answers later"},
			"restored":      {Promise: Returns, Why: "no task of the engine before; the other is in no swarm"},
			"live-restored": {Why: "an engine that is part of a swarm has no live-restore"},
			"frozen":        {Why: sameConnection},
			"certified":     {Why: sameConnection},
			"half":          {Why: sameConnection},
			"moved":         {Why: sameConnection},
			"leaderless":    {Why: "an engine says by itself which of its containers are tasks"},
		})},
	}},
}

// Markdown is the tables for docs/registries.md.
func Markdown() string {
	var b strings.Builder
	legend := func(faults []Fault) {
		b.WriteString("| fault | |\n| --- | --- |\n")
		for _, f := range faults {
			fmt.Fprintf(&b, "| %s | %s |\n", f.Name, f.What)
		}
	}
	legend(Faults)
	for _, r := range Registries {
		fmt.Fprintf(&b, "\n## %s\n\n", r.Name)
		if r.Name == "Docker" {
			legend(EngineFaults)
			b.WriteString("\n")
		}
		b.WriteString("| fault |")
		for _, c := range r.Columns {
			fmt.Fprintf(&b, " %s |", c.Name)
		}
		b.WriteString("\n|" + strings.Repeat(" --- |", 1+len(r.Columns)) + "\n")
		for _, f := range r.Faults {
			fmt.Fprintf(&b, "| %s |", f.Name)
			for _, c := range r.Columns {
				fmt.Fprintf(&b, " %s |", c.Cells[f.Name])
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
