package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// placePort is where the place in a container listens.
const placePort = "8080"

// containers are one container for each place, of which one runs.
type containers struct {
	image string
	ids   [2]string
}

// startContainers makes an image of the place program and a container for each of
// places, with the label that the target asks for, and runs the first.
func startContainers(ctx context.Context, dir, label string, places [2]place) (*containers, error) {
	c := &containers{image: "ambassadord-bench/place"}
	program := filepath.Join(dir, "place")
	if err := build(ctx, program, "bench/resolve/place"); err != nil {
		return nil, err
	}
	archive, err := archiveOf(program)
	if err != nil {
		return nil, err
	}
	if _, err := docker(ctx, archive, "import", "-", c.image); err != nil {
		return nil, err
	}
	for i, p := range places {
		id, err := docker(ctx, nil, "create", "--label", label, c.image, "/place", p.name, placePort)
		if err != nil {
			c.remove(context.WithoutCancel(ctx))
			return nil, err
		}
		c.ids[i] = id
	}
	return c, nil
}

// start runs the container of a place, and returns when the engine says that it runs.
func (c *containers) start(ctx context.Context, i int) error {
	_, err := docker(ctx, nil, "start", c.ids[i])
	return err
}

// kill ends it; it would not mind SIGTERM.
func (c *containers) kill(ctx context.Context, i int) error {
	_, err := docker(ctx, nil, "kill", c.ids[i])
	return err
}

func (c *containers) remove(ctx context.Context) {
	for _, id := range c.ids {
		if id != "" {
			_, _ = docker(ctx, nil, "rm", "-f", id)
		}
	}
	_, _ = docker(ctx, nil, "rmi", c.image)
}

// archiveOf is a root file system with the one program in it.
func archiveOf(program string) (io.Reader, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "place", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	return &archive, w.Close()
}

// docker runs one docker command and returns what it printed.
func docker(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// build makes a static binary of a command of this module, where the bench was started.
func build(ctx context.Context, binary, command string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/ambassadord/ambassadord/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return nil
}
