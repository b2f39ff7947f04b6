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
	_, err := first(ctx, c.configured, func(ctx context.Context, s *server) (struct{}, error) {
		used, err := s.use(ctx)
		if err != nil {
			return struct{}{}, err
		}
		_, err = used.client.Get(ctx, key)
		s.release(used, err)
		return struct{}{}, err
	}, nil)
	if err == nil || errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil
	}
	return serverRequest{cluster: c.configured, path: key}.explain(err)
}
