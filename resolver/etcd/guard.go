package etcd

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// guardWatches makes a grpc.StreamClientInterceptor. The client believes what a server says of its
// watches, in goroutines of its own, where nobody recovers; a server that a container has named
// may say anything. So what comes is looked at before the client does, and what it keeps of it is
// counted in kept.
func guardWatches(kept *backlog) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, connection *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := open(ctx, desc, connection, method, options...)
		if err != nil || method != etcdserverpb.Watch_Watch_FullMethodName {
			return stream, err
		}
		return guard(stream, kept), nil
	}
}

func guard(stream grpc.ClientStream, kept *backlog) *guardedStream {
	return &guardedStream{ClientStream: stream, kept: kept, live: map[int64]*watchBacklog{}, last: clientv3.InvalidWatchID, asked: make(chan struct{}, mostAsked)}
}

// mostAsked is of how many watches of one stream may be asked before their server has made them;
// the client asks for one after the other.
const mostAsked = 64

// guardedStream is the stream of all watches of a session.
type guardedStream struct {
	grpc.ClientStream
	kept  *backlog
	asked chan struct{}           // has one element for each watch that the server has yet to make
	live  map[int64]*watchBacklog // by ID: those that it has made and that have not ended
	last  int64                   // the latest of the IDs, which etcd gives in order

	progressed time.Time // when the last sign of life came that was handed on
}

// SendMsg is grpc.ClientStream's. One goroutine sends at a time, and another one receives.
func (g *guardedStream) SendMsg(m any) error {
	if request, ok := m.(*etcdserverpb.WatchRequest); ok && request.GetCreateRequest() != nil {
		select {
		case g.asked <- struct{}{}:
		default:
			return status.Error(codes.ResourceExhausted, "the server does not make the watches that it is asked for")
		}
	}
	return g.ClientStream.SendMsg(m)
}

// RecvMsg is grpc.ClientStream's. What is said of no watch that lives is passed over.
func (g *guardedStream) RecvMsg(m any) error {
	for {
		if err := g.ClientStream.RecvMsg(m); err != nil {
			for _, w := range g.live {
				g.kept.drop(w)
			}
			return err
		}
		response, ok := m.(*etcdserverpb.WatchResponse)
		if !ok {
			return nil
		}
		of, err := g.look(response)
		if of || err != nil {
			return err
		}
		response.Reset()
	}
}

// look reports whether a response is of a watch that lives, or of all. The error says what no
// server of etcd answers.
func (g *guardedStream) look(r *etcdserverpb.WatchResponse) (of bool, err error) {
	wrong := func(what string) (bool, error) {
		return false, status.Error(codes.DataLoss, "the server's answer is none of etcd's: "+what)
	}
	if r.GetFragment() {
		return wrong("a part of one, for which it was not asked")
	}
	for _, e := range r.GetEvents() {
		if e.GetKv() == nil {
			return wrong("a change of no key")
		}
	}
	id := r.GetWatchId()
	w, of := g.live[id]
	switch {
	case r.GetCreated():
		select {
		case <-g.asked:
		default:
			return wrong("a watch for which it was not asked")
		}
		if id == clientv3.InvalidWatchID { // it was refused
			return true, nil
		}
		if id <= g.last {
			return wrong("a watch with the ID of another one")
		}
		g.last = id
		if !r.GetCanceled() || r.GetCancelReason() == "" {
			g.live[id] = new(watchBacklog)
		}
		return true, nil
	case r.GetCanceled() && r.GetCompactRevision() == 0:
		if of {
			g.kept.drop(w)
		}
		delete(g.live, id)
		return of, nil
	case len(r.GetEvents()) == 0 && !r.GetCanceled():
		return (of || id == clientv3.InvalidWatchID) && g.progresses(), nil
	case !of || len(r.GetEvents()) == 0:
		return of || id == clientv3.InvalidWatchID, nil
	case g.kept.isBehind(w): // the client asks for its end, which the server has yet to say
		return false, nil
	case !g.kept.add(w, r):
		r.Events, r.Canceled, r.CancelReason = nil, true, errBehind.Error()
		g.kept.drop(w)
	}
	return true, nil
}

// progresses reports whether a sign of life is to be handed on.
func (g *guardedStream) progresses() bool {
	now := time.Now()
	if now.Sub(g.progressed) < leastProgress {
		return false
	}
	g.progressed = now
	return true
}
