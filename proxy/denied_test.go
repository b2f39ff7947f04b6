package proxy

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// forbidden is a Chooser that has an endpoint, and whose client may not dial it.
type forbidden struct{}

func (forbidden) TryRefresh() bool              { return true }
func (forbidden) Refresh(context.Context) error { return nil }
func (forbidden) Next() (Attempt, bool)         { return Attempt{}, false }
func (forbidden) Changed(ctx context.Context)   { <-ctx.Done() }
func (forbidden) PassedOver() error             { return Fail(Denied, errors.New("not allowed")) }

// The search for an endpoint begins with the connection, not with the daemon: one that is
// denied says so, however long the daemon has run.
func TestDeniedByADaemonThatHasRunForLong(t *testing.T) {
	const timeout = 100 * time.Millisecond
	router := RouterFunc(func(context.Context, *net.TCPConn) (Route, error) {
		options := Options{Timeout: timeout, Wait: timeout}
		return Route{Client: Client{Name: "client"}, Port: 6379, Target: "target", Endpoints: forbidden{}, Options: options}, nil
	})
	began := time.Now()
	lab := newLab(t, &Server{}, nonBlocking{router})
	<-time.After(time.Until(began.Add(2 * timeout))) // what the daemon has run
	lab.dialRefused()
	lab.wantReason(lab.record(), Denied)
}
