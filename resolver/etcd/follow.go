package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/failover"
	"github.com/ambassadord/ambassadord/resolver/internal/kvlist"
)

// maxKeys bounds the keys of one path, far above what a target can use.
const maxKeys = 10_000

var (
	errTooMany = fmt.Errorf("more than %d keys", maxKeys)
	errTooLong = errors.New("keys and values")
	errLost    = errors.New("the connection was lost")
	errSilent  = errors.New("no sign of life in time")
	errHistory = errors.New("etcd has another history than before")
)

// keysReading is the keys of a path as one server gave them, and the session that did.
type keysReading struct {
	keys   *keys
	server *server
	used   *session
	ranges []keyRange // to watch: those that the user may read
}

func (r *keysReading) end(err error) { r.server.release(r.used, err) }

// first asks the cluster's servers until one answers; discard, if it is set, is given the
// answer of one that came second.
func first[A any](ctx context.Context, c *cluster, ask func(context.Context, *server) (A, error), discard func(A)) (answer A, err error) {
	asking := failover.Asking[*server, A]{
		Ask: ask, Discard: discard, Slow: failover.Slow(c.config.Timeout, len(c.servers)),
		Another: func(err error) bool { return !ofCluster(err) },
	}
	got, failures := asking.First(ctx, c.inOrder())
	if got == nil {
		return answer, join(failures)
	}
	for _, slow := range got.Slow {
		c.demote(slow)
	}
	return got.Value, nil
}

// join makes one error of those of several servers.
func join(failures []failover.Failure[*server]) error {
	if len(failures) == 1 {
		return failures[0].Err
	}
	errs := make(serverErrors, len(failures))
	for i, f := range failures {
		errs[i] = serverError{f.Of.endpoint, f.Err}
	}
	return errs
}

// read reads the keys of path from the first server that answers.
func (c *cluster) read(ctx context.Context, path string) (*keysReading, error) {
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	end, err := resolver.AllowanceOf(ctx).Turn(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	return first(ctx, c, func(ctx context.Context, s *server) (*keysReading, error) {
		got, again, err := s.read(ctx, path)
		if again && ctx.Err() == nil {
			got, _, err = s.read(ctx, path)
		}
		return got, err
	}, func(second *keysReading) { second.end(nil) })
}

// read reads the keys of path from one server. After a failure again says that another session
// may do better.
func (s *server) read(ctx context.Context, path string) (_ *keysReading, again bool, err error) {
	c := s.cluster
	used, err := s.use(ctx)
	if err != nil {
		return nil, false, err
	}
	r := &keysReading{server: s, used: used}
	err = c.persist(ctx, func(ctx context.Context) (err error) {
		r.keys = &keys{values: map[string]string{}, most: c.most(), allowance: resolver.AllowanceOf(ctx)}
		r.ranges, err = r.keys.read(ctx, used.client, path)
		return err
	})
	if err != nil {
		return nil, s.release(used, err), err
	}
	return r, false, nil
}

// persist calls ask again while its cluster elects a leader, until ctx ends, and once more
// when it takes nearly all of the time: a member that has just lost its leader answers neither
// with keys nor, for as long as an election takes, that it has none.
func (c *cluster) persist(ctx context.Context, ask func(context.Context) error) error {
	var leaderless error
	for {
		asking, cancel := context.WithTimeout(ctx, c.config.Timeout-c.config.Timeout/10)
		err := ask(asking)
		late := asking.Err() != nil
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && leaderless != nil:
			return leaderless
		case ctx.Err() != nil:
			return err
		case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrLeaderChanged):
			leaderless = err
		case !late:
			return err
		}
		select {
		case <-time.After(againPause):
		case <-ctx.Done():
			return cmp.Or(leaderless, err)
		}
	}
}

// follow reads the keys of path, hands them to report, and again after every
// change, until ctx ends or something fails, or until again says that the keys are to be
// read anew. It returns for how long there was a watch.
func (c *cluster) follow(ctx context.Context, path string, again <-chan resolver.Doubt, report func([]kvlist.Pair, ...string)) (watched time.Duration, err error) {
	defer func() { _ = resolver.AllowanceOf(ctx).Keep(0) }()
	r, err := c.read(ctx, path)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	report(r.keys.pairs(), r.keys.notes...)
	err = c.watch(ctx, r, again, report)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	r.end(err)
	if !ofCluster(err) && ctx.Err() == nil {
		c.demote(r.server)
	}
	return time.Since(began), err
}

// doubted is why a watch ends whose answer is in doubt.
type doubted struct{ resolver.Doubt }

func (doubted) Error() string { return "the answer is in doubt" }

// watch hands every change of what was read to report.
func (c *cluster) watch(ctx context.Context, r *keysReading, again <-chan resolver.Doubt, report func([]kvlist.Pair, ...string)) error {
	// Without WithRequireLeader a server that is cut off from the others would keep
	// the watch open and say nothing.
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	var running sync.WaitGroup
	defer func() { cancel(nil); running.Wait() }()
	changes := make(chan clientv3.WatchResponse)
	client := r.used.client
	running.Go(func() {
		if awaitLoss(ctx, client.ActiveConnection()) {
			cancel(errLost) // it frees client.Watch too, which waits for the server
		}
	})
	r.used.heartbeat.join(client, c.config.Heartbeat)
	defer r.used.heartbeat.leave()
	silent := time.AfterFunc(c.patience(), func() { cancel(errSilent) })
	defer silent.Stop()
	for _, keys := range r.ranges { // beside one another: a server may be slow
		running.Go(func() {
			r.server.forward(ctx, client.Watch(ctx, keys.first, keys.options(clientv3.WithRev(r.keys.revision+1), clientv3.WithCreatedNotify())...), changes)
		})
	}
	created, alive := 0, false
	for {
		select {
		case response := <-changes:
			if err := response.Err(); err != nil {
				if response.CancelReason == errBehind.Error() {
					return errBehind
				}
				return err
			}
			if err := r.keys.compare(response.Header, 2*c.config.Heartbeat); err != nil {
				return err
			}
			silent.Reset(c.patience())
			switch {
			case response.Created:
				if created++; created == len(r.ranges) && r.server.mute.Load() {
					silent.Stop()
				}
				continue
			case len(response.Events) == 0:
				alive = true
				r.server.mute.Store(false)
				r.server.unanswered.Store(0)
				continue
			}
			if err := r.keys.apply(ctx, response.Events); err != nil {
				return err
			}
			report(r.keys.pairs(), r.keys.notes...)
		case doubt := <-again:
			return doubted{doubt}
		case <-ctx.Done():
			if created == len(r.ranges) && !alive {
				r.server.unheard(context.Cause(ctx))
			}
			return context.Cause(ctx)
		}
	}
}

// patience is how long a server may give no sign of life: longer where there is no other.
func (c *cluster) patience() time.Duration {
	if len(c.servers) == 1 {
		return 4 * c.config.Heartbeat
	}
	return 2 * c.config.Heartbeat
}

// forward hands on what comes from one of several watches; one that ends without a
// word becomes an error. It does not wait for from to be closed: while the client
// is reconnecting, it closes nothing.
func (s *server) forward(ctx context.Context, from clientv3.WatchChan, to chan<- clientv3.WatchResponse) {
	var watch *watchBacklog // once a change of it has come
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
			if s.kept.isBehind(watch) {
				response.CancelReason = errBehind.Error()
			}
		} else if of := s.kept.watchOf(response.Header); of != nil {
			watch = of
		}
		select {
		case to <- response:
			s.kept.read(response.Header)
		case <-ctx.Done():
			return
		}
		if !ok || response.Err() != nil {
			return
		}
	}
}

// awaitLoss waits until the connection is lost, and returns false if ctx ends first. The
// client would try for ever, in silence, and then go on from the revision at which it was:
// at a server that may have been restored from a backup meanwhile.
func awaitLoss(ctx context.Context, connection *grpc.ClientConn) bool {
	state := connection.GetState()
	for ready := false; ; {
		switch state {
		case connectivity.TransientFailure, connectivity.Shutdown:
			return true
		case connectivity.Ready:
			ready = true
		case connectivity.Idle, connectivity.Connecting:
			if ready {
				return true
			}
		}
		if !connection.WaitForStateChange(ctx, state) {
			return false
		}
		state = connection.GetState()
	}
}
