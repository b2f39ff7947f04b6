// Package dockertest runs throw-away containers on the machine's Docker engine
// for integration tests.
//
// It calls the docker command, so it depends on nothing that is under test.
// Every container and network that it makes carries the label ambassadord.test and is removed when the
// test ends; only the image stays, for the next run. Nothing is pulled: the
// image is one static busybox.
package dockertest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const label = "ambassadord.test=1"

// commandTimeout bounds one docker command; a test that hangs tells nothing.
const commandTimeout = time.Minute

var names atomic.Uint64

// Name makes a name that no other test uses, for a container, network or image.
func Name(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("ambassadord-test-%x-%d", time.Now().UnixNano(), names.Add(1))
}

// Docker runs one docker command and returns its standard output, trimmed. It
// fails the test if the command fails.
func Docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := command(nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try runs one docker command and returns its standard output, untrimmed. The error holds
// what it wrote to standard error.
func Try(t testing.TB, args ...string) (stdout string, err error) {
	t.Helper()
	return output(nil, args...)
}

// Run starts a container in the background and returns its full ID. The
// arguments are those of docker run: options, image, command. The container is
// removed when the test ends.
func Run(t testing.TB, args ...string) string {
	t.Helper()
	id := Docker(t, append([]string{"run", "-d", "--label", label}, args...)...)
	t.Cleanup(func() { remove(t, "rm", "-f", "-v", id) })
	return id
}

// Create makes a container without starting it, otherwise as Run does.
func Create(t testing.TB, args ...string) string {
	t.Helper()
	id := Docker(t, append([]string{"create", "--label", label}, args...)...)
	t.Cleanup(func() { remove(t, "rm", "-f", "-v", id) })
	return id
}

// Exec runs a command in a container and returns its standard output, untrimmed.
// The error holds what it wrote to standard error.
func Exec(t testing.TB, id string, args ...string) (stdout string, err error) {
	t.Helper()
	return output(nil, append([]string{"exec", id}, args...)...)
}

// Network makes a network with a name of its own and returns that. The arguments
// are options of docker network create. It is removed when the test ends, after
// containers that the test starts on it later.
func Network(t testing.TB, args ...string) string {
	t.Helper()
	name := Name(t)
	create := append(append([]string{"network", "create", "--label", label}, args...), name)
	out, err := command(nil, create...)
	if err != nil && strings.Contains(err.Error(), "overlaps") {
		// With one that a killed run has left. The engine removes none that anybody is on.
		for _, left := range strings.Fields(Docker(t, "network", "ls", "-q", "--filter", "label="+label)) {
			_, removeErr := command(nil, "network", "rm", left)
			t.Logf("network rm %s, which another run has left: %v", left, removeErr)
		}
		out, err = command(nil, create...)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { remove(t, "network", "rm", name) })
	return name
}

// remove reports what cannot be removed, unless the test did so itself.
func remove(t testing.TB, args ...string) {
	t.Helper()
	_, err := command(nil, args...)
	if err != nil && !strings.Contains(strings.ToLower(err.Error()), "no such") && !strings.Contains(err.Error(), "not found") {
		t.Error(err)
	}
}

func command(stdin []byte, args ...string) (string, error) {
	out, err := output(stdin, args...)
	return strings.TrimSpace(out), err
}

func output(stdin []byte, args ...string) (string, error) {
	// Not the test's context: that has ended when a cleanup runs.
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
