package structure

import (
	"os/exec"
	"strings"
	"testing"
)

const trackedReason = "what a build or a package manager has put there is of this machine, or somebody else's; take it out: git rm -r --cached FOLDER"

// TestNothingIgnoredIsTracked: git goes on tracking what was added before .gitignore named it, or
// by force. A tree that git knows nothing of, such as an archive of the sources, tracks nothing.
func TestNothingIgnoredIsTracked(t *testing.T) {
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-c", "safe.directory=*", "-C", root(t)}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if _, err := git("rev-parse", "--verify", "--quiet", "HEAD"); err != nil {
		return
	}
	files, err := git("ls-files", "--cached", "--ignored", "--exclude-per-directory=.gitignore")
	if err != nil {
		t.Fatal(files, err)
	}
	if files == "" {
		return
	}
	all := strings.Split(files, "\n")
	t.Errorf("%d tracked files are ignored, such as %s\n%s", len(all), all[0], trackedReason)
}
