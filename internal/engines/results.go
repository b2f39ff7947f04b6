package engines

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// Results are those of a run on every engine, as docs/engines.json keeps them.
type Results struct {
	// Engines are by name.
	Engines map[string]*EngineResults `json:"engines"`
}

// EngineResults are those on one engine.
type EngineResults struct {
	// Version is what the engine is.
	Version string `json:"version"`
	// Tests are the outcomes (Passed, …) of the tests of Features, by name.
	Tests map[string]string `json:"tests"`
}

// The outcomes of a test, as test2json calls them.
const (
	Passed  = "pass"
	Failed  = "fail"
	Skipped = "skip"
)

// Event is a line of test2json, as far as it is of interest.
type Event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

// Name is the event's test as Feature.Tests has it.
func (e *Event) Name() string { return path.Base(e.Package) + "." + e.Test }

// maxLine bounds a line of the stream; a test may print long ones.
const maxLine = 16 << 20

// ReadEvents calls tell for each line of stream that is an event, and other for those
// that are not.
func ReadEvents(stream io.Reader, tell func(Event), other func(line string)) error {
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			other(lines.Text())
			continue
		}
		tell(e)
	}
	if err := lines.Err(); err != nil {
		_, _ = io.Copy(io.Discard, stream) // or who writes it would wait for ever
		return fmt.Errorf("reading the tests' events: %w", err)
	}
	return nil
}

// Wanted are the tests of features that run on the engine named engine.
func Wanted(features []Feature, engine string) []string {
	wanted := map[string]bool{}
	for _, f := range features {
		if _, not := f.Not[engine]; not {
			continue
		}
		for _, test := range f.Tests {
			wanted[test] = true
		}
	}
	return slices.Sorted(maps.Keys(wanted))
}

// Load reads results from a file.
func Load(file string) (*Results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// Save writes them to a file.
func (r *Results) Save(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// Check says what is wrong with r for features: a test that was not run or did not pass
// makes a cell that nothing holds.
func (r *Results) Check(features []Feature) error {
	var errs []error
	for _, e := range Engines {
		if err := r.CheckOn(features, e); err != nil {
			errs = append(errs, fmt.Errorf("engine %s: %w", e.Name, err))
		}
	}
	return errors.Join(errs...)
}

// CheckOn is Check for one engine.
func (r *Results) CheckOn(features []Feature, e Engine) error {
	of := r.Engines[e.Name]
	if of == nil {
		return errors.New("no results")
	}
	var errs []error
	var missing []string
	for _, test := range Wanted(features, e.Name) {
		switch got := of.Tests[test]; got {
		case Passed:
		case "":
			missing = append(missing, test)
		default:
			errs = append(errs, fmt.Errorf("%s: %s", test, says(got)))
		}
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("no result, since they did not run or are called otherwise now: %s", strings.Join(missing, ", ")))
	}
	return errors.Join(errs...)
}

func says(outcome string) string {
	switch outcome {
	case Failed:
		return "failed"
	case Skipped:
		return "skipped"
	}
	return outcome
}
