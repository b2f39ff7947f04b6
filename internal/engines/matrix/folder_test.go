package main

import (
	"os"
	"path/filepath"
	"testing"
)

// What a run that was killed has left is removed by the next, and nothing of one that lives, nor
// what only has such a name.
func TestFolderOfAKilledRun(t *testing.T) {
	temp := t.TempDir()
	killed, living, link := filepath.Join(temp, prefix+"killed"), filepath.Join(temp, prefix+"living"), filepath.Join(temp, prefix+"link")
	elsewhere := t.TempDir()
	for _, file := range []string{filepath.Join(killed, "bin", "file"), filepath.Join(living, "file"), filepath.Join(elsewhere, "file")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	lock, err := lockFolder(living)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	path, release, err := folder(temp)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := lockFolder(filepath.Dir(path)); err == nil {
		other.Close()
		t.Error("anybody can have the lock of a run that lives")
	}
	if tests, err := lockFolder(path); err != nil {
		t.Errorf("the tests would wait for ever: %v", err)
	} else {
		tests.Close()
	}
	for file, want := range map[string]bool{killed: false, filepath.Join(living, "file"): true, filepath.Join(elsewhere, "file"): true, path: true} {
		if _, err := os.Stat(file); (err == nil) != want {
			t.Errorf("%s: %v; want that it is there: %v", file, err, want)
		}
	}
	release()
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("it is there when the run has ended")
	}
}
