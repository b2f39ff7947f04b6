package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/rights"
)

// Request is what the new daemon asks for at the control socket.
const Request = "takeover"

const (
	// offerPatience is how long the new daemon may take to receive all sockets.
	offerPatience = time.Minute
	// adoptionPatience is how long the new daemon may take until it accepts: it asks the
	// engine who is there.
	adoptionPatience = time.Minute
	// leavingPatience is how long the old daemon may take until it has told of its last
	// socket: iptables may be at work for it.
	leavingPatience = 30 * time.Second
)

// The phases of a handover, in order. The new daemon says the second and, if it has to
// give up before that, the last.
const (
	phaseOffered   = "offered"   // all sockets have been sent
	phaseAccepting = "accepting" // the new daemon accepts on those that it wants
	phaseLeaving   = "leaving"   // the old one opens no more sockets, and lets the rules be
	phaseDone      = "done"      // those that it has opened meanwhile have been sent, too
	phaseGivenUp   = "given up"
)

// handoverMessage is a packet of the conversation. With Sockets comes a descriptor for each.
type handoverMessage struct {
	Sockets []Socket `json:"sockets,omitempty"`
	Phase   string   `json:"phase,omitempty"`
	// Counts is what the old daemon has counted, for whom Session.Counts knows.
	Counts json.RawMessage `json:"counts,omitempty"`
	control.Answer
}

// Give hands over what r knows to the peer, a new daemon. Once that accepts, leave is
// called: it has to see to it that no more sockets are opened, and returns when that is
// so. After that Give returns nil, whatever else goes wrong: there is a new daemon.
// On an error there is none, and leave has not been called. The peer is told of the error,
// for we serve on; unless ctx has ended: to hear nothing tells it that we end.
func Give(ctx context.Context, c *control.Conn, r *Registry, leave func()) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	mark, err := offer(c, r)
	if err != nil {
		if ctx.Err() == nil {
			_ = c.Send(control.AnswerOf(err)) // who has left asks for nothing
		}
		return err
	}
	leave()
	if _, err := send(c, r, mark, leavingPatience); err == nil {
		_ = c.Send(handoverMessage{Phase: phaseDone}) // if it is gone, so is who would care
	}
	return nil
}

// TellCounts tells the new daemon what has been counted since it was told before: while Give waits for
// leave to return, and after Give until we end. A daemon that does not know what that is passes it over.
func TellCounts(c *control.Conn, packets []json.RawMessage) error {
	for _, p := range packets {
		if err := c.Send(handoverMessage{Counts: p}); err != nil {
			return err
		}
	}
	return nil
}

// offer sends the sockets there are, and returns when the peer accepts on them and knows that
// we leave; mark says which sockets those were.
func offer(c *control.Conn, r *Registry) (mark uint64, err error) {
	mark, err = send(c, r, 0, offerPatience)
	if err == nil {
		err = c.Send(handoverMessage{Phase: phaseOffered})
	}
	if err != nil {
		return 0, fmt.Errorf("hand the sockets over: %w", err)
	}
	var m handoverMessage
	fds, err := c.Receive(&m, adoptionPatience)
	rights.Close(fds)
	switch {
	case errors.Is(err, io.EOF):
		return 0, errors.New("the new daemon ended before it accepted")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, fmt.Errorf("the new daemon did not accept within %s", adoptionPatience)
	case err != nil:
		return 0, fmt.Errorf("wait for the new daemon: %w", err)
	case m.Phase == phaseGivenUp:
		return 0, fmt.Errorf("the new daemon gave up: %w", cmpErr(m.Err()))
	case m.Phase != phaseAccepting:
		return 0, fmt.Errorf("the new daemon said %q, not that it accepts", m.Phase)
	}
	if err := c.Send(handoverMessage{Phase: phaseLeaving}); err != nil {
		return 0, fmt.Errorf("the new daemon is gone: %w", err)
	}
	return mark, nil
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("it did not say why")
	}
	return err
}

// send sends the sockets since mark. One that was closed meanwhile is passed over. A peer that
// takes each packet late, so that all take longer than within, is given up.
func send(c *control.Conn, r *Registry, mark uint64, within time.Duration) (uint64, error) {
	entries, mark := r.since(mark)
	began := time.Now()
	for batch := range slices.Chunk(entries, control.MaxDescriptors) {
		if time.Since(began) > within {
			return mark, fmt.Errorf("the new daemon did not take them within %s", within)
		}
		if err := sendBatch(c, batch); err != nil {
			return mark, err
		}
	}
	return mark, nil
}

func sendBatch(c *control.Conn, batch []registeredSocket) error {
	var m handoverMessage
	var fds []int
	defer func() { rights.Close(fds) }() // the packet holds references of its own
	for _, e := range batch {
		fd, err := duplicate(e.conn)
		if errors.Is(err, net.ErrClosed) {
			continue
		}
		if err != nil {
			return err
		}
		fds = append(fds, fd)
		m.Sockets = append(m.Sockets, e.socket)
	}
	if len(fds) == 0 {
		return nil
	}
	return c.Send(m, fds...)
}
