package dockerd

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// listedContainer is a container in the engine's list.
type listedContainer struct {
	id string
	// mark is another one when what the list says of the container is.
	mark string
	// young is that it has not been up, or down, for a minute. It may have been
	// restarted since the last list, and look the same.
	young bool
}

// listed is what a mark is made of in the engine's answer. The rest of it, which the
// library's type would hold as well, is most of it: ports, labels, mounts.
type listed struct {
	ID              string `json:"Id"`
	Names           []string
	State, Status   string
	NetworkSettings struct {
		Networks map[string]listedNetwork
	}
}

type listedNetwork struct{ NetworkID, IPAddress, GlobalIPv6Address string }

// reset empties l, but for the memory that it holds.
func (l *listed) reset() {
	names, networks := l.Names[:0], l.NetworkSettings.Networks
	clear(networks)
	*l = listed{Names: names}
	l.NetworkSettings.Networks = networks
}

// readList reads the engine's list, one container at a time: with many of them it is
// what an idle daemon does most.
func readList(r io.Reader) ([]listedContainer, error) {
	decoder := json.NewDecoder(r)
	switch opening, err := decoder.Token(); {
	case err != nil:
		return nil, err
	case opening == nil: // null is a list without anything
		return nil, nil
	case opening != json.Delim('['):
		return nil, fmt.Errorf("the list begins with %v", opening)
	}
	var entries []listedContainer
	var l listed
	for decoder.More() {
		l.reset()
		if err := decoder.Decode(&l); err != nil {
			return nil, err
		}
		entries = append(entries, l.entry())
	}
	_, err := decoder.Token() // what was cut off is no list
	return entries, err
}

func (l *listed) entry() listedContainer {
	var mark strings.Builder
	add := func(texts ...string) {
		for _, text := range texts {
			mark.WriteString(text)
			mark.WriteByte(0)
		}
	}
	add(l.State)
	// The status is for people, "Up 2 hours (healthy)": the time goes on, the rest matters.
	if _, inBrackets, found := strings.Cut(l.Status, "("); found {
		add(inBrackets[:strings.IndexByte(inBrackets+")", ')')])
	}
	slices.Sort(l.Names) // with those that links give
	add(l.Names...)
	for _, name := range slices.Sorted(maps.Keys(l.NetworkSettings.Networks)) {
		n := l.NetworkSettings.Networks[name]
		add(name, n.NetworkID, n.IPAddress, n.GlobalIPv6Address)
	}
	return listedContainer{id: l.ID, mark: mark.String(), young: strings.Contains(l.Status, "second")}
}
