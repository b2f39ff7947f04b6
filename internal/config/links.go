package config

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// linkVariable is what an engine sets for each port of a link:
// ALIAS_PORT_6379_TCP=tcp://172.17.0.5:6379.
var linkVariable = regexp.MustCompile(`^(.*)_PORT_([0-9]+)_TCP=tcp://(.+):([0-9]+)$`)

// LinkListeners reads the listeners that link variables in env (KEY=VALUE items)
// ask for. Links that share a port share a listener.
func LinkListeners(env []string) []Listener {
	targets := map[uint16][]string{}
	for _, item := range env {
		match := linkVariable.FindStringSubmatch(item)
		if match == nil {
			continue
		}
		port, err := ParsePort(match[2])
		if err != nil {
			continue
		}
		target := net.JoinHostPort(strings.Trim(match[3], "[]"), match[4])
		if !slices.Contains(targets[port], target) {
			targets[port] = append(targets[port], target)
		}
	}
	return listenersOf(targets)
}

// LinkVariables are the links in env, by the names that their variables begin with.
func LinkVariables(env []string) map[string]bool {
	names := map[string]bool{}
	for _, item := range env {
		if match := linkVariable.FindStringSubmatch(item); match != nil {
			names[match[1]] = true
		}
	}
	return names
}

// LinkVariable is what an engine begins the variables of a link with.
func LinkVariable(alias string) string {
	return strings.ToUpper(strings.ReplaceAll(alias, "-", "_"))
}

// MergeListeners has one listener for each address in a and b, for the targets of both.
func MergeListeners(a, b []Listener) []Listener {
	merged := slices.Clone(a)
	for _, l := range b {
		i := slices.IndexFunc(merged, func(m Listener) bool { return m.Address == l.Address })
		if i < 0 {
			merged = append(merged, l)
			continue
		}
		merged[i].Target += "," + l.Target
	}
	slices.SortFunc(merged, func(a, b Listener) int { return strings.Compare(a.Address, b.Address) })
	return merged
}

// Alias is a port of a linked container.
type Alias struct {
	Name string // the link's alias
	Port uint16
}

// AliasListeners listens on the port of each alias. Those that share a port
// share a listener.
func AliasListeners(aliases []Alias) []Listener {
	targets := map[uint16][]string{}
	for _, a := range aliases {
		target := net.JoinHostPort(a.Name, strconv.Itoa(int(a.Port)))
		if !slices.Contains(targets[a.Port], target) {
			targets[a.Port] = append(targets[a.Port], target)
		}
	}
	return listenersOf(targets)
}

func listenersOf(targets map[uint16][]string) []Listener {
	var listeners []Listener
	for port, list := range targets {
		slices.Sort(list)
		listeners = append(listeners, Listener{Address: fmt.Sprintf(":%d", port), Target: strings.Join(list, ",")})
	}
	slices.SortFunc(listeners, func(a, b Listener) int { return strings.Compare(a.Address, b.Address) })
	return listeners
}
