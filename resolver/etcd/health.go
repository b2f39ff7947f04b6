package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Address is the configured cluster's servers, separated by commas.
func (c *Client) Address() string { return c.configured.String() }

// Health asks the configured cluster for a key, which takes a leader; whether there
// is one of that name, or we may read it, is no matter. The error carries a hint.
func (c *Client) Health(ctx context.Context) error {
	const key = "health" // as etcdctl endpoint health asks
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	client, err := c.configured.dial(ctx)
	if err == nil {
		_, err = client.Get(ctx, key)
	}
	if err == nil || errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil
	}
	return request{cluster: c.configured, path: key}.explain(err)
}
