package etcd

import (
	"io"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// script is a stream on which a server says what was written down for it.
type script struct {
	grpc.ClientStream
	says []*etcdserverpb.WatchResponse
}

func (*script) SendMsg(any) error { return nil }

func (s *script) RecvMsg(m any) error {
	if len(s.says) == 0 {
		return io.EOF
	}
	to, from := m.(*etcdserverpb.WatchResponse), s.says[0]
	to.WatchId, to.Created, to.Canceled, to.CancelReason = from.WatchId, from.Created, from.Canceled, from.CancelReason
	to.Fragment, to.Events, to.Header = from.Fragment, from.Events, from.Header
	s.says = s.says[1:]
	return nil
}

// The client hears of watches that it has asked for, until they end, and of changes that have a
// key; an answer that is none of etcd's ends the stream before the client sees it.
func TestWhatAServerSaysOfWatchesIsGuarded(t *testing.T) {
	type says = *etcdserverpb.WatchResponse
	made := func(id int64) says { return &etcdserverpb.WatchResponse{WatchId: id, Created: true} }
	change := func(id int64) says {
		return &etcdserverpb.WatchResponse{WatchId: id, Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("k")}}}}
	}
	ended := func(id int64) says { return &etcdserverpb.WatchResponse{WatchId: id, Canceled: true} }
	for name, test := range map[string]struct {
		asked int
		says  []says
		heard int
		wrong bool
	}{
		"two watches":                  {2, []says{made(0), made(1), change(1), change(0), ended(0), change(1)}, 6, false},
		"progress of all":              {1, []says{made(0), {WatchId: -1}}, 2, false},
		"a refused watch":              {2, []says{{WatchId: -1, Created: true, Canceled: true, CancelReason: "denied"}, made(0), change(0)}, 3, false},
		"of one that has ended":        {1, []says{made(0), ended(0), ended(0), change(0)}, 2, false},
		"of one that was never made":   {1, []says{change(7), ended(7), made(0)}, 1, false},
		"a change of no key":           {1, []says{made(0), {WatchId: 0, Events: []*mvccpb.Event{{}}}}, 1, true},
		"a part":                       {1, []says{made(0), {WatchId: 0, Fragment: true}}, 1, true},
		"a watch that nobody asked of": {1, []says{made(0), made(1)}, 1, true},
		"an ID twice":                  {2, []says{made(0), ended(0), made(0)}, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			g := guard(&script{says: test.says}, new(backlog))
			for range test.asked {
				request := &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: &etcdserverpb.WatchCreateRequest{}}}
				if err := g.SendMsg(request); err != nil {
					t.Fatal(err)
				}
			}
			heard := 0
			var err error
			for ; ; heard++ {
				if err = g.RecvMsg(new(etcdserverpb.WatchResponse)); err != nil {
					break
				}
			}
			if wrong := status.Code(err) == codes.DataLoss; heard != test.heard || wrong != test.wrong {
				t.Errorf("%d are heard, then %v; want %d, and wrong %t", heard, err, test.heard, test.wrong)
			}
		})
	}
}

// What the client keeps of a watch since nobody reads it is bounded: the watch ends, others go on.
func TestWhatIsNotReadIsBounded(t *testing.T) {
	const large = 512 << 10
	change := func(id int64, size int) *etcdserverpb.WatchResponse {
		kv := &mvccpb.KeyValue{Key: []byte("k"), Value: make([]byte, size)}
		return &etcdserverpb.WatchResponse{WatchId: id, Header: &etcdserverpb.ResponseHeader{}, Events: []*mvccpb.Event{{Kv: kv}}}
	}
	says := []*etcdserverpb.WatchResponse{{WatchId: 0, Created: true}, {WatchId: 1, Created: true}}
	for range 20 {
		says = append(says, change(0, large), change(1, large), &etcdserverpb.WatchResponse{WatchId: -1})
	}
	says = append(says, &etcdserverpb.WatchResponse{WatchId: 0, Canceled: true}, change(1, 4*mostBacklog))
	var kept backlog
	g := guard(&script{says: says}, &kept)
	g.asked <- struct{}{}
	g.asked <- struct{}{}
	heard, progress, ends := map[int64]int{}, 0, []string{}
	for {
		var r etcdserverpb.WatchResponse
		if g.RecvMsg(&r) != nil {
			break
		}
		switch {
		case r.Canceled:
			ends = append(ends, r.CancelReason)
		case len(r.Events) > 0:
			if heard[r.WatchId]++; r.WatchId == 1 { // which somebody reads
				if kept.watchOf(r.Header) == nil {
					t.Error("what was handed on is not counted")
				}
				kept.read(r.Header)
			}
		case r.WatchId == -1:
			progress++
		}
	}
	if heard[0] != 3 || heard[1] != 21 {
		t.Errorf("%d changes of the watch that nobody reads, want 3; %d of the other, want 21", heard[0], heard[1])
	}
	if want := []string{errBehind.Error(), ""}; !slices.Equal(ends, want) {
		t.Errorf("ends %q, want %q", ends, want)
	}
	if progress != 1 {
		t.Errorf("%d signs of life at once, want 1", progress)
	}
	if len(kept.messages) > 0 {
		t.Errorf("%d messages are counted after the end", len(kept.messages))
	}
}
