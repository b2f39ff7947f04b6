package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/kvlist"
)

// maxKeys bounds the keys of one path, far above what a target can use.
const maxKeys = 10_000

var (
	errTooMany = fmt.Errorf("more than %d keys", maxKeys)
	errTooLong = errors.New("keys and values")
	errLost    = errors.New("the connection was lost")
)

// keyRange is the keys from first up to but not including end; an empty end means
// first alone.
type keyRange struct{ first, end string }

func (r keyRange) options(more ...clientv3.OpOption) []clientv3.OpOption {
	if r.end != "" {
		more = append(more, clientv3.WithRange(r.end))
	}
	return more
}

// rangesOf are the keys that path stands for, with a leading slash and without.
// They take in what lies between path and path/ as well, which kvlist skips, for
// that halves the number of watches. exact leaves that out: a user's permissions
// name a prefix, and a range that exceeds it is denied as a whole.
func rangesOf(path string, exact bool) []keyRange {
	var ranges []keyRange
	for _, key := range []string{"/" + path, path} {
		if exact {
			ranges = append(ranges, keyRange{first: key}, keyRange{first: key + "/", end: key + "0"})
		} else {
			ranges = append(ranges, keyRange{first: key, end: key + "0"}) // '0' comes after '/'
		}
	}
	return ranges
}

// follow reads the keys of path, hands them to report, and again after every
// change, until ctx ends or something fails.
func (c *cluster) follow(ctx context.Context, path string, report func([]kvlist.Pair, ...string)) error {
	client, err := c.dial(ctx)
	if err != nil {
		return err
	}
	k := keys{client: client, values: map[string]string{}, most: c.most(), allowance: resolver.AllowanceOf(ctx)}
	defer func() { _ = k.allowance.Keep(0) }()
	watched, err := k.read(ctx, c, path)
	if err != nil {
		return err
	}
	report(k.pairs(), k.notes...)

	// Without WithRequireLeader a server that is cut off from the others would keep
	// the watch open and say nothing.
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	var running sync.WaitGroup
	defer func() { cancel(nil); running.Wait() }()
	changes := make(chan clientv3.WatchResponse)
	running.Go(func() {
		if awaitLoss(ctx, client.ActiveConnection()) {
			cancel(errLost) // it frees client.Watch too, which waits for the server
		}
	})
	for _, r := range watched {
		from := client.Watch(ctx, r.first, r.options(clientv3.WithRev(k.revision+1))...)
		running.Go(func() { forward(ctx, from, changes) })
	}
	for {
		select {
		case response := <-changes:
			if err := response.Err(); err != nil {
				return err
			}
			if err := k.apply(ctx, response.Events); err != nil {
				return err
			}
			report(k.pairs(), k.notes...)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// forward hands on what comes from one of several watches; one that ends without a
// word becomes an error. It does not wait for from to be closed: while the client
// is reconnecting, it closes nothing.
func forward(ctx context.Context, from clientv3.WatchChan, to chan<- clientv3.WatchResponse) {
	for {
		var (
			response clientv3.WatchResponse
			ok       bool
		)
		select {
		case response, ok = <-from:
		case <-ctx.Done():
			return
		}
		if !ok {
			response = clientv3.WatchResponse{Canceled: true, CancelReason: "the server ended the watch"}
		}
		select {
		case to <- response:
		case <-ctx.Done():
			return
		}
		if !ok || response.Err() != nil {
			return
		}
	}
}

// awaitLoss waits until no server can be reached any more, and returns false if ctx
// ends first. The client would try for ever, in silence; it is the Resolver that says
// so and keeps the answer. A connection that is made again at once is no loss.
func awaitLoss(ctx context.Context, connection *grpc.ClientConn) bool {
	for {
		state := connection.GetState()
		if state == connectivity.TransientFailure || state == connectivity.Shutdown {
			return true
		}
		if !connection.WaitForStateChange(ctx, state) {
			return false
		}
	}
}

// keys are the keys of a path as of a revision.
type keys struct {
	client   *clientv3.Client
	values   map[string]string // by key
	revision int64
	notes    []string

	size, most int // bytes of values and their keys, and the bound on them
	allowance  *resolver.Allowance
}

// set keeps a key's value.
func (k *keys) set(key, value string) {
	k.remove(key)
	k.values[key] = value
	k.size += len(key) + len(value)
}

func (k *keys) remove(key string) {
	if value, ok := k.values[key]; ok {
		k.size -= len(key) + len(value)
		delete(k.values, key)
	}
}

// bounded says whether the keys are few enough, after read bytes more of them have come.
func (k *keys) bounded(ctx context.Context, read int) error {
	switch {
	case len(k.values) > maxKeys:
		return errTooMany
	case k.size > k.most:
		return fmt.Errorf("%w of more than %d MiB", errTooLong, k.most>>20)
	}
	if err := k.allowance.Keep(k.size); err != nil {
		return err
	}
	return k.allowance.Spend(ctx, read)
}

// read reads all keys of path at one revision and returns the ranges to watch:
// those that the user may read.
func (k *keys) read(ctx context.Context, c *cluster, path string) ([]keyRange, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	end, err := k.allowance.Turn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	var (
		readable []keyRange
		denied   error
	)
	ranges := rangesOf(path, k.client.Username != "")
	for _, r := range ranges {
		options := r.options(clientv3.WithLimit(maxKeys + 1))
		if k.revision != 0 {
			options = append(options, clientv3.WithRev(k.revision))
		}
		response, err := k.client.Get(ctx, r.first, options...)
		switch {
		case errors.Is(err, rpctypes.ErrPermissionDenied):
			denied = err
			continue
		case err != nil:
			return nil, err
		}
		if k.revision == 0 { // later headers tell of now, their keys of this revision
			k.revision = response.Header.Revision
		}
		readable = append(readable, r)
		read := 0
		for _, pair := range response.Kvs {
			read += len(pair.Key) + len(pair.Value)
			k.set(string(pair.Key), string(pair.Value))
		}
		if err := k.bounded(ctx, read); err != nil {
			return nil, err
		}
	}
	switch {
	case len(readable) == 0:
		return nil, denied
	case denied != nil:
		k.notes = append(k.notes, "some of it user "+k.client.Username+" may not read")
	}
	return readable, nil
}

func (k *keys) apply(ctx context.Context, events []*clientv3.Event) error {
	read := 0
	for _, event := range events {
		read += len(event.Kv.Key) + len(event.Kv.Value)
		if event.Type == clientv3.EventTypeDelete {
			k.remove(string(event.Kv.Key))
		} else {
			k.set(string(event.Kv.Key), string(event.Kv.Value))
		}
	}
	return k.bounded(ctx, read)
}

func (k *keys) pairs() []kvlist.Pair {
	pairs := make([]kvlist.Pair, 0, len(k.values))
	for key, value := range k.values {
		pairs = append(pairs, kvlist.Pair{Key: strings.TrimPrefix(key, "/"), Value: value})
	}
	return pairs
}
