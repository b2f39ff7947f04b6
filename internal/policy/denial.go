package policy

import (
	"fmt"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Denial is the error of what a policy forbids. It carries a hint.
type Denial struct {
	// Who is the client and At what it must not reach, for people.
	Who, At string
	Verdict Verdict
}

func (d *Denial) Error() string {
	return fmt.Sprintf("%s may not reach %s: %s", d.Who, d.At, d.Verdict)
}

// String says what decided, to be read after a colon.
func (v Verdict) String() string {
	switch {
	case v.Rule != nil:
		return fmt.Sprintf("%s says %s", v.Rule, v.Action)
	case v.what != "":
		return v.what + ", which the default keeps from what containers declare"
	}
	return "the default allows it"
}

// Fix is what the operator can do about a denial.
func (v Verdict) Fix() string {
	if v.Rule != nil {
		return "change " + v.Rule.String() + " if that is not meant (docs/policy.md)"
	}
	return v.fix
}

// Deny is the error of v about at; "" is the target as a whole.
func (s *Scope) Deny(v Verdict, at string) error {
	s = s.orDefault()
	if at == "" {
		at = "the target " + short(s.target.Text)
	} else if s.target.Text != at && s.target.Text != "" {
		at += " (target " + short(s.target.Text) + ")"
	}
	return hint.Wrap(&Denial{Who: s.Who(), At: at, Verdict: v}, v.Fix())
}

// short is a target as it may be quoted: its author chooses how long it is.
func short(text string) string { return fmt.Sprintf("%q", cut(text)) }

func cut(text string) string {
	const most = 200
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// Who names the client of s, for people.
func (s *Scope) Who() string {
	s = s.orDefault()
	switch {
	case s.client.Container != "":
		return "container " + s.client.Container
	case !s.client.ByOperator:
		return "what containers declare"
	}
	return "the listener"
}

// ClientName is the name of the client's container, and Who if it is none.
func (s *Scope) ClientName() string {
	if name := s.orDefault().client.Container; name != "" {
		return name
	}
	return s.Who()
}

// TargetText is the target of s, cut to what a log may hold.
func (s *Scope) TargetText() string { return cut(s.orDefault().target.Text) }
