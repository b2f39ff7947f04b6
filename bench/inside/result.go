package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/ambassadord/ambassadord/bench/inside/job"
	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

// value is one workload of one contestant in one round. An operation is an exchange or a
// connection; of a stream it is a gigabyte, of 10⁹ bytes.
type value struct {
	Round      int
	Contestant string
	Workload   string
	Rate       float64 // operations a second
	P50, P99   float64 // µs of an operation; 0 for a stream
	CPU        float64 // µs of the machine per operation
	Proxy      float64 // µs of the processes between per operation, which CPU contains
	Congestion string  // the client's
}

func newValue(w workload, r job.Result, proxy time.Duration) (value, error) {
	n := float64(r.Operations)
	if w.stream {
		n = float64(r.Bytes) / 1e9
	}
	if n == 0 || r.Elapsed == 0 {
		return value{}, errors.New("nothing was done in the time")
	}
	return value{
		Workload: w.name, Rate: n / r.Elapsed.Seconds(),
		P50: us(r.P50), P99: us(r.P99), CPU: us(r.Busy) / n, Proxy: us(proxy) / n, Congestion: r.Congestion,
	}, nil
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// insideResult is all that was measured, and where.
type insideResult struct {
	Command       string
	Date          time.Time
	Machine       string
	Engine        string
	DockerProxies []int             // their process IDs; empty if the engine runs without
	Failures      map[string]string // contestants that are out, and why
	Values        []value

	chosen []insideContestant
	rounds int
}

func newResult(ctx context.Context, b insideBench, chosen []insideContestant) *insideResult {
	version, _ := engine.Docker(ctx, "version", "-f", "{{.Server.Version}}")
	kernel, _ := exec.CommandContext(ctx, "uname", "-r").Output()
	return &insideResult{
		Command: strings.Join(append([]string{"go run ./bench/inside"}, os.Args[1:]...), " "),
		Date:    time.Now().UTC().Truncate(time.Second),
		Machine: fmt.Sprintf("%d processors, Linux %s", runtime.NumCPU(), strings.TrimSpace(string(kernel))),
		Engine:  version, Failures: map[string]string{}, chosen: chosen, rounds: b.rounds,
	}
}

// of are the values of a contestant under a workload, by round.
func (r *insideResult) of(contestant, workload string) map[int]value {
	values := map[int]value{}
	for _, v := range r.Values {
		if v.Contestant == contestant && v.Workload == workload {
			values[v.Round] = v
		}
	}
	return values
}

// failed is an error if a contestant is out.
func (r *insideResult) failed() error {
	var errs []error
	for name, why := range r.Failures {
		errs = append(errs, fmt.Errorf("%s: %s", name, why))
	}
	return errors.Join(errs...)
}

// figures are one of each value of a contestant under a workload.
func (r *insideResult) figures(contestant, workload string, figure func(value) float64) []float64 {
	var values []float64
	for _, v := range r.of(contestant, workload) {
		values = append(values, figure(v))
	}
	return values
}

// paired is what compare makes of two contestants' values of each round.
func (r *insideResult) paired(a, b, workload string, compare func(a, b value) float64) []float64 {
	ofB := r.of(b, workload)
	var values []float64
	for round, v := range r.of(a, workload) {
		if other, ok := ofB[round]; ok {
			values = append(values, compare(v, other))
		}
	}
	return values
}
