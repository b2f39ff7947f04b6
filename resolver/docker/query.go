package docker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver"
)

// Scheme is the scheme of the targets that this package answers.
const Scheme = "docker"

const (
	paramLabel     = "label"
	paramNetwork   = "network"
	paramPort      = "port"
	paramProject   = "project"
	paramPublished = "published"

	swarmHint = "write swarm://SERVICE:PORT or swarm://SERVICE?port=PORT"
	// maxHint is how many bytes of what a target was to be a hint quotes.
	maxHint = 256

	formHint = "write docker://NAME:PORT or docker://?label=KEY=VALUE&port=PORT"
)

// query is what a target asks for.
type query struct {
	name      string // "" for any
	labels    []label
	project   string // the Compose project, "" for any
	network   string // the one to be reached through, "" for any
	port      uint16
	published bool // where the host publishes the port
}

// label is one that a container must have; with any value if it has none here.
type label struct {
	key, value string
	anyValue   bool
}

func (l label) String() string {
	if l.anyValue {
		return l.key
	}
	return l.key + "=" + l.value
}

func (l label) matches(c *dockerd.Container) bool {
	v, ok := c.Labels[l.key]
	if strings.HasPrefix(l.key, dockerd.LabelSwarm) && !c.Task {
		return false // anybody may have written it there
	}
	return ok && (l.anyValue || v == l.value)
}

// parse reads a query. Its error carries a hint.
func parse(q resolver.Query) (query, error) {
	parsed := query{name: q.Host, port: q.Port}
	formHint, scheme, what := formHint, Scheme, "container"
	if q.Scheme == SchemeSwarm {
		formHint, scheme, what = swarmHint, SchemeSwarm, "service"
	}
	switch strings.ToLower(q.Path) {
	case "":
	case "tcp":
		return query{}, hint.Errorf("leave it out: only TCP is carried", "%s target has a path, %q", scheme, "/"+q.Path)
	case "udp", "sctp":
		return query{}, hint.Errorf("only TCP is carried: let the client speak TCP, or reach the service without ambassadord", "%s target has a path, %q", scheme, "/"+q.Path)
	default:
		return query{}, hint.Errorf(formHint, "%s target has a path, %q", scheme, "/"+q.Path)
	}
	values := q.Values()
	for _, key := range sortedKeys(values) {
		switch key {
		case paramLabel:
			for _, text := range values[key] {
				k, v, hasValue := strings.Cut(text, "=")
				if k == "" {
					return query{}, hint.Errorf("write label=KEY=VALUE, or label=KEY for any value", "%s target: label %q has no key", scheme, text)
				}
				parsed.labels = append(parsed.labels, label{key: k, value: v, anyValue: !hasValue})
			}
		case paramPort:
			if q.Port != 0 || len(values[key]) != 1 {
				return query{}, hint.Errorf(formHint, "%s target has more than one port", scheme)
			}
			n, err := strconv.ParseUint(values[key][0], 10, 16)
			if err != nil || n == 0 {
				return query{}, hint.Errorf("a port is a number from 1 to 65535", "%s target: %q is not a port", scheme, values[key][0])
			}
			parsed.port = uint16(n)
		case paramNetwork, paramProject:
			if len(values[key]) != 1 || values[key][0] == "" {
				return query{}, hint.Errorf("write "+key+"=NAME", "%s target needs one name as its %s", scheme, key)
			}
			if key == paramNetwork {
				parsed.network = values[key][0]
			} else {
				parsed.project = values[key][0]
			}
		case paramPublished:
			if len(values[key]) != 1 || values[key][0] != "1" {
				return query{}, hint.Errorf("write published=1, or leave it out", "%s target: published is %q", scheme, strings.Join(values[key], ","))
			}
			parsed.published = true
		default:
			known := []string{paramLabel, paramNetwork, paramPort, paramProject, paramPublished}
			last := len(known) - 1
			advice := "known parameters are " + strings.Join(known[:last], ", ") + " and " + known[last]
			if near := suggest.Closest(key, known); near != "" {
				advice = fmt.Sprintf("did you mean %q?", near)
			}
			return query{}, hint.Errorf(advice, "%s target has an unknown parameter %q", scheme, key)
		}
	}
	if parsed.network != "" && parsed.published {
		return query{}, hint.Errorf("leave one of them out", "%s target: a published port is the host's, not that of the network %s", scheme, parsed.network)
	}
	if q.Scheme == SchemeSwarm && parsed.project != "" {
		return query{}, hint.Errorf("a service of a stack is named STACK_SERVICE: write swarm://STACK_SERVICE", "swarm target has a project, which is Compose's")
	}
	if key, value, ok := strings.Cut(parsed.name, "="); ok { // no name has one
		fix := fmt.Sprintf("write %s://?label=%s=%s&port=PORT", scheme, key, value)
		if parsed.port != 0 {
			fix = fmt.Sprintf("write %s://?label=%s=%s&port=%d", scheme, key, value, parsed.port)
		}
		if q.Scheme == SchemeSwarm {
			fix = swarmHint
		}
		return query{}, hint.Errorf(shorten.Text(fix, maxHint), "%s target: %q is not the name of a %s", scheme, shorten.Text(parsed.name, maxShown), what)
	}
	if parsed.name == "" && (q.Scheme == SchemeSwarm || len(parsed.labels) == 0 && parsed.project == "") {
		return query{}, hint.Errorf(formHint, "%s target names no %s", scheme, what)
	}
	if parsed.port == 0 {
		return query{}, hint.Errorf(formHint, "%s target has no port", scheme)
	}
	return parsed, nil
}

func sortedKeys(values map[string][]string) []string {
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// labelText names the labels asked for, in a note.
func (q query) labelText() string {
	texts := make([]string, len(q.labels))
	for i, l := range q.labels {
		texts[i] = l.String()
	}
	if len(texts) == 1 {
		return "label " + texts[0]
	}
	return "labels " + strings.Join(texts, " and ")
}
