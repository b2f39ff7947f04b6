package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// buildPeer returns the binary of an older daemon, which is one already or a revision of the
// repository that the bench is started in. That is unpacked elsewhere: the repository keeps no
// trace of it.
func buildPeer(ctx context.Context, peer, dir string) (string, error) {
	if info, err := os.Stat(peer); err == nil && info.Mode().IsRegular() {
		return filepath.Abs(peer)
	}
	source := filepath.Join(dir, "peer-source")
	if err := os.Mkdir(source, 0o700); err != nil {
		return "", err
	}
	root, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("%s is no file, and this is no repository that has it: %w", peer, err)
	}
	// --end-of-options: what is asked for is a revision, whatever it begins with.
	archive := exec.CommandContext(ctx, "git", "archive", "--format=tar", "--end-of-options", peer)
	archive.Dir = string(root[:max(len(root)-1, 0)])
	archive.Stderr = os.Stderr
	unpack := exec.CommandContext(ctx, "tar", "-x", "-C", source)
	unpack.Stderr = os.Stderr
	if unpack.Stdin, err = archive.StdoutPipe(); err != nil {
		return "", err
	}
	if err := unpack.Start(); err != nil {
		return "", err
	}
	if err := errors.Join(archive.Run(), unpack.Wait()); err != nil {
		return "", fmt.Errorf("unpack revision %s: %w", peer, err)
	}
	binary := filepath.Join(dir, "peer")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./cmd/ambassadord")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build revision %s: %w\n%s", peer, err, out)
	}
	return binary, nil
}
