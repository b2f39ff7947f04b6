package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/kvlist"
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

// keys are the keys of a path as of a revision.
type keys struct {
	values   map[string]string // by key
	cluster  uint64            // the ID of the cluster whose they are
	revision int64             // as of which they were read
	notes    []string

	// floor is a revision that the cluster has surely reached, and next one that it will have
	// been told to have reached by all watches once some time has passed since noted.
	floor, next int64
	noted       time.Time

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

// compare returns errHistory when header tells of another history than the one that the keys
// are of: of another cluster, or of one that has not come so far, as after it was restored
// from a backup. A watch of what follows the keys' revision would be told nothing there, until
// as much has been written once more. A member that lags behind looks the same for a moment.
// The messages of several watches may overtake one another by less than apart.
func (k *keys) compare(header *etcdserverpb.ResponseHeader, apart time.Duration) error {
	switch {
	case header.ClusterId != k.cluster:
		return fmt.Errorf("%w: cluster ID %x has become %x", errHistory, k.cluster, header.ClusterId)
	case header.Revision < k.floor:
		return fmt.Errorf("%w: revision %d has become %d", errHistory, k.floor, header.Revision)
	}
	if now := time.Now(); now.Sub(k.noted) >= apart {
		k.floor, k.next, k.noted = max(k.floor, k.next), header.Revision, now
	}
	return nil
}

// read reads all keys of path at one revision and returns the ranges to watch:
// those that the user may read.
func (k *keys) read(ctx context.Context, client *clientv3.Client, path string) ([]keyRange, error) {
	ctx = clientv3.WithRequireLeader(ctx)
	ranges := rangesOf(path, client.Username != "")
	if client.Username == "" { // whose permissions a certificate may name all the same
		if err := k.readAtOnce(ctx, client, ranges); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			return ranges, err
		}
	}
	return k.readEach(ctx, client, ranges)
}

// readAtOnce reads all ranges by one question, for a server may be slow. It is denied as a
// whole.
func (k *keys) readAtOnce(ctx context.Context, client *clientv3.Client, ranges []keyRange) error {
	var gets []clientv3.Op
	for _, r := range ranges {
		gets = append(gets, clientv3.OpGet(r.first, r.options(clientv3.WithLimit(maxKeys+1))...))
	}
	response, err := client.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return err
	}
	k.begin(response.Header)
	for _, r := range response.Responses {
		if err := k.take(ctx, r.GetResponseRange().GetKvs()); err != nil {
			return err
		}
	}
	return nil
}

// readEach reads one range after the other, and leaves out those that are denied.
func (k *keys) readEach(ctx context.Context, client *clientv3.Client, ranges []keyRange) ([]keyRange, error) {
	var (
		readable []keyRange
		denied   error
	)
	for _, r := range ranges {
		options := r.options(clientv3.WithLimit(maxKeys + 1))
		if k.revision != 0 {
			options = append(options, clientv3.WithRev(k.revision))
		}
		response, err := client.Get(ctx, r.first, options...)
		switch {
		case errors.Is(err, rpctypes.ErrPermissionDenied):
			denied = err
			continue
		case err != nil:
			return nil, err
		}
		k.begin(response.Header)
		readable = append(readable, r)
		if err := k.take(ctx, response.Kvs); err != nil {
			return nil, err
		}
	}
	switch {
	case len(readable) == 0:
		return nil, denied
	case denied != nil:
		k.notes = append(k.notes, "some of it user "+client.Username+" may not read")
	}
	return readable, nil
}

// begin notes of which history the keys are, by the first header: later ones tell of now,
// their keys of this revision.
func (k *keys) begin(header *etcdserverpb.ResponseHeader) {
	if k.revision == 0 {
		k.revision, k.cluster, k.floor = header.Revision, header.ClusterId, header.Revision
	}
}

// take keeps what was read of a range.
func (k *keys) take(ctx context.Context, pairs []*mvccpb.KeyValue) error {
	read := 0
	for _, pair := range pairs {
		read += len(pair.Key) + len(pair.Value)
		k.set(string(pair.Key), string(pair.Value))
	}
	return k.bounded(ctx, read)
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
