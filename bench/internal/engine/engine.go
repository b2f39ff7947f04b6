// Package engine runs throw-away containers on the machine's Docker engine, for the
// measuring commands. It calls the docker command, so it depends on nothing that is
// measured.
package engine

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

// Label is on every container and network that is made here, and nowhere else.
const Label = "ambassadord.test=1"

// Docker runs one docker command and returns what it printed, trimmed; with an error too,
// for docker run prints the ID of a container that it then cannot start.
func Docker(ctx context.Context, args ...string) (string, error) {
	return docker(ctx, nil, args...)
}

func docker(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), err
}

// Run starts a container in the background and returns its ID, with an error too if there
// is something to remove. The arguments are those
// of docker run: options, image, command.
func Run(ctx context.Context, args ...string) (string, error) {
	return Docker(ctx, append([]string{"run", "-d", "--label", Label}, args...)...)
}

// Remove ends a container, if there is one of that ID, and removes it. It does so
// although ctx has ended.
func Remove(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	_, err := Docker(context.WithoutCancel(ctx), "rm", "-f", "-v", id)
	return err
}

// Image makes an image of that name with nothing in it but a static program, at
// /NAME-OF-ITS-FILE.
func Image(ctx context.Context, name, program string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	header := tar.Header{Name: filepath.Base(program), Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err = docker(ctx, &archive, "import", "-", name)
	return err
}

// Build makes a static binary of a command of this module, where the bench was started.
func Build(ctx context.Context, binary, command string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "github.com/ambassadord/ambassadord/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return nil
}
