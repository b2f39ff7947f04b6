package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

const (
	imageName = "ambassadord-test/busybox"

	// contentLabel tells which file system an image was made from, so that one
	// from an older busybox or an older version of this code is made anew.
	contentLabel = "ambassadord.test.content"

	busybox = "/bin/busybox"
)

// image makes it once per test binary. Two binaries that do so at the same time
// make the same image.
var image = sync.OnceValue(func() error { return makeImage() })

// Image returns the name of a busybox image that has every applet in /bin. Its
// command, unless another is given, sleeps for ever and, as process 1, ignores
// SIGTERM: use docker kill or docker stop -t 0. The image stays on the engine
// when the test ends.
func Image(t testing.TB) string {
	t.Helper()
	if err := image(); err != nil {
		t.Fatalf("making the test image: %v", err)
	}
	return imageName
}

// ImageAt is Image on the engine at endpoint, which a test has started for itself.
func ImageAt(t testing.TB, endpoint string) string {
	t.Helper()
	if err := makeImage("-H", endpoint); err != nil {
		t.Fatalf("making the test image: %v", err)
	}
	return imageName
}

// makeImage imports a tar archive, which any engine can do without a builder, with docker's
// options given.
func makeImage(options ...string) error {
	rootfs, err := fileSystem()
	if err != nil {
		return err
	}
	content := fmt.Sprintf("%x", sha256.Sum256(rootfs))
	have, err := command(nil, append(options[:len(options):len(options)], "image", "inspect", "-f", `{{index .Config.Labels "`+contentLabel+`"}}`, imageName)...)
	if err == nil && have == content {
		return nil
	}
	_, err = command(rootfs, append(options[:len(options):len(options)], "import",
		"-c", "ENV PATH=/bin",
		"-c", `CMD ["/bin/sleep", "2147483647"]`,
		"-c", "LABEL "+contentLabel+"="+content,
		"-", imageName)...)
	return err
}

// fileSystem is a root file system as a tar archive, the same for the same busybox.
func fileSystem() ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's package is busybox-static)", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	list, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the applets of %s: %w", busybox, err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(h tar.Header, body []byte) {
		if err != nil {
			return
		}
		h.Size = int64(len(body))
		if err = w.WriteHeader(&h); err == nil {
			_, err = io.Copy(w, bytes.NewReader(body))
		}
	}
	for _, dir := range []string{"bin/", "etc/", "root/", "www/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nnogroup:x:65534:\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("writing the file system: %w", err)
	}
	return archive.Bytes(), nil
}
