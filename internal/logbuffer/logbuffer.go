// Package logbuffer keeps a process that logs from waiting for the reader of its log.
//
// A Writer takes lines into memory and writes what has come together at once, soon
// after the first. When its reader is so slow that there is no room for a line, the line
// is dropped, and counted.
package logbuffer

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// delay is how long a line waits for others. A person does not notice it, and a
	// busy daemon wakes a thread twenty times a second rather than once per line.
	delay = 50 * time.Millisecond
	// patience is how long Close waits for a reader that takes nothing.
	patience = 5 * time.Second
	// kept is how much memory is not given back after a burst.
	kept = 64 << 10
)

// Writer is an io.Writer whose Write takes one or more whole lines and does not wait for
// where they go to. Call Run in a goroutine; before that, lines are only taken.
type Writer struct {
	to      io.Writer
	size    int
	dropped func(lines int)

	mu      sync.Mutex
	pending []byte
	spare   []byte // room for pending while Run writes
	lost    int    // lines dropped since that was last told
	broken  int    // lines that could not be written since; Run's own
	state   lineState

	some    chan struct{} // holds a token when there is something to write
	many    chan struct{} // holds one when that is worth no delay
	closing chan struct{}
	ended   chan struct{} // closed when Run has returned
}

// lineState is what becomes of a line.
type lineState int

const (
	buffering lineState = iota
	direct              // Run has ended: it is written at once
	stuck               // nobody takes anything: it is dropped
)

// New makes a Writer that holds size bytes at most. dropped is called by Run when lines
// had no room and there is some again; it may log.
func New(to io.Writer, size int, dropped func(lines int)) *Writer {
	return &Writer{
		to: to, size: size, dropped: dropped,
		some: make(chan struct{}, 1), many: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}),
	}
}

// Write takes p, or drops it when there is no room. There is never an error: nobody who
// logs could act on one.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.state == direct:
		_, _ = w.to.Write(p)
		return len(p), nil
	case w.state == stuck:
		return len(p), nil
	case len(w.pending)+len(p) > w.size:
		w.lost++
		return len(p), nil
	}
	before := len(w.pending)
	w.pending = append(w.pending, p...)
	if before == 0 {
		wake(w.some)
	}
	if half := w.size / 2; before < half && len(w.pending) >= half {
		wake(w.many)
	}
	return len(p), nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run writes what has been taken until Close.
func (w *Writer) Run() {
	defer close(w.ended)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-w.some:
		case <-w.closing:
			w.end()
			return
		}
		timer.Reset(delay)
		select {
		case <-timer.C:
		case <-w.many:
		case <-w.closing:
		}
		w.flush()
		w.tell()
	}
}

// flush writes all that has been taken by now.
func (w *Writer) flush() {
	w.mu.Lock()
	lines := w.pending
	w.pending, w.spare = w.spare[:0], nil
	w.mu.Unlock()
	if len(lines) > 0 {
		if n, err := w.to.Write(lines); err != nil { // its reader has ended, or the disk is full
			w.broken += bytes.Count(lines[n:], []byte("\n"))
		} else if w.broken > 0 {
			w.mu.Lock()
			w.lost += w.broken // somebody reads again
			w.mu.Unlock()
			w.broken = 0
		}
	}
	if cap(lines) > kept {
		return
	}
	w.mu.Lock()
	w.spare = lines
	w.mu.Unlock()
}

// tell says what was dropped, once there is room to: after a long write there may be
// none again, but then another follows.
func (w *Writer) tell() {
	if lost := w.takeLost(); lost > 0 {
		w.dropped(lost)
	}
}

func (w *Writer) takeLost() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) > w.size/2 {
		return 0
	}
	lost := w.lost
	w.lost = 0
	return lost
}

// end writes what is left; from then on each line is written at once.
func (w *Writer) end() {
	for !w.switchOver() {
		w.flush()
		w.tell()
	}
}

// switchOver has lines written at once, unless one is left that comes before them.
func (w *Writer) switchOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending)+w.lost > 0 {
		return false
	}
	if w.state == buffering {
		w.state = direct
	}
	return true
}

// Close returns when every line taken has been written; those that come later are
// written at once. A reader that takes nothing for 5 s loses them. Run must have been
// called, and Close is called once.
func (w *Writer) Close() {
	close(w.closing)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.ended:
	case <-timer.C:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.state = stuck
	}
}
