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

const (
	// againPause keeps a cluster that is compacted all the time from being read in a tight
	// loop, and one whose watches end at once.
	againPause = 100 * time.Millisecond
	// briefly is how long a watch lasts that has not merely ended at once, and mostBrief how
	// many of those there may be in a row before that is a failure.
	briefly, mostBrief = 2 * time.Second, 3
)

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

// Watch publishes the endpoints listed at the path, and again when they change. A watch that
// is lost is no failure as long as some server can be read from.
func (c *Client) Watch(ctx context.Context, q resolver.Query, publish func(resolver.Answer)) error {
	cluster, leave, err := c.clusterOf(resolver.AllowanceOf(ctx), q)
	if err != nil {
		return err
	}
	defer leave()
	var (
		path   = pathOf(q)
		doubt  resolver.Doubt // that the next answer ends
		doubts = resolver.Doubts(ctx)
		brief  int   // watches in a row that have ended at once
		lost   error // why the last one has ended
	)
	publish = answer.OnChange(publish)
	for {
		lasted, err := cluster.follow(ctx, path, doubts, func(pairs []kvlist.Pair, notes ...string) {
			lost = nil
			publish(kvlist.Read(store, path, pairs, notes...))
			doubt.Over()
		})
		if brief++; lasted >= briefly {
			brief = 0
		}
		again, isDoubted := errors.AsType[doubted](err)
		switch {
		case ctx.Err() != nil:
			return nil
		case isDoubted:
			doubt, brief = again.Doubt, 0
			continue
		case errors.Is(err, errBehind) && lasted > 0:
			brief = 0 // it has been read, and reading waits for the client's allowance
		case lasted == 0 && lost != nil && !ofCluster(err):
			return serverRequest{cluster: cluster, path: path}.explain(unreadError{now: err, before: lost})
		case lasted == 0, brief >= mostBrief && !errors.Is(err, rpctypes.ErrCompacted):
			return serverRequest{cluster: cluster, path: path}.explain(err)
		case errors.Is(err, rpctypes.ErrPermissionDenied):
			return serverRequest{cluster: cluster, path: path}.explain(err)
		}
		lost = err
		select {
		case <-time.After(againPause):
		case <-ctx.Done():
			return nil
		}
	}
}
