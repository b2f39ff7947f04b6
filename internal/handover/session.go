package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/internal/control"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/rights"
)

// ErrGone says that the old daemon has ended the conversation without a word: it stops, or
// has died. Nobody serves then unless we do.
var ErrGone = errors.New("the old daemon has ended")

const (
	// receivePatience is how long all the old daemon's packets of a phase may take.
	receivePatience = time.Minute
	// maxPackets bounds them: 65,536 sockets in full ones.
	maxPackets = 512
)

// Session is a handover as the new daemon sees it. A nil Session is none: there was
// nobody to take over from.
type Session struct {
	conn *control.Conn
	Set  *Set
	// Counts is given what the old daemon has counted, from Finish on; nil passes it over.
	Counts func(packet json.RawMessage)
	told   bool // the old daemon has said why it does not hand over, so it serves on
}

// Begin asks the daemon at c for its sockets and adds them to set. It closes c on an error.
func Begin(ctx context.Context, c *control.Conn, program string, set *Set) (*Session, error) {
	s := &Session{conn: c, Set: set}
	stop := context.AfterFunc(ctx, c.Close)
	defer stop()
	err := c.Ask(Request, program)
	if err == nil {
		err = s.receiveUntil(phaseOffered, 0)
	}
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) { // EPIPE: before it read what we ask
			err = fmt.Errorf("it ended the conversation: %w", ErrGone)
		}
		s.Set.Close()
		c.Close()
		return nil, fmt.Errorf("receive the sockets of the daemon that runs: %w", err)
	}
	return s, nil
}

// receiveUntil takes sockets until the peer says phase.
func (s *Session) receiveUntil(phase string, within time.Duration) error {
	slow := time.AfterFunc(within+receivePatience, s.conn.Close)
	defer slow.Stop()
	for range maxPackets {
		var m handoverMessage
		fds, err := s.conn.Receive(&m, within)
		if err != nil {
			return err
		}
		if err := s.take(m, fds); err != nil {
			return err
		}
		if m.Phase == phase {
			return nil
		}
	}
	return fmt.Errorf("the old daemon sent %d packets and did not come to an end", maxPackets)
}

func (s *Session) take(m handoverMessage, fds []int) error {
	if err := m.Err(); err != nil {
		s.told = true
		rights.Close(fds)
		return err
	}
	if s.Counts != nil && len(m.Counts) > 0 {
		s.Counts(m.Counts)
	}
	if len(fds) != len(m.Sockets) {
		rights.Close(fds)
		return fmt.Errorf("a packet with %d sockets had %d descriptors", len(m.Sockets), len(fds))
	}
	for i, socket := range m.Sockets {
		if err := s.Set.Add(socket, fds[i]); err != nil {
			rights.Close(fds[i+1:])
			return err
		}
	}
	return nil
}

// Accepting tells the old daemon that we accept, and returns when it has understood.
// On an error it serves on as before, and it must be left alone.
func (s *Session) Accepting() error {
	err := s.conn.Send(handoverMessage{Phase: phaseAccepting})
	if err == nil || errors.Is(err, unix.EPIPE) { // before it closed it may have said why
		err = s.receiveUntil(phaseLeaving, 0)
	}
	if err != nil {
		return fmt.Errorf("the old daemon has not let go: %w", err)
	}
	return nil
}

// Finish receives what the old daemon has opened since Begin. The error says why that
// may not be all; we serve from now on all the same.
func (s *Session) Finish() error {
	err := s.receiveUntil(phaseDone, leavingPatience)
	if err != nil {
		return hint.Wrap(fmt.Errorf("the old daemon did not tell of its last sockets: %w", err), "containers that started at this moment are served anew")
	}
	return nil
}

// Follow gives Counts what the old daemon counts while it carries its connections to their end, and
// returns when that has ended, which it reports, or ctx has. It comes after Finish, and closes s.
func (s *Session) Follow(ctx context.Context) (ended bool) {
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		var m handoverMessage
		fds, err := s.conn.Receive(&m, -1)
		if err != nil {
			return ctx.Err() == nil
		}
		rights.Close(fds) // what it has opened it has told of
		if s.Counts != nil && len(m.Counts) > 0 {
			s.Counts(m.Counts)
		}
	}
}

// Gone reports whether the old daemon has ended the conversation without a word, and will not
// serve on. Versions before this one said nothing either when they gave up on us.
func (s *Session) Gone() bool { return s != nil && !s.told && s.conn.Ended() }

// GiveUp tells the old daemon to serve on, because of err, and closes what is left.
func (s *Session) GiveUp(err error) {
	if s == nil {
		return
	}
	_ = s.conn.Send(handoverMessage{Phase: phaseGivenUp, Answer: control.AnswerOf(err)}) // it sees our end, too
	s.Set.Close()
	s.conn.Close()
}

// Close ends the conversation; Set stays as it is.
func (s *Session) Close() { s.conn.Close() }
