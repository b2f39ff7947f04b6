// Command client is the unsuspecting program of the demo: it knows localhost
// and nothing else. It makes requests, each on a connection of its own, and
// counts who answered. It exits with 1 if a single request failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o clientOptions
	flag.StringVar(&o.url, "url", "http://localhost:8080/", "where to send the requests")
	flag.IntVar(&o.n, "n", 20, "how many requests to make, one after the other")
	flag.DurationVar(&o.every, "every", 0, "pause between requests")
	flag.DurationVar(&o.wait, "wait", 15*time.Second, "how long to wait for the first answer, before counting begins")
	flag.BoolVar(&o.hold, "hold", false, "stay until SIGTERM when done, so that the network namespace can be looked at")
	flag.Parse()
	if err := run(o); err != nil {
		os.Exit(1)
	}
}

type clientOptions struct {
	url         string
	n           int
	every, wait time.Duration
	hold        bool
}

func run(o clientOptions) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := makeRequests(ctx, os.Stdout, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
	}
	if o.hold {
		<-ctx.Done()
	}
	return err
}

func makeRequests(ctx context.Context, out io.Writer, o clientOptions) error {
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, // a connection for each request
		Timeout:   10 * time.Second,
	}
	if err := firstAnswer(ctx, client, o.url, o.wait); err != nil {
		return err
	}
	fmt.Fprintf(out, "started: %d requests to %s\n", o.n, o.url)
	answers := make(map[string]int)
	var failures []error
	var slowest time.Duration
	for range o.n {
		began := time.Now()
		answer, err := get(ctx, client, o.url)
		slowest = max(slowest, time.Since(began))
		if err != nil {
			failures = append(failures, err)
		} else {
			answers[answer]++
		}
		if !sleep(ctx, o.every) {
			break
		}
	}
	for _, answer := range slices.Sorted(maps.Keys(answers)) {
		fmt.Fprintf(out, "%6d  %s\n", answers[answer], answer)
	}
	fmt.Fprintf(out, "%6d  failed\n", len(failures))
	fmt.Fprintf(out, "finished: slowest request %s\n", slowest.Round(100*time.Microsecond))
	return errors.Join(failures...)
}

// firstAnswer waits until url answers at all: this program may start before
// those that serve it.
func firstAnswer(ctx context.Context, client *http.Client, url string, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		_, err := get(ctx, client, url)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("no answer within %s: %w", wait, err)
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("reading the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answered %s", response.Status)
	}
	return strings.TrimSpace(string(body)), nil
}

// sleep waits for d, and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
