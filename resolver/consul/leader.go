package consul

import (
	"context"
	"strings"

	"github.com/ambassadord/ambassadord/resolver/internal/failover"
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
	asking := failover.Asking[*agent, string]{
		Ask:  func(ctx context.Context, a *agent) (string, error) { return a.askLeader(ctx, c.config.Timeout) },
		Slow: failover.Slow(c.config.Timeout, len(agents)),
	}
	got, failures := asking.First(ctx, agents)
	if got != nil {
		return got.Value, nil
	}
	var errs []error
	for _, f := range failures {
		errs = append(errs, request{agent: f.Of, what: "the leader"}.explain(f.Err))
	}
	return "", join(errs)
}
