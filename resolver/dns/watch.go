package dns

import (
	"context"
	"time"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

// lookup is an answer and how long it holds.
type lookup struct {
	answer resolver.Answer
	holds  time.Duration
	// noSuchName is set when the answer is empty because the name does not exist.
	noSuchName bool
}

// lookupCost is how many bytes of an answer a lookup counts for where a client has only so
// many of them: two questions, each a socket of its own. It makes 256 lookups a second.
const lookupCost = 16 << 10

// watch looks up, publishes what is new, waits as long as the answer holds, and
// starts over, until a lookup fails or ctx ends. An answer that is in doubt holds no longer.
func (c *Client) watch(ctx context.Context, publish func(resolver.Answer), look func() (lookup, error)) error {
	publish = answer.OnChange(publish)
	var doubt resolver.Doubt
	for ctx.Err() == nil {
		if err := resolver.AllowanceOf(ctx).Spend(ctx, lookupCost); err != nil {
			return nil //nolint:nilerr // ctx has ended
		}
		before := c.filesVersion()
		found, err := look()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		publish(found.answer)
		doubt.Over()
		doubt = c.wait(ctx, found.holds, before)
	}
	return nil
}

// wait returns when an answer holds no longer: its time is over, it is in doubt, or one of the
// files has another version than before. It also returns when ctx ends.
func (c *Client) wait(ctx context.Context, holds time.Duration, before [2]int) resolver.Doubt {
	over := time.NewTimer(holds)
	defer over.Stop()
	files := time.NewTicker(c.config.FilesInterval)
	defer files.Stop()
	for {
		select {
		case <-files.C:
			if c.filesVersion() != before {
				return resolver.Doubt{}
			}
		case doubt := <-resolver.Doubts(ctx):
			return doubt
		case <-over.C:
			return resolver.Doubt{}
		case <-ctx.Done():
			return resolver.Doubt{}
		}
	}
}

// filesVersion differs after every change of a file. Whether a file can be read
// is the next lookup's business.
func (c *Client) filesVersion() [2]int {
	_, conf, _ := c.resolvConf.load()
	_, hosts, _ := c.hosts.load()
	return [2]int{conf, hosts}
}
