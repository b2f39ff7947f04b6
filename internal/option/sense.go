package option

import (
	"fmt"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// contradictions drops what cannot hold together: of the two the one that was
// written in the higher layer, because the lower one holds for others too.
func (m *merger) contradictions() {
	for m.set.EjectFor > m.set.EjectForMax {
		long, most := m.top("eject-for"), m.top("eject-for-max")
		name, culprit := "eject-for", long
		if most.level > long.level {
			name, culprit = "eject-for-max", most
		}
		m.reject(culprit.setting, hint.Errorf("write an eject-for of at most eject-for-max",
			"eject-for is %s and eject-for-max %s, which is less", spelled(m.set.EjectFor), spelled(m.set.EjectForMax)), culprit.order)
		m.drop(name)
	}
}

// dependence is an option that does nothing for certain values of another.
type dependence struct {
	name, on string
	// nothing says why name does nothing in s; "" when it does.
	nothing func(s Set) string
	fix     string
	// switched is set where on switches name on, so that name may be written for the
	// case that it does.
	switched bool
}

func needs(name, on, fix string, works func(s Set) bool) dependence {
	o, _ := Lookup(on) // a test looks them all up
	return dependence{name: name, on: on, fix: fix, switched: true, nothing: func(s Set) string {
		if works(s) {
			return ""
		}
		return fmt.Sprintf("with %s %s", on, o.In(s))
	}}
}

// bounded makes name one that another duration cuts off.
func bounded(name, by string, less, more func(s Set) time.Duration, fix string) dependence {
	return dependence{name: name, on: by, fix: fix, nothing: func(s Set) string {
		if less(s) <= more(s) {
			return ""
		}
		return fmt.Sprintf("beyond %s, which is %s", by, spelled(more(s)))
	}}
}

// dependences are made once: they are looked at for each port that is read.
var dependences = sync.OnceValue(func() []dependence {
	checked := func(s Set) bool { return s.Check != CheckNone }
	http := func(s Set) bool { return s.Check == CheckHTTP }
	tcp := func(s Set) bool { return s.Check == CheckTCP }
	ejects := func(s Set) bool { return s.EjectAfter > 0 }
	const (
		anyCheck = "set check to tcp or http, or leave it out"
		eject    = "set eject-after to more than 0, or leave it out"
	)
	all := []dependence{
		needs("check-path", "check", "set check to http, or leave it out", http),
		needs("check-host", "check", "set check to http, or leave it out", http),
		needs("check-send", "check", "set check to tcp, or leave it out", tcp),
		needs("check-expect", "check", "set check to tcp, or leave it out", tcp),
		needs("drain-after", "on-removal", "set on-removal, on-unhealthy or fail-back to drain, or leave it out", func(s Set) bool {
			return s.OnRemoval == Drain || s.OnUnhealthy == UnhealthyDrain || s.FailBack == Drain
		}),
		needs("max-lifetime-jitter", "max-lifetime", "set max-lifetime, or leave it out", func(s Set) bool { return s.MaxLifetime > 0 }),
		needs("proxy-protocol-tlvs", "proxy-protocol", "set proxy-protocol to v2, or leave it out", func(s Set) bool { return s.ProxyProtocol == ProxyV2 }),
		needs("proxy-protocol-max", "proxy-protocol", "set proxy-protocol to v2, or leave it out", func(s Set) bool { return s.ProxyProtocol == ProxyV2 }),
		bounded("wait", "timeout", func(s Set) time.Duration { return s.Wait }, func(s Set) time.Duration { return s.Timeout },
			"set timeout, which bounds attempts and holding together, to no less"),
		bounded("attempt-timeout", "timeout", func(s Set) time.Duration { return s.AttemptTimeout }, func(s Set) time.Duration { return s.Timeout },
			"set timeout, which bounds all attempts together, to no less"),
		bounded("hedge", "attempt-timeout", func(s Set) time.Duration { return s.Hedge }, func(s Set) time.Duration { return s.AttemptTimeout },
			"set hedge to less than attempt-timeout"),
	}
	for _, name := range []string{"check-port", "check-interval", "check-timeout", "check-jitter", "check-rise", "check-fall"} {
		all = append(all, needs(name, "check", anyCheck, checked))
	}
	for _, name := range []string{"eject-for", "eject-for-max", "eject-most"} {
		all = append(all, needs(name, "eject-after", eject, ejects))
	}
	return all
})

// idle finds what was written and does nothing. It stays as it is: what is wrong
// may as well be the other option.
func (m *merger) idle() {
	builtin := Default()
	for _, d := range dependences() {
		if len(m.written[d.name]) == 0 { // nearly always; the rest copies sets, a KiB each
			continue
		}
		o, err := Lookup(d.name)
		if err != nil || o.In(m.set) == o.In(builtin) {
			continue
		}
		why := d.nothing(m.set)
		mine, other := m.top(d.name).level, m.top(d.on).level
		if why == "" || mine < other || d.switched && mine != m.own && mine != other {
			continue
		}
		top := m.top(d.name)
		m.doingNothing = append(m.doingNothing, m.note(&Problem{Setting: top.setting,
			Err: hint.Errorf(d.fix, "%s does nothing %s", d.name, why)}, top.order))
	}
}
