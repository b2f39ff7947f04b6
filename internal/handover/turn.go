package handover

import "context"

// Turn is whose the rules of this host are to change: ours, unless a daemon before us has yet to
// let go. The zero value is ours. Borrowed is called before others use it.
type Turn struct{ released chan struct{} } // nil if there was no daemon before us

// Borrowed says that the rules are another daemon's, until Take.
func (t *Turn) Borrowed() { t.released = make(chan struct{}) }

// Take says that this daemon has let go.
func (t *Turn) Take() { close(t.released) }

// Follows reports whether there was a daemon before us.
func (t *Turn) Follows() bool { return t.released != nil }

// Ours reports whether the rules are ours to change.
func (t *Turn) Ours() bool {
	if t.released == nil {
		return true
	}
	select {
	case <-t.released:
		return true
	default:
		return false
	}
}

// Await waits until they are, and reports whether that came before ctx or ending ended; ending
// may be nil.
func (t *Turn) Await(ctx context.Context, ending <-chan struct{}) bool {
	if t.Ours() {
		return true
	}
	select {
	case <-t.released:
		return true
	case <-ending:
	case <-ctx.Done():
	}
	return false
}
