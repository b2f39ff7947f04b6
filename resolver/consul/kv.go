package consul

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/kvlist"
)

// kvStore is what notes call it.
const kvStore = "Consul's KV store"

// kvPoll is how often a key is read that has no slot for a blocking query.
const kvPoll = 10 * time.Second

// nowhere is a key, and a service, that nobody has.
const nowhere = "ambassadord-asks-for-the-index"

type kvSource struct{ client *Client }

// Check wants a key; the agent may be left out.
func (kvSource) Check(q resolver.Query) error {
	if keyOf(q) == "" {
		return hint.Errorf("write consul://HOST:PORT/path/of/the/key, or consul:///path for the configured agent",
			"no key is named")
	}
	return checkParams(q.Values(), scopeParams...)
}

// keyOf is the key a query asks for. A final slash, as a folder has it, says
// nothing more.
func keyOf(q resolver.Query) string { return strings.Trim(q.Path, "/") }

// Watch publishes the endpoints listed at the key, and again when they change.
func (s kvSource) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	key := keyOf(q)
	asked := &watchSpec{
		what:  "key " + key,
		rule:  kvRule,
		scope: scopeOf(q.Values()),
		every: kvPoll,
		kind:  SchemeKV,
		above: true,
		history: func(a *agent, options *api.QueryOptions) (*api.QueryMeta, error) {
			_, meta, err := a.client.KV().Get(nowhere, options)
			return meta, err
		},
		ask: func(a *agent, options *api.QueryOptions) (said, error) {
			// One recursive read holds both the key and its children, at one index.
			found, meta, err := a.client.KV().List(key, options)
			if err != nil {
				return said{}, err
			}
			return said{answer: kvAnswer(found, key, aclNote(meta, len(found) == 0)), index: meta.LastIndex}, nil
		},
	}
	if q.Host != "" {
		a, leave, err := s.client.named(resolver.AllowanceOf(ctx), q.Host, q.Port)
		if err != nil {
			return err
		}
		defer leave()
		asked.agents = []*agent{a}
	}
	return s.client.watch(ctx, asked, publish)
}

// kvRule is the ACL rule that reading keys takes.
const kvRule = "key_prefix:read"

func kvAnswer(found api.KVPairs, key, aclNote string) resolver.Answer {
	pairs := make([]kvlist.Pair, 0, len(found))
	for _, pair := range found {
		if pair != nil {
			pairs = append(pairs, kvlist.Pair{Key: pair.Key, Value: string(pair.Value)})
		}
	}
	a := kvlist.Read(kvStore, key, pairs, aclNote)
	if len(a.Endpoints) == 0 && aclNote != "" {
		a.Hint = request{rule: kvRule}.tokenHint()
	}
	return a
}
