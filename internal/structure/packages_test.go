package structure

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/ambassadord/ambassadord"

// listed is what the tests need of a package as go list describes it.
type listed struct {
	ImportPath   string
	Dir          string
	Standard     bool // of the standard library
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Deps         []string
}

// folder is the package's place in the repository, "" for one from elsewhere.
func (p *listed) folder() string {
	folder, ok := strings.CutPrefix(p.ImportPath, module+"/")
	if !ok {
		return ""
	}
	return folder
}

// isTestHelper says whether the package is one that only tests import.
func (p *listed) isTestHelper() bool {
	return strings.HasSuffix(p.ImportPath, "test") || p.folder() == "internal/netlab"
}

// root is the repository's folder: tests run in their package's.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("%s is not the repository's root: %v", dir, err)
	}
	return dir
}

// golist is run once for all tests.
var golist = sync.OnceValues(func() (map[string]*listed, error) {
	command := exec.Command("go", "list", "-e", "-deps", "-tags", "integration",
		"-json=ImportPath,Dir,Standard,Imports,TestImports,XTestImports,GoFiles,TestGoFiles,XTestGoFiles,Deps",
		"./...")
	command.Dir = filepath.Join("..", "..")
	// Nothing is fetched: what the repository needs is there once it was built.
	command.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off")
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, errors.New("go list: " + err.Error() + "\n" + stderr.String())
	}
	packages := make(map[string]*listed)
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		p := new(listed)
		if err := decoder.Decode(p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		packages[p.ImportPath] = p
	}
})

// all are the packages of the repository and all they depend on, by import path.
func all(t *testing.T) map[string]*listed {
	t.Helper()
	packages, err := golist()
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// own are the packages of the repository.
func own(t *testing.T) []*listed {
	t.Helper()
	var packages []*listed
	for _, p := range all(t) {
		if p.folder() != "" {
			packages = append(packages, p)
		}
	}
	if len(packages) == 0 {
		t.Fatal("go list found no package of this module")
	}
	return packages
}
