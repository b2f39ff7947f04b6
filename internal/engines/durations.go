package engines

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// DurationsFile is where the repository keeps how long tests take.
const DurationsFile = "internal/engines/durations.json"

//go:embed durations.json
var durations []byte

// Durations say how long tests took when they were last measured, in seconds: by engine, and
// there by test function, as PACKAGE.TestName, or by a package's folder. They order and share
// out what is to run; a test that they do not know is run all the same.
type Durations map[string]map[string]float64

// LoadDurations returns those that the repository keeps.
func LoadDurations() (Durations, error) {
	var d Durations
	if err := json.Unmarshal(durations, &d); err != nil {
		return nil, fmt.Errorf("%s: %w", DurationsFile, err)
	}
	return d, nil
}

// unknown is how long what was never measured is taken to last.
const unknown = time.Second

// Of returns how long name takes on an engine.
func (d Durations) Of(engine, name string) time.Duration {
	if seconds, ok := d[engine][name]; ok {
		return time.Duration(seconds * float64(time.Second))
	}
	return unknown
}

// Took notes how long name has taken on an engine, to a tenth of a second.
func (d Durations) Took(engine, name string, seconds float64) {
	if d[engine] == nil {
		d[engine] = map[string]float64{}
	}
	d[engine][name] = float64(int(seconds*10+0.5)) / 10
}

// Save writes to a file those that are longer than what is unknown is taken to last.
func (d Durations) Save(file string) error {
	long := Durations{}
	for _, engine := range slices.Sorted(maps.Keys(d)) {
		for name, seconds := range d[engine] {
			if seconds > unknown.Seconds() {
				long.Took(engine, name, seconds)
			}
		}
	}
	text, err := json.MarshalIndent(long, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
