package etcd

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// renewAfter is how old a session must be for its failure to end it: the next one logs in
// anew, over a connection of its own, with the certificates that the files have by then.
// Younger ones are left to gRPC, which connects again by itself.
const renewAfter = time.Second

// server is one server of a cluster. Each has a session of its own rather than one being
// balanced over all of them: so a watch is of the server that its keys were read from, and a
// server that does not answer can be left for another.
type server struct {
	cluster  *cluster
	endpoint string
	ctx      context.Context    //nolint:containedctx // that of its sessions, which outlive who asks for them
	stop     context.CancelFunc // ends a login that is under way

	turn    chan struct{} // holds one token while somebody reads or sets the fields below
	session *session      // nil until it is first asked, and after a failure
	err     error         // why there is none
	failed  time.Time

	// mute is that the server gives no sign of life, and does not owe us one: etcd before 3.4
	// does not, nor may a proxy. unanswered is how many watches in a row were given none.
	mute       atomic.Bool
	unanswered atomic.Int32

	kept backlog // of the watches of all its sessions
}

// mostUnanswered is how many watches in a row that were made, and then given no sign of life,
// show that a server gives none.
const mostUnanswered = 3

// unheard notes that err has ended a watch which the server made and gave no sign of life.
func (s *server) unheard(err error) {
	if errors.Is(err, errSilent) && s.unanswered.Add(1) >= mostUnanswered {
		s.mute.Store(true)
	}
}

// session is a client of one server, from a login to a failure. It serves many watches and
// is closed with the last of them once it has failed.
type session struct {
	client    *clientv3.Client
	made      time.Time
	heartbeat heartbeat

	mu      sync.Mutex
	users   int
	retired bool // another one has taken its place
}

// use returns the server's session, until release is called. Making one takes no connection,
// but for a user it takes a login: one at a time, whose failure counts for all callers that wait.
func (s *server) use(ctx context.Context) (*session, error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case s.session != nil:
		return s.usedSession()
	case s.err != nil && time.Since(s.failed) < failureFor:
		defer func() { <-s.turn }()
		return nil, s.err
	}
	made := make(chan struct{})
	var (
		got *session
		err error
	)
	go func() { // a login takes no context; it goes on for those who ask next
		defer close(made)
		client, failure := s.connect()
		s.err, s.failed = failure, time.Now()
		if failure != nil {
			err = failure
			<-s.turn
			return
		}
		s.session = &session{client: client, made: time.Now()}
		got, err = s.usedSession()
	}()
	select {
	case <-made:
		return got, err
	case <-ctx.Done():
		go func() { // its use was for us
			<-made
			if got != nil {
				s.release(got, nil)
			}
		}()
		return nil, ctx.Err()
	}
}

// usedSession counts one more user and gives up the turn.
func (s *server) usedSession() (*session, error) {
	defer func() { <-s.turn }()
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	s.session.users++
	return s.session, nil
}

// release ends a use of got, which err has ended; nil says that it is well. One that fails
// is replaced: its token may be one that the server has forgotten, and with which it refuses
// even a login. It reports whether it is.
func (s *server) release(got *session, err error) (replaced bool) {
	failed := isOldToken(err) || err != nil && !ofCluster(err) && !errors.Is(err, context.Canceled) && time.Since(got.made) >= renewAfter
	if failed {
		s.turn <- struct{}{}
		if s.session == got {
			s.session = nil
		}
		<-s.turn
	}
	got.mu.Lock()
	got.users--
	got.retired = got.retired || failed
	over := got.retired && got.users == 0
	got.mu.Unlock()
	if over {
		_ = got.close()
	}
	return failed
}

// ofCluster reports whether err is what the cluster says of the question, whichever server
// and session asks.
func ofCluster(err error) bool {
	if _, ok := errors.AsType[doubted](err); ok {
		return true
	}
	return errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrCompacted) ||
		errors.Is(err, errTooMany) || errors.Is(err, errTooLong) || errors.Is(err, errHistory) || hint.Of(err) != ""
}

func (s *server) close() error {
	s.stop()
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.session == nil {
		return nil
	}
	err := s.session.close()
	s.session = nil
	return err
}

func (s *session) close() error {
	err := s.client.Close()
	if errors.Is(err, context.Canceled) { // what Close does to its own streams
		return nil
	}
	return err
}

func (s *server) connect() (*clientv3.Client, error) {
	c := s.cluster
	config := clientv3.Config{
		Context:              s.ctx,
		Endpoints:            []string{s.endpoint},
		DialTimeout:          c.config.Timeout,
		DialKeepAliveTime:    silence,
		DialKeepAliveTimeout: signOfLife,
		MaxCallRecvMsgSize:   c.most(),
		MaxUnaryRetries:      3,            // few: the Resolver asks again
		Logger:               zap.NewNop(), // what goes wrong is in the errors
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
				MinConnectTimeout: c.config.Timeout, // a server may be slow to begin
			}),
			grpc.WithChainUnaryInterceptor(failFast),
			grpc.WithChainStreamInterceptor(guardWatches(&s.kept)),
			grpc.WithMaxHeaderListSize(maxHeaders),
		},
	}
	if !c.trusted {
		config.DialOptions = append(config.DialOptions, grpc.WithContextDialer(c.dialPermitted))
	}
	if c.trusted {
		if err := authenticate(&config, c.endpoints); err != nil {
			return nil, hint.Wrap(err, "check the ETCDCTL_* environment")
		}
	}
	return clientv3.New(config)
}

// heartbeat asks the server of a session for a sign of life, for as long as somebody watches by
// it. etcd answers on the stream of the watches itself, to all of them: with its revision,
// if it is one that has fallen behind.
type heartbeat struct {
	watches atomic.Int64

	mu   sync.Mutex
	stop context.CancelFunc
	done chan struct{}
}

// join starts the heartbeat with the first watch.
func (h *heartbeat) join(client *clientv3.Client, every time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watches.Add(1) > 1 {
		return
	}
	ctx, stop := context.WithCancel(clientv3.WithRequireLeader(context.Background())) // it serves many watches
	h.stop, h.done = stop, make(chan struct{})
	go h.run(ctx, client, every, h.done)
}

// leave ends it with the last one.
func (h *heartbeat) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watches.Add(-1) > 0 {
		return
	}
	h.stop()
	<-h.done
}

func (h *heartbeat) run(ctx context.Context, client *clientv3.Client, every time.Duration, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		asking, cancel := context.WithTimeout(ctx, every)
		_ = client.RequestProgress(asking) // what comes of it is for the watches to see
		cancel()
	}
}
