package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambassadord/ambassadord/bench/inside/job"
	"github.com/ambassadord/ambassadord/bench/internal/procstat"
)

// load is one job. It is run twice, to warm up and to measure.
type load interface {
	run(d time.Duration, most int) (tally, error)
	close()
}

// tally is what a load has done.
type tally struct {
	latencies []time.Duration // of each operation
	bytes     int64           // of a stream
}

// drive does one job after the other.
func drive(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	answers := json.NewEncoder(out)
	for lines.Scan() {
		var j job.Job
		if err := json.Unmarshal(lines.Bytes(), &j); err != nil {
			return fmt.Errorf("a job: %w", err)
		}
		result, err := measure(j, func() error {
			if _, err := io.WriteString(out, "\n"); err != nil {
				return err
			}
			if !lines.Scan() {
				return io.ErrUnexpectedEOF
			}
			return nil
		})
		if err != nil {
			result = job.Result{Error: err.Error()}
		}
		if err := answers.Encode(result); err != nil {
			return err
		}
	}
	return lines.Err()
}

// measure does a job; when it is warm it asks ready.
func measure(j job.Job, ready func() error) (job.Result, error) {
	l, err := prepare(j)
	if err != nil {
		return job.Result{}, err
	}
	defer l.close()
	if _, err := l.run(j.Warm, j.Most); err != nil {
		return job.Result{}, fmt.Errorf("warming up: %w", err)
	}
	if err := ready(); err != nil {
		return job.Result{}, err
	}
	before, err := procstat.Busy()
	if err != nil {
		return job.Result{}, err
	}
	began := time.Now()
	t, err := l.run(j.Time, j.Most)
	elapsed := time.Since(began)
	if err != nil {
		return job.Result{}, err
	}
	after, err := procstat.Busy()
	if err != nil {
		return job.Result{}, err
	}
	congestion, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return job.Result{}, err
	}
	r := job.Result{
		Operations: len(t.latencies), Bytes: t.bytes, Elapsed: elapsed,
		Busy: after - before, Congestion: strings.TrimSpace(string(congestion)),
	}
	if n := len(t.latencies); n > 0 {
		slices.Sort(t.latencies)
		r.P50, r.P99 = t.latencies[n/2], t.latencies[n*99/100]
	}
	return r, nil
}

// prepare waits until the backend answers, for what leads to it may be just starting.
func prepare(j job.Job) (load, error) {
	var addresses []netip.AddrPort
	for _, a := range j.Addresses {
		address, err := netip.ParseAddrPort(a)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("job %q has no address", j.Kind)
	}
	for _, address := range addresses {
		if err := answers(address); err != nil {
			return nil, err
		}
	}
	switch j.Kind {
	case job.Exchange:
		return newExchange(addresses[0], j.Size, j.Connections)
	case job.Churn:
		return newChurn(addresses, j.Size, j.Connections)
	case job.Up:
		return streamLoad{to: addresses[0], move: up}, nil
	case job.Down:
		return streamLoad{to: addresses[0], move: down}, nil
	default:
		return nil, fmt.Errorf("no job is called %q", j.Kind)
	}
}

// answers waits until a connection to an address can be made.
func answers(to netip.AddrPort) error {
	for began := time.Now(); ; {
		fd, err := dial(to)
		if err == nil {
			return unix.Close(fd)
		}
		if time.Since(began) > silence {
			return fmt.Errorf("no connection within %s: %w", silence, err)
		}
		time.Sleep(10 * time.Millisecond) // and ask again
	}
}
