//go:build integration

package consul

import (
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/consultest"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// Of two agents the first is frozen, with all its connections open: a new watch is answered
// by the other one, and those that run go on there.
func TestRealFirstFrozen(t *testing.T) {
	one, two := consultest.Start(t), consultest.Start(t)
	ops := []operator{newOperator(t, one), newOperator(t, two)}
	for _, op := range ops {
		op.put("k", "10.0.0.1:1")
	}
	config := Config{Address: one.HTTPAddr + "," + two.HTTPAddr, Heartbeat: 200 * time.Millisecond}
	client := newTestClient(t, config)
	w := sourcetest.Watch(t, client.KV(), kvQuery("", "k"))
	w.Await(t, "10.0.0.1:1")

	thaw := one.Freeze(t)
	defer thaw()
	frozen := time.Now()
	ops[1].put("k", "10.0.0.1:2")
	fresh := sourcetest.Watch(t, newTestClient(t, config).KV(), kvQuery("", "k"))
	fresh.Await(t, "10.0.0.1:2")
	if took := time.Since(frozen); took > 3*time.Second {
		t.Errorf("a new watch was answered after %v", took)
	}
	w.Await(t, "10.0.0.1:2")
	if took := time.Since(frozen); took > 3*time.Second {
		t.Errorf("the change was heard after %v", took)
	}
	fresh.Stop(t)
	w.Stop(t)
}

// A single agent that is frozen is said to be silent, and the question that it was asked goes
// on when it does.
func TestRealFrozen(t *testing.T) {
	agent := consultest.Start(t)
	op := newOperator(t, agent)
	op.put("k", "10.0.0.1:1")
	w := sourcetest.Watch(t, newTestClient(t, Config{Address: agent.HTTPAddr, Heartbeat: 100 * time.Millisecond}).KV(), kvQuery("", "k"))
	w.Await(t, "10.0.0.1:1")
	thaw := agent.Freeze(t)
	if a := w.Next(t); a.Err == nil {
		t.Errorf("answered %v", a)
	} else {
		checkError(t, a.Err, "check that the agent runs", "no sign of life in time", agent.HTTPAddr)
	}
	thaw()
	w.Await(t, "10.0.0.1:1")
	op.put("k", "10.0.0.1:2")
	w.Await(t, "10.0.0.1:2")
	w.Stop(t)
}
