package netns

import (
	"os"
	"path/filepath"
	"testing"
)

// A folder and a proc of the test's own show which files count, and that each
// namespace comes once.
func TestAllLooksInEveryPlace(t *testing.T) {
	root := t.TempDir()
	mounts, proc := filepath.Join(root, "netns"), filepath.Join(root, "proc")
	link := func(at string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/proc/self/ns/net", at); err != nil {
			t.Fatal(err)
		}
	}
	link(filepath.Join(mounts, "mounted"))
	link(filepath.Join(proc, "17/ns/net"))
	link(filepath.Join(proc, "18/ns/net"))
	link(filepath.Join(proc, "net/ns/net")) // no process
	if err := os.WriteFile(filepath.Join(mounts, "not-mounted-yet"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(proc, "19"), 0o700); err != nil { // gone
		t.Fatal(err)
	}

	for name, tt := range map[string]struct {
		in   searchPaths
		want string
	}{
		"mounted": {searchPaths{dirs: []string{filepath.Join(root, "absent"), mounts, mounts}, proc: proc}, "netns/mounted"},
		"process": {searchPaths{proc: proc}, "proc/17/ns/net"},
	} {
		list, err := tt.in.all(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(list) != 1 || list[0].Path() != filepath.Join(root, tt.want) {
			t.Errorf("%s: found %v", name, list)
		}
		for _, n := range list {
			_ = n.Close()
		}
	}
}
