package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ambassadord/ambassadord/internal/engines"
)

// column is what came of the tests on one engine, on however many hosts.
type column struct {
	engine engines.Engine
	whole  bool // every test of the repository runs on it
	out    *printer
	began  time.Time

	mu      sync.Mutex
	results *engines.EngineResults
	took    engines.Durations
	failed  []failure
	parts   map[string]*packageParts // by import path
}

// packageParts are those of a package that are told of as one.
type packageParts struct {
	left    int // that have not ended
	seconds float64
	failed  bool
}

// failure is a test, or a package, that has failed, and what it said.
type failure struct{ line, text string }

func newColumn(e engines.Engine, out *printer) *column {
	return &column{engine: e, out: out, began: time.Now(), results: &engines.EngineResults{Tests: map[string]string{}},
		took: engines.Durations{}, parts: map[string]*packageParts{}}
}

// expect says that a package has another part.
func (c *column) expect(pkg string) {
	if c.parts[pkg] == nil {
		c.parts[pkg] = &packageParts{}
	}
	c.parts[pkg].left++
}

// version takes what the engine says of itself.
func (c *column) version(version string) {
	// One that is built from its module does not know its version.
	if c.engine.Built {
		pinned, err := engines.Pinned(".")
		if err != nil {
			c.print(err.Error(), "")
		}
		version = pinned
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results.Version = version
}

// result takes that of a test, a subtest or a package's part.
func (c *column) result(e engines.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, wanted := slices.BinarySearch(engines.Wanted(engines.Features, c.engine.Name), e.Name()); wanted {
		c.results.Tests[e.Name()] = e.Action
	}
	if e.Test != "" && !strings.Contains(e.Test, "/") {
		c.took.Took(c.engine.Name, path.Base(e.Package)+"."+e.Test, e.Elapsed)
	}
}

// part takes the end of a package's part, and tells of the package, as Go does, when that was
// the last.
func (c *column) part(e engines.Event, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parts[e.Package]
	if p == nil { // one of those that run together
		c.took.Took(c.engine.Name, strings.TrimPrefix(e.Package, module+"/"), e.Elapsed)
		if c.whole && e.Action != engines.Failed {
			c.out.print(summary(text), "")
		}
		return
	}
	p.left--
	p.seconds += e.Elapsed
	p.failed = p.failed || e.Action == engines.Failed
	if c.whole && p.left == 0 && !p.failed {
		c.out.print(fmt.Sprintf("ok  \t%s\t%.3fs", e.Package, p.seconds), "")
	}
}

// summary is Go's own of a package, which it says last.
func summary(text string) string {
	text = strings.TrimSuffix(text, "\n")
	return text[strings.LastIndex(text, "\n")+1:]
}

// end tells how the column has ended: hosts by err, and undone are the jobs that none has taken.
// Of a run that was ended, which ctx tells, there is no need to list them.
func (c *column) end(ctx context.Context, err error, undone []*job) error {
	var names []string
	for _, f := range c.failed {
		names = append(names, f.line)
	}
	if ctx.Err() != nil {
		names = append(names, fmt.Sprintf("the run was ended: %d of its parts were not begun", len(undone)))
	} else {
		for _, j := range undone {
			names = append(names, "not run: "+j.name)
		}
	}
	if len(names) > 0 {
		err = errors.Join(err, errors.New(strings.Join(names, "\n")))
	}
	if ctx.Err() == nil {
		err = errors.Join(err, c.check())
	}
	if err != nil {
		return fmt.Errorf("engine %s, %s: %w", c.engine.Name, c.results.Version, err)
	}
	c.print(fmt.Sprintf("ok, %d tests of the table, of %s, in %s", len(c.results.Tests), c.results.Version, time.Since(c.began).Round(time.Second)), "")
	return nil
}

// check says which tests of the table have not passed. The distribution's engine may be none of
// the table's.
func (c *column) check() error {
	if !c.engine.Built && !strings.HasPrefix(c.results.Version, c.engine.Release) {
		c.print(fmt.Sprintf("this machine's engine is %q: the column %s of %s is not looked at", c.results.Version, c.engine.Title, pageFile), "")
		return nil
	}
	all := engines.Results{Engines: map[string]*engines.EngineResults{c.engine.Name: c.results}}
	if err := all.CheckOn(engines.Features, c.engine); err != nil {
		return fmt.Errorf("%s says that it works:\n%w", pageFile, err)
	}
	return nil
}

// fails tells of a failure, now and at the end.
func (c *column) fails(line, text string) {
	c.print(line, text)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = append(c.failed, failure{line, text})
}

// retell tells the failures once more, without the logs of daemons: one that is early in half
// an hour of output is otherwise lost.
func (c *column) retell() {
	for _, f := range c.failed {
		var kept []string
		for text := range strings.Lines(f.text) {
			if text = strings.TrimRight(text, "\n"); !strings.HasPrefix(strings.TrimSpace(text), `{"time"`) && len(kept) < maxRetold {
				kept = append(kept, fmt.Sprintf("%.400s", text))
			}
		}
		c.print("once more: "+f.line, strings.Join(kept, "\n"))
	}
}

// maxRetold bounds the lines of one failure that are told again.
const maxRetold = 60

func (c *column) print(line, text string) { c.out.print("engine "+c.engine.Name+": "+line, text) }

// printer prints for all hosts, what belongs together in one piece.
type printer struct {
	mu      sync.Mutex
	stdout  io.Writer
	verbose bool
}

func (p *printer) print(line, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.stdout, line)
	if text = strings.TrimSuffix(text, "\n"); text != "" {
		fmt.Fprintln(p.stdout, text)
	}
}
