package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// maxExamples is how many of the items left out a note names.
const maxExamples = 3

type kvSource struct{ client *Client }

// Check wants a key; the agent may be left out.
func (kvSource) Check(q resolver.Query) error {
	if keyOf(q) == "" {
		return hint.Errorf("write consul://HOST:PORT/path/of/the/key, or consul:///path for the configured agent",
			"no key is named")
	}
	return checkParams(q.Values())
}

// keyOf is the key a query asks for. A final slash, as a folder has it, says
// nothing more.
func keyOf(q resolver.Query) string { return strings.Trim(q.Path, "/") }

// Watch publishes the endpoints listed at the key, and again when they change.
func (s kvSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	var (
		agent *agent
		err   error
	)
	if q.Host == "" {
		agent, err = s.client.configured()
	} else {
		agent, err = s.client.named(q.Host, q.Port)
	}
	if err != nil {
		return err
	}
	key := keyOf(q)
	err = s.client.watch(ctx, publish, func(options *api.QueryOptions) (resolver.Answer, *api.QueryMeta, error) {
		// One recursive read holds both the key and its children, at one index.
		pairs, meta, err := agent.client.KV().List(key, options)
		if err != nil {
			return resolver.Answer{}, nil, err
		}
		return kvAnswer(pairs, key, aclNote(meta, len(pairs) == 0)), meta, nil
	})
	if err != nil {
		return request{
			agent:   agent,
			trusted: agent.address == s.client.address,
			what:    "key " + key,
			rule:    "key_prefix:read",
		}.explain(err)
	}
	return nil
}

// kvAnswer reads the endpoints of key from the pairs whose keys start with it:
// those of its children if one of them has a value, else those of its own value.
func kvAnswer(pairs api.KVPairs, key, aclNote string) resolver.Answer {
	var own, children []*api.KVPair
	for _, pair := range pairs {
		switch {
		case pair == nil || strings.TrimSpace(string(pair.Value)) == "": // a folder, or nothing yet
		case strings.HasPrefix(pair.Key, key+"/"):
			children = append(children, pair)
		case pair.Key == key:
			own = append(own, pair)
		}
	}
	read := children
	if len(read) == 0 {
		read = own
	}
	slices.SortFunc(read, func(a, b *api.KVPair) int { return cmp.Compare(a.Key, b.Key) })

	list := kvList{seen: map[string]bool{}}
	for _, pair := range read {
		list.add(pair)
	}
	note := list.note()
	if len(read) == 0 {
		note = fmt.Sprintf("Consul's KV store has no value at %s or below it", key)
	}
	return answer.New(list.endpoints, note, aclNote)
}

// kvList gathers the items of values.
type kvList struct {
	endpoints []resolver.Endpoint
	seen      map[string]bool
	leftOut   int
	examples  []string // of what was left out, and why
}

// add reads the items of one value: host:port, separated by commas. An item that
// is already there is skipped.
func (l *kvList) add(pair *api.KVPair) {
	for item := range strings.SplitSeq(string(pair.Value), ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		q, err := resolver.ParseHostPort(item)
		if err != nil {
			l.leaveOut(pair.Key, item, err)
			continue
		}
		endpoint := endpointFor(q)
		endpoint.Name = pair.Key
		if text := endpoint.String(); !l.seen[text] {
			l.seen[text] = true
			l.endpoints = append(l.endpoints, endpoint)
		}
	}
}

func (l *kvList) leaveOut(key, item string, err error) {
	l.leftOut++
	if len(l.examples) == maxExamples {
		return
	}
	reason := "it is not host:port"
	var syntax *resolver.SyntaxError
	if errors.As(err, &syntax) {
		reason = syntax.Msg
	}
	l.examples = append(l.examples, fmt.Sprintf("%.100q at key %.200q (%s)", item, key, shorten(reason)))
}

func (l *kvList) note() string {
	switch more := l.leftOut - len(l.examples); {
	case l.leftOut == 0:
		return ""
	case more > 0:
		return fmt.Sprintf("left out: %s and %d more", strings.Join(l.examples, ", "), more)
	default:
		return "left out: " + strings.Join(l.examples, ", ")
	}
}
