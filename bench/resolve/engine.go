package main

import (
	"context"
	"path/filepath"

	"github.com/ambassadord/ambassadord/bench/internal/engine"
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
func startContainers(ctx context.Context, dir, label string, places [2]progressServer) (*containers, error) {
	c := &containers{image: "ambassadord-bench/place"}
	program := filepath.Join(dir, "place")
	if err := engine.Build(ctx, program, "bench/resolve/place"); err != nil {
		return nil, err
	}
	if err := engine.Image(ctx, c.image, program); err != nil {
		return nil, err
	}
	for i, p := range places {
		id, err := engine.Docker(ctx, "create", "--label", engine.Label, "--label", label, c.image, "/place", p.name, placePort)
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
	_, err := engine.Docker(ctx, "start", c.ids[i])
	return err
}

// kill ends it; it would not mind SIGTERM.
func (c *containers) kill(ctx context.Context, i int) error {
	_, err := engine.Docker(ctx, "kill", c.ids[i])
	return err
}

func (c *containers) remove(ctx context.Context) {
	for _, id := range c.ids {
		_ = engine.Remove(ctx, id)
	}
	_, _ = engine.Docker(ctx, "rmi", c.image)
}
