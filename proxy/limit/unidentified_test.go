package limit

import "testing"

// TestTheUnknownDoNotStandInTheWay: those that come to one listener and wait until it is
// known whose they are leave places to those of another.
func TestTheUnknownDoNotStandInTheWay(t *testing.T) {
	daemon := New("the daemon", "raise it", Bounds{Open: 32, Queue: 10, Reserve: 4})
	unknown := New("unknown", "", Bounds{Open: 8, Reserve: 4})
	var all Unidentified
	var leaves []func()
	for {
		leave, ok := all.Enter(daemon, unknown, Origin{Listener: 1})
		if !ok {
			break
		}
		leaves = append(leaves, leave)
	}
	if n := len(leaves); n < 28 || n > 38 {
		t.Errorf("one gets %d", n)
	}
	leave, ok := all.Enter(daemon, unknown, Origin{Listener: 2})
	if !ok {
		t.Fatal("another finds no place")
	}
	if known := daemon.Share("known"); !known.TryEnter() {
		t.Error("a client that is known finds no place")
	} else {
		known.Leave()
	}
	leave()
	for _, leave := range leaves {
		leave()
	}
	if daemon.Open()+unknown.Open() != 0 || len(all.all) != 0 {
		t.Errorf("%d, %d and %v are left", daemon.Open(), unknown.Open(), all.all)
	}
}
