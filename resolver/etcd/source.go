package etcd

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
	"github.com/ambassadord/ambassadord/resolver/internal/kvlist"
)

// store is what notes call it.
const store = "etcd"

// compactedPause keeps a cluster that is compacted all the time from being read in
// a tight loop.
const compactedPause = 100 * time.Millisecond

// Check wants a key; the server may be left out.
func (*Client) Check(q resolver.Query) error {
	if pathOf(q) == "" {
		return hint.Errorf("write etcd://HOST:PORT/path/of/the/key, or etcd:///path for the configured cluster",
			"no key is named")
	}
	if q.Params != "" {
		return hint.Errorf("it takes no parameters", "unknown parameters %q", q.Params)
	}
	return nil
}

// pathOf is the path a query asks for. Slashes at its ends say nothing more.
func pathOf(q resolver.Query) string { return strings.Trim(q.Path, "/") }

// Watch publishes the endpoints listed at the path, and again when they change.
func (c *Client) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	cluster, leave, err := c.clusterOf(resolver.AllowanceOf(ctx), q)
	if err != nil {
		return err
	}
	defer leave()
	path := pathOf(q)
	publish = answer.OnChange(publish)
	for {
		err := cluster.follow(ctx, path, func(pairs []kvlist.Pair, notes ...string) {
			publish(kvlist.Read(store, path, pairs, notes...))
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, rpctypes.ErrCompacted):
			return request{cluster: cluster, path: path}.explain(err)
		}
		select {
		case <-time.After(compactedPause):
		case <-ctx.Done():
			return nil
		}
	}
}
