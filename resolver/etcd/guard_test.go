package etcd

import (
	"io"
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
	to.Fragment, to.Events = from.Fragment, from.Events
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
			g := guard(&script{says: test.says})
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
