package consul

import (
	"context"
	"strings"

	"github.com/hashicorp/consul/api"
)

// Address is the configured agent's, or several, separated by commas.
func (c *Client) Address() string { return strings.Join(c.configured, ",") }

// Leader asks the configured agents, until one answers, for their cluster's leader,
// IP:PORT, and returns "" when it knows none: then it answers no query that wants to
// be consistent. The error carries a hint.
func (c *Client) Leader(ctx context.Context) (string, error) {
	agents, err := c.all()
	if err != nil {
		return "", err
	}
	var failures []error
	for _, a := range agents {
		leader, err := a.client.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		if err == nil {
			return leader, nil
		}
		failures = append(failures, request{agent: a, what: "the leader"}.explain(err))
	}
	return "", join(failures)
}
