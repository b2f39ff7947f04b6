//go:build integration

package docker

import (
	"context"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/dockertest"
	"github.com/ambassadord/ambassadord/resolver"
)

// TestEngineAnswers follows backends of the machine's engine: one starts, falls ill,
// recovers and stops.
func TestEngineAnswers(t *testing.T) {
	watcher, err := dockerd.New(dockerd.Config{ResyncInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- watcher.Run(ctx) }()
	answers := make(chan resolver.Answer, 100)
	key := dockertest.Name(t)
	go func() {
		q := parseQuery(t, "?label="+key+"=web&port=80")
		ended <- New(watcher, Options{}).Watch(ctx, q, func(a resolver.Answer) { answers <- a })
	}()
	defer func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}()
	await := func(what string, names ...string) resolver.Answer {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case a := <-answers:
				var got []string
				for _, e := range a.Endpoints {
					got = append(got, e.Name)
				}
				if slices.Equal(got, names) {
					return a
				}
			case <-deadline:
				t.Fatalf("timed out waiting for %q: %s", names, what)
			}
		}
	}
	// awaitWhy waits until nobody serves, for that reason.
	awaitWhy := func(why string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; {
			a := await(why)
			if said(a) == why {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("said: %q, want %q", said(a), why)
			}
		}
	}
	await("nothing runs yet")

	name := dockertest.Name(t)
	id := dockertest.Run(t, "--name", name, "--label", key+"=web",
		"--health-cmd", "test ! -e /tmp/ill", "--health-interval", "200ms", "--health-retries", "1", dockertest.Image(t))
	a := await("started", name)
	want := dockertest.Docker(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", id) + ":80"
	if got := a.Endpoints[0].Addr.String(); got != want {
		t.Errorf("address %s, want %s", got, want)
	}

	if _, err := dockertest.Exec(t, id, "touch", "/tmp/ill"); err != nil {
		t.Fatal(err)
	}
	if a := await("unhealthy"); said(a) != "1 left out: "+name+" is unhealthy" {
		t.Errorf("said: %q", said(a))
	}
	if _, err := dockertest.Exec(t, id, "rm", "/tmp/ill"); err != nil {
		t.Fatal(err)
	}
	await("healthy again", name)

	// It ignores the signal, so that it is stopping for as long as the engine waits.
	stopped := make(chan error, 1)
	go func() { stopped <- exec.Command("docker", "stop", "-t", "3", id).Run() }()
	awaitWhy("1 left out: " + name + " is stopping")
	if state := dockertest.Docker(t, "inspect", "-f", "{{.State.Running}}", id); state != "true" {
		t.Errorf("running: %s; want the endpoint gone while the container still runs", state)
	}
	awaitWhy("1 left out: " + name + " is not running")
	if err := <-stopped; err != nil {
		t.Errorf("docker stop: %v", err)
	}
	dockertest.Docker(t, "rm", id)
	if a := await("removed"); a.Note != "no container on this host has the label "+key+"=web" {
		t.Errorf("said: %q", said(a))
	}
}
