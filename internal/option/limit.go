package option

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Owner is who may set an option.
type Owner bool

// The owners. An option of the operator's a container may set only where a Limit allows it:
// it is about what containers share, or reaches what is not theirs.
const (
	Anyone   Owner = false
	Operator Owner = true
)

// Limit is what containers may choose of one option.
type Limit struct {
	// Least and Most bound a duration, a number or a share; "" is no bound.
	Least, Most string
	// Words are those that may be chosen of an option that takes words; nil is every one.
	Words []string
	// Denied leaves the option to the operator.
	Denied bool
	// Origin says where it was written: "--limit client-limit".
	Origin string
	// Missing says why nobody at all can have the option, and Fix what to do; "" if it is there.
	Missing, Fix string
}

// Limited are the limits of options, by their names. nil has none but those of the table:
// the operator's options.
type Limited map[string]Limit

// The words of a limit.
const (
	allowWord = "allow"
	denyWord  = "deny"
	rangeMark = ".."
)

// ParseLimit reads the limit of o: allow, deny, MAX, MIN..MAX, or the words that may be
// chosen, separated by commas.
func ParseLimit(o *Option, text, origin string) (Limit, error) {
	l := Limit{Origin: origin}
	switch {
	case text == allowWord:
		return l, nil
	case text == denyWord:
		l.Denied = true
		return l, nil
	case o.Kind == Enumeration:
		for _, word := range strings.Split(text, ",") {
			word = strings.TrimSpace(word)
			if err := o.Validate(word); err != nil {
				return l, err
			}
			l.Words = append(l.Words, word)
		}
		return l, nil
	case o.size == nil:
		return l, hint.Errorf("write allow or deny", "%q is no limit: %s is neither a number nor a duration", text, o.Name)
	}
	least, most, ranged := strings.Cut(text, rangeMark)
	if !ranged {
		least, most = "", text
	}
	err := l.setBounds(o, strings.TrimSpace(least), strings.TrimSpace(most))
	return l, err
}

// setBounds sets Least and Most.
func (l *Limit) setBounds(o *Option, least, most string) error {
	fix := fmt.Sprintf("write allow, deny, the most, or LEAST%sMOST; %s takes %s", rangeMark, o.Name, o.Range)
	if least == "" && most == "" {
		return hint.Errorf(fix, "a limit without a bound")
	}
	for _, bound := range []string{least, most} {
		if bound == "" {
			continue
		}
		if err := o.Validate(bound); err != nil {
			return hint.Wrap(err, fix)
		}
	}
	if least != "" && most != "" && o.size(least) > o.size(most) {
		return hint.Errorf("write the least first", "%s is more than %s", least, most)
	}
	l.Least, l.Most = least, most
	return nil
}

// BetweenLimit is the limit of o that has these bounds; "" is none.
func BetweenLimit(o *Option, least, most, origin string) (Limit, error) {
	l := Limit{Origin: origin}
	if o.size == nil {
		return l, hint.Errorf("write allow or deny", "%s is neither a number nor a duration", o.Name)
	}
	err := l.setBounds(o, least, most)
	return l, err
}

// of is the limit that holds for o.
func (l Limited) of(o *Option) (limit Limit, ok bool) {
	if limit, ok := l[o.Name]; ok {
		return limit, true
	}
	return Limit{Denied: true}, o.Owner == Operator
}

// within is what a container gets that asks for text, which o takes. The error says what
// is wrong with that; instead is false when nothing of it is used.
func (l Limited) within(o *Option, text string) (used string, instead bool, err error) {
	limit, ok := l.of(o)
	if !ok {
		return text, true, nil
	}
	switch {
	case limit.Missing != "" && text != o.Default:
		return "", false, hint.Wrap(errors.New(limit.Missing), limit.Fix)
	case limit.Missing != "":
		return text, true, nil
	case limit.Denied:
		why := "it is the operator's"
		if limit.Origin != "" {
			why += ", by " + limit.Origin
		}
		return "", false, hint.Errorf(fmt.Sprintf("leave it out, or the operator allows it (--limit %s=%s, or limits: in the configuration file), or sets it for the target (targets:)", o.Name, allowWord),
			"%s cannot be set by a container: %s", o.Name, why)
	case limit.Words != nil && !slices.Contains(limit.Words, text):
		return "", false, hint.Errorf("choose one of them, or raise the limit",
			"%s is none of %s, which %s allows", text, strings.Join(limit.Words, ", "), limit.Origin)
	case limit.Most != "" && o.size(text) > o.size(limit.Most):
		return limit.Most, true, hint.Errorf("ask for no more, or raise the limit",
			"%s is more than %s, to which %s limits %s", o.said(text), limit.Most, limit.Origin, o.Name)
	case limit.Least != "" && o.size(text) < o.size(limit.Least):
		return limit.Least, true, hint.Errorf("ask for no less, or lower the limit",
			"%s is less than %s, to which %s limits %s", o.said(text), limit.Least, limit.Origin, o.Name)
	}
	return text, true, nil
}

// said is text with what a 0 means that is no small number.
func (o *Option) said(text string) string {
	if o.zeroIsMost && o.size(text) == math.MaxInt64 {
		return text + " (" + o.zero + ")"
	}
	return text
}

// operators makes o the operator's.
func operators(o Option) Option {
	o.Owner = Operator
	return o
}

// unlimited says that 0 is more of o than any number.
func unlimited(o Option) Option {
	o.zeroIsMost = true
	size := o.size
	o.size = func(text string) int64 { return cmp.Or(size(text), math.MaxInt64) }
	return o
}

func durationSize(text string) int64 {
	d, _ := time.ParseDuration(text) // it is one that the option takes
	return int64(d)
}

func integerSize(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(text, "%"), 10, 64) // likewise
	return n
}

// By is who wrote a setting.
type By bool

// Those who write settings.
const (
	ByOperator  By = false
	ByContainer By = true
)

// MergeLimited is Merge for a port of a container: what that has set itself holds within
// limits, and so does what nobody has set.
func MergeLimited(limits Limited, shared []Layer, own Layer) (Set, []*Problem) {
	m := newMerger(len(shared) + 1)
	m.limits = limits
	m.addAll(shared, own)
	for name := range limits {
		m.limitDefault(name)
	}
	return m.finish()
}

// limitDefault keeps the built-in value of an option that nobody has set within its limit.
func (m *merger) limitDefault(name string) {
	o, err := Lookup(name)
	if err != nil || len(m.written[name]) > 0 || m.limits[name].Denied {
		return
	}
	if used, ok, err := m.limits.within(&o, o.Default); err != nil && ok {
		_ = o.put(&m.set, used) // it was read with the limit
	}
}
