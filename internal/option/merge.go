package option

import (
	"fmt"
	"slices"
)

// Setting is one option as somebody wrote it.
type Setting struct {
	// Name is the option's name, Text its value.
	Name, Text string
	// Origin says where: "label connect.6379.wait".
	Origin string
	// By says who wrote it, and so whether limits hold for it.
	By By
}

// Layer is what was set in one place. Of two settings of one option the later wins.
type Layer []Setting

// Problem is a setting that cannot be used, or that does nothing.
type Problem struct {
	Setting Setting
	// Err says what is wrong; its hint what may be written.
	Err error
	// Instead says what holds instead, "3s is used"; "" when the setting stands.
	Instead string
}

func (p *Problem) Error() string { return fmt.Sprintf("%s: %v", p.Setting.Origin, p.Err) }

// Unwrap gives Err, and with it its hint.
func (p *Problem) Unwrap() error { return p.Err }

// Merge lays own over shared, the lowest first, and those over the built-in values.
// shared are layers that hold for several ports: what one of them sets for the case
// that a higher one asks for it, such as the path of a check, may do nothing
// without a problem. Problems come in the order of the layers.
func Merge(shared []Layer, own Layer) (Set, []*Problem) {
	m := newMerger(len(shared) + 1)
	m.addAll(shared, own)
	return m.finish()
}

// newMerger makes a merger of which own is the level of the port's own layer.
func newMerger(own int) *merger {
	return &merger{set: Default(), own: own, written: map[string][]entry{}}
}

func (m *merger) addAll(shared []Layer, own Layer) {
	for i, layer := range slices.Concat(shared, []Layer{own}) {
		for _, s := range layer {
			m.add(i+1, s)
		}
	}
}

func (m *merger) finish() (Set, []*Problem) {
	m.contradictions()
	m.idle()
	for _, rejected := range m.rejected {
		rejected.Instead = m.instead(rejected.Setting.Name)
	}
	problems := append(m.rejected, m.doingNothing...)
	slices.SortStableFunc(problems, func(a, b *Problem) int { return m.order[a] - m.order[b] })
	return m.set, problems
}

// entry is a setting that can be used, and its layer: 0 is built in.
type entry struct {
	level   int
	setting Setting
	order   int
}

type merger struct {
	set          Set
	limits       Limited
	own          int                // the level of the port's own layer
	written      map[string][]entry // by option, the lowest first
	rejected     []*Problem
	doingNothing []*Problem
	order        map[*Problem]int
	count        int
}

func (m *merger) add(level int, s Setting) {
	m.count++
	o, err := Lookup(s.Name)
	if err == nil {
		err = o.Validate(s.Text)
	}
	if err == nil && s.By == ByContainer && !m.granted(&o, s.Text) {
		asked := s
		var used bool
		if s.Text, used, err = m.limits.within(&o, s.Text); err != nil && used {
			m.reject(asked, err, m.count)
			err = nil
		}
	}
	if err != nil {
		m.reject(s, err, m.count)
		return
	}
	_ = o.put(&m.set, s.Text) // Validate has said that it can be
	m.written[s.Name] = append(m.written[s.Name], entry{level, s, m.count})
}

// granted reports whether text is the value of o that holds anyway, by the operator's will.
func (m *merger) granted(o *Option, text string) bool {
	set := m.set
	if o.put(&set, text) != nil || set != m.set {
		return false
	}
	limit, _ := m.limits.of(o)
	top := m.top(o.Name)
	return limit.Denied || top.level > 0 && top.setting.By == ByOperator
}

func (m *merger) note(p *Problem, order int) *Problem {
	if m.order == nil {
		m.order = map[*Problem]int{}
	}
	m.order[p] = order
	return p
}

func (m *merger) reject(s Setting, err error, order int) {
	m.rejected = append(m.rejected, m.note(&Problem{Setting: s, Err: err}, order))
}

// top is the entry of name that holds; that of level 0 has no setting.
func (m *merger) top(name string) entry {
	entries := m.written[name]
	if len(entries) == 0 {
		return entry{}
	}
	return entries[len(entries)-1]
}

// drop takes the entry away that holds for name, and puts the next lower one's
// value back.
func (m *merger) drop(name string) {
	m.written[name] = m.written[name][:len(m.written[name])-1]
	o, err := Lookup(name)
	if err != nil {
		return // it is in written, so it is known
	}
	text := o.Default
	if below := m.top(name); below.level > 0 {
		text = below.setting.Text
	}
	_ = o.put(&m.set, text) // it was put before
}

// instead is what holds where a setting of name was rejected.
func (m *merger) instead(name string) string {
	o, err := Lookup(name)
	if err != nil || o.In(m.set) == "" {
		return "passed over"
	}
	return o.In(m.set) + " is used"
}
