package consul

import (
	"context"

	"github.com/hashicorp/consul/api"
)

// Address is the configured agent's.
func (c *Client) Address() string { return c.address }

// Leader asks the configured agent for its cluster's leader, IP:PORT, and returns
// "" when it knows none: then it answers no query that wants to be consistent. The
// error carries a hint.
func (c *Client) Leader(ctx context.Context) (string, error) {
	a, err := c.configured()
	if err != nil {
		return "", err
	}
	leader, err := a.client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return "", request{agent: a, trusted: true, what: "the leader"}.explain(err)
	}
	return leader, nil
}
