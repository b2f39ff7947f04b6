package dockerd

import (
	"net/http"
	"sync/atomic"
)

// transport carries requests over an http.Transport that is made anew at each reconnect: an idle
// connection may lead to an engine that listens at the endpoint no more, and the files of the
// certificates may have other contents by then.
type transport struct {
	current atomic.Pointer[http.Transport]
	make    func() (*http.Transport, error)
}

// RoundTrip is http.RoundTripper's.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current.Load().RoundTrip(r)
}

// CloseIdleConnections closes those that no request uses.
func (t *transport) CloseIdleConnections() { t.current.Load().CloseIdleConnections() }

// renew makes the http.Transport of later requests. The connections of the one before are closed
// as soon as no request uses them. If it fails, that one stays.
func (t *transport) renew() error {
	next, err := t.make()
	if err != nil {
		return err
	}
	if before := t.current.Swap(next); before != nil {
		before.CloseIdleConnections()
	}
	return nil
}
