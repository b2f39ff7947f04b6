package route

import (
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/policy"
)

// audits logs what audit rules are about, each case once in a while.
type audits struct {
	mu    sync.Mutex
	of    map[string]*audited // by the client's name
	swept time.Time           // when those of before were last forgotten
}

// audited is what one client was seen to reach since began.
type audited struct {
	began time.Time
	cases map[audit]struct{}
}

// audit is one client's reaching one endpoint.
type audit struct {
	target string
	addr   netip.AddrPort
}

const (
	// auditEvery is how often one case is logged.
	auditEvery = time.Minute
	// mostAudits bounds the cases of one client in that time, so that it hides no other's.
	mostAudits = 64
	// mostAudited bounds the clients that are remembered.
	mostAudited = 4096
)

// isNew reports whether client was not seen to reach that lately, and remembers it.
func (n *audits) isNew(client string, one audit, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.of[client]
	switch {
	case a != nil && now.Sub(a.began) < auditEvery:
	case a == nil && !n.room(now):
		return false
	default:
		a = &audited{began: now, cases: map[audit]struct{}{}}
		n.of[client] = a
	}
	if _, known := a.cases[one]; known || len(a.cases) >= mostAudits {
		return false
	}
	a.cases[one] = struct{}{}
	return true
}

// room reports whether another client may be remembered. It looks for those that need not
// be once a second at most.
func (n *audits) room(now time.Time) bool {
	if n.of == nil {
		n.of = map[string]*audited{}
	}
	if len(n.of) >= mostAudited && now.Sub(n.swept) >= time.Second {
		n.swept = now
		maps.DeleteFunc(n.of, func(_ string, a *audited) bool { return now.Sub(a.began) >= auditEvery })
	}
	return len(n.of) < mostAudited
}

// note logs that v has let the client of scope reach addr, unless it was logged lately.
func (n *audits) note(log *slog.Logger, scope *policy.Scope, v policy.Verdict, addr netip.AddrPort) {
	client, target := scope.ClientName(), scope.TargetText()
	if !n.isNew(client, audit{target, addr}, time.Now()) {
		return
	}
	log.Info("audited by the policy", "client", client, "target", target, "endpoint", addr.String(), "decided_by", v.String())
}
