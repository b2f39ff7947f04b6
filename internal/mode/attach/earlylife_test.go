package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/ambassadord/ambassadord/netrules"
	"github.com/ambassadord/ambassadord/resolver"
)

// worked is an early namespace of which only the order of its work is real: it notes what is done,
// each step when the test lets it.
type worked struct {
	life     *earlyLife
	inFlight *inFlight
	turn     chan error    // lets the next step be done; an error has prepare fail
	over     chan struct{} // closed when runEarly has returned
	stop     func()        // ends the daemon

	steps                   []string
	held                    bool // the namespace is
	accepting, hooked       bool
	chain                   bool
	connected               bool // there is a connection in flight
	wrong                   []string
	firstVerdict            earlyEvent
	decidedByTest, shutDown bool
	wanted                  bool // an attachment waits for the namespace that was not left to it in time
	taken                   bool // another daemon had taken over before it was decided whose it is
}

func (w *worked) prepare(context.Context) error {
	err := <-w.turn
	w.held, w.accepting = true, true
	if err == nil {
		w.hooked, w.chain = true, true
	} else if !w.decidedByTest {
		w.decidedByTest, w.firstVerdict = true, declines
	}
	w.note("prepare", preparing, claimed, declined, dead, claimedLate, leaving, leavingKnown)
	return err
}

func (w *worked) await(ctx context.Context) bool {
	for {
		state, changed := w.life.now()
		if state != prepared {
			return false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !w.decidedByTest {
				w.decidedByTest, w.firstVerdict = true, declines
			}
			w.life.decide(verdict{})
		}
	}
}

func (w *worked) extend(context.Context)    {}
func (w *worked) serveRest(context.Context) {}

func (w *worked) leaveBehind(context.Context) {
	<-w.turn
	w.note("leave behind", leaving, leavingKnown)
}

func (w *worked) unhook() {
	<-w.turn
	w.hooked, w.accepting = false, false
	w.note("unhook", declined, dead, claimedLate)
}

func (w *worked) drained() <-chan struct{} { return w.inFlight.left() }

func (w *worked) clear() {
	<-w.turn
	if w.connected {
		w.wrong = append(w.wrong, "a connection in flight is cut")
	}
	if w.hooked {
		w.wrong = append(w.wrong, "the chain goes while it is hooked")
	}
	w.held, w.chain = false, false
	w.note("clear", clearing)
}

// note adds a step, which may be done in some states alone.
func (w *worked) note(step string, in ...earlyState) {
	w.steps = append(w.steps, step)
	if state, _ := w.life.now(); !slices.Contains(in, state) {
		w.wrong = append(w.wrong, fmt.Sprintf("%s in state %d", step, state))
	}
}

// The events of the test: those of others, what becomes of a connection, and the steps of the work.
const (
	dialled earlyEvent = iota + 100
	hungUp
	hungUpAsWanted // and at the same moment the attachment wants what is there
	widened
	shutdown
	stepDone
	stepFails
)

var played = []earlyEvent{claims, declines, dies, wants, takenOver, dialled, hungUp, hungUpAsWanted, widened, shutdown, stepDone, stepFails}

// play has the event happen, and what follows of it.
func (w *worked) play(e earlyEvent) {
	source := netip.MustParseAddrPort("127.0.0.1:4000")
	state, _ := w.life.now()
	switch e {
	case wants:
		w.wanted = w.wanted || slices.Contains([]earlyState{declined, dead, unhooked}, state)
	case takenOver:
		w.taken = w.taken || slices.Contains([]earlyState{preparing, prepared}, state)
	}
	switch e {
	case dialled:
		if !w.connected && w.accepting {
			w.connected = w.inFlight.enter(source)
		}
	case hungUp, hungUpAsWanted:
		if w.connected {
			w.connected = false
			w.inFlight.leave(source)
		}
		if e == hungUpAsWanted { // before runEarly has noticed
			w.wanted = w.life.on(wants) || w.wanted
		}
	case widened: // is no part of the life: what there is more to redirect is for the work to look at
	case shutdown:
		w.shutDown = true
		w.stop()
	case stepDone, stepFails:
		var err error
		if e == stepFails {
			err = errors.New("it fails")
		}
		select {
		case w.turn <- err:
		default:
		}
	case claims, declines, dies:
		if !w.decidedByTest {
			w.decidedByTest, w.firstVerdict = true, e
		}
		v := verdict{dead: e == dies}
		if e == claims {
			v.owner = new(attachment)
		}
		w.life.decide(v)
	default:
		w.life.on(e)
	}
	synctest.Wait()
}

// snapshot is all that an event may change.
func (w *worked) snapshot() string {
	state, _ := w.life.now()
	return fmt.Sprint(state, w.steps, w.held, w.accepting, w.hooked, w.chain, w.connected, w.decidedByTest, w.shutDown, w.wanted, w.taken)
}

// TestEveryOrderOfEventsInAnEarlyNamespace: whatever comes in whatever order, what is in the
// namespace is either handed over or cleaned up.
func TestEveryOrderOfEventsInAnEarlyNamespace(t *testing.T) {
	t.Parallel()
	const most = 5 // events, after which the life is played to its end
	reached, orders := map[earlyState]int{}, 0
	var explore func(events []earlyEvent, before string)
	explore = func(events []earlyEvent, before string) {
		var snapshot string
		synctest.Test(t, func(t *testing.T) {
			orders++
			ctx, stop := context.WithCancel(t.Context())
			w := &worked{life: newEarlyLife(), inFlight: newInFlight(), turn: make(chan error), over: make(chan struct{}), stop: stop}
			go func() {
				defer close(w.over)
				runEarly(ctx, w.life, w)
			}()
			synctest.Wait()
			for _, e := range events {
				w.play(e)
			}
			snapshot = w.snapshot()
			w.playOut()
			for _, wrong := range w.violations() {
				t.Errorf("after the events %d: %s", events, wrong)
			}
			state, _ := w.life.now()
			reached[state]++
			stop()
			<-w.over
		})
		// What has changed nothing is as if it had not come: the orders after it are played without it.
		if snapshot == before || len(events) == most || t.Failed() {
			return
		}
		for _, e := range played {
			explore(append(slices.Clone(events), e), snapshot)
		}
	}
	explore(nil, "")
	t.Logf("%d orders; they end in these states: %v", orders, reached)
	for _, state := range finalStates {
		if state != leftBehind && reached[state] == 0 { // playOut decides what is left behind
			t.Errorf("no order ends in state %d", state)
		}
	}
}

// playOut has the life come to its end: it lets all steps be done, the connection end, and, if
// nobody else does, decides.
func (w *worked) playOut() {
	for range 4 {
		w.play(stepDone)
	}
	if w.wanted && !w.life.in(surrendered) {
		w.wrong = append(w.wrong, "the attachment waits for connections in flight, or gets nothing")
	}
	for range 10 {
		w.play(stepDone)
		select {
		case <-w.life.decided:
		default:
			w.play(declines)
		}
		w.play(hungUp)
	}
}

// violations says what is wrong after the end.
func (w *worked) violations() []string {
	wrong := w.wrong
	not := func(what string, is bool) {
		if !is {
			wrong = append(wrong, "it is not true that "+what)
		}
	}
	closed := func(c chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	not("the work has ended", closed(w.over) && closed(w.life.done))
	not("it is decided", closed(w.life.decided))
	not("the first verdict counts", w.life.verdict.event() == w.firstVerdict)
	state, _ := w.life.now()
	not("another daemon has it if, and only if, that took over in time", (state == leftBehindKnown) == w.taken)
	not("it is handed over if, and only if, it was claimed in time", (state == handedOver) == (w.firstVerdict == claims && !w.taken))
	not("connections are let through unless there is an owner", closed(w.life.unhooked) == (state != handedOver))
	done := func(step string) bool { return slices.Contains(w.steps, step) }
	at := func(step string) int { return slices.Index(w.steps, step) }
	switch state {
	case handedOver:
		not("all of it is the attachment's", w.held && !done("unhook") && !done("clear") && !done("leave behind"))
	case surrendered:
		not("the chain is the attachment's, unhooked", w.held && !w.hooked && done("unhook") && !done("clear") && !done("leave behind"))
	case ended:
		not("nothing is left", !w.held && !w.hooked && !w.chain && !done("leave behind"))
		not("the chain goes last", at("unhook") < at("clear") && at("clear") == len(w.steps)-1)
	case leftBehindKnown:
		not("nothing is touched but left to the other daemon", w.held && done("leave behind") && !done("unhook") && !done("clear"))
	default:
		wrong = append(wrong, fmt.Sprintf("it ends in state %d", state))
	}
	return wrong
}

// TestTransitionsOfAnEarlyNamespace: the table has a row for each state, and each state is come to;
// what is not in a row changes nothing.
func TestTransitionsOfAnEarlyNamespace(t *testing.T) {
	t.Parallel()
	reachable := map[earlyState]bool{preparing: true}
	for more := true; more; {
		more = false
		for state := range maps.Clone(reachable) {
			for _, next := range earlyTransitions[state] {
				more = more || !reachable[next]
				reachable[next] = true
			}
		}
	}
	for state := preparing; state <= leftBehindKnown; state++ {
		row, there := earlyTransitions[state]
		if !there || !reachable[state] {
			t.Errorf("state %d has a row: %t; is come to: %t", state, there, reachable[state])
		}
		if final := slices.Contains(finalStates, state); final {
			for e, next := range row {
				if !slices.Contains(finalStates, next) || e == ends {
					t.Errorf("in state %d, which is final, event %d leads to %d", state, e, next)
				}
			}
		}
		for e := prepares; e <= ends; e++ {
			l := newEarlyLife()
			l.state = state
			_, changed := l.now()
			want, in := row[e]
			if !in {
				want = state
			}
			if changes := l.on(e); changes != in || l.state != want {
				t.Errorf("event %d in state %d leads to %d (%t); want %d", e, state, l.state, changes, want)
			}
			select {
			case <-changed:
				if !in {
					t.Errorf("event %d, of which state %d says nothing, has woken others", e, state)
				}
			default:
				if in {
					t.Errorf("event %d has changed state %d, and nobody was woken", e, state)
				}
			}
		}
	}
}

// TestLeftBehindBeforeItWasOpened: another daemon takes over while a namespace is opened that is
// gone by then.
func TestLeftBehindBeforeItWasOpened(t *testing.T) {
	t.Parallel()
	set := newEarlySet(&newRouting(t.Context(), resolver.New(nil, resolver.Options{}), nil).Config)
	e := newEarlyNamespace(set, t.TempDir()+"/gone", []netrules.Port{{Number: 80}}, nil)
	e.life.on(takenOver)
	runEarly(t.Context(), e.life, e)
	if !e.life.in(leftBehindKnown) {
		state, _ := e.life.now()
		t.Errorf("it ends in state %d", state)
	}
}
