package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/bench/internal/engine"
)

// The ends of a cable, of a network that no machine has (RFC 5737).
const (
	cableHost   = "198.51.100.1"
	cableClient = "198.51.100.2"
	cablePrefix = "/30"
)

// plugIn gives a container without a network a cable to the host and a default route
// over it, which go with the container.
func plugIn(ctx context.Context, id string) error {
	pid, err := engine.Docker(ctx, "inspect", "-f", "{{.State.Pid}}", id)
	if err != nil {
		return err
	}
	name := "ambd" + id[:8]
	inside := []string{"nsenter", "--net", "--target", pid}
	for _, command := range [][]string{
		{"ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid},
		{"ip", "addr", "add", cableHost + cablePrefix, "dev", name},
		{"ip", "link", "set", name, "up"},
		append(inside, "ip", "addr", "add", cableClient+cablePrefix, "dev", "eth0"),
		append(inside, "ip", "link", "set", "eth0", "up"),
		append(inside, "ip", "route", "add", "default", "via", cableHost),
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strconv.Quote(string(out)))
		}
	}
	return nil
}
