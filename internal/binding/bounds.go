package binding

import (
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
)

// What one container makes the host read, hold and say. A container that passes a bound
// loses what is beyond it, and one problem says so. docs/limits.md lists them.
const (
	// maxPorts is how many ports it may declare: the host holds a rule for each.
	maxPorts = 1024
	// maxDeclarations is how many of its labels and variables are read, of those that
	// look like declarations or options: for each port one, and seven options of its own.
	maxDeclarations = 8 * maxPorts
	// maxQueries is how many questions its targets may ask in all: the host holds a
	// watch for each.
	maxQueries = 4 * maxPorts
	// maxProblems is how many problems of it are kept. How many there are in all is known.
	maxProblems = 64
	// maxName is how long the name of a label or variable may be, in bytes, to be looked
	// at. "connect.65535.half-closed-timeout" has 33.
	maxName = 256

	// maxShownName and maxShownError are how many bytes of such a name, and of an error,
	// are kept to be shown.
	maxShownName  = 96
	maxShownError = 768
)

// LabelOrigin is the Origin of the problems and bindings of the label key.
func LabelOrigin(key string) string { return "label " + shorten.Text(key, maxShownName) }

// VariableOrigin is likewise that of the variable key.
func VariableOrigin(key string) string { return "environment " + shorten.Text(key, maxShownName) }

// shownError is err, or if its text is longer than people read, its beginning.
func shownError(err error) error {
	text := err.Error()
	if len(text) <= maxShownError {
		return err
	}
	return hint.Errorf(shorten.Text(hint.Of(err), maxShownError), "%s", shorten.Text(text, maxShownError))
}

// problems collects what is wrong with the declarations of one container. Past the bound
// it counts: nothing is formatted that nobody will read.
type problems struct {
	kept []*Problem
	more int
	// said are those of merged options, of which one that is for all ports of the
	// container is found again at each.
	said map[saying]bool
}

// saying is a problem by what it says.
type saying struct{ origin, text string }

// full reports whether what is added will only be counted.
func (p *problems) full() bool { return len(p.kept) >= maxProblems }

// add adds the problem of origin. err is called unless there are enough already.
func (p *problems) add(origin string, err func() error) {
	if p.full() {
		p.more++
		return
	}
	p.kept = append(p.kept, &Problem{Origin: origin, Err: err()})
}

// addOnce adds problem, unless one of those that addOnce has added says the same.
func (p *problems) addOnce(problem *Problem) {
	s := saying{problem.Origin, problem.Err.Error()}
	if p.said[s] {
		return
	}
	if p.said == nil {
		p.said = map[saying]bool{}
	}
	p.said[s] = true
	p.add(problem.Origin, func() error { return problem.Err })
}

// count is how many there are in all.
func (p *problems) count() int { return len(p.kept) + p.more }
