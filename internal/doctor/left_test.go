package doctor

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/dockerd"
)

func TestJudgeLeft(t *testing.T) {
	if r := judgeLeft(nil, 3); r.Status != OK {
		t.Errorf("nobody is left: %+v", r)
	}
	app := &dockerd.Container{Name: "app", NetworkMode: "container:0123456789abcdef"}
	for name, test := range map[string]struct {
		owner *dockerd.Container
		want  string
		hint  string
	}{
		"gone":          {nil, "container 0123456789ab, whose network it joined, is gone", "create it anew"},
		"ended":         {&dockerd.Container{Name: "x"}, "container x, whose network it joined, has ended", "docker start x && docker restart app"},
		"started again": {&dockerd.Container{Name: "x", Running: true}, "was started again", "docker restart app"},
	} {
		r := judgeLeft([]dockerd.Left{{Container: app, Owner: test.owner}}, 3)
		if r.Status != Warn || !strings.Contains(r.Summary, "1 of 3") || !strings.Contains(r.Summary, test.want) || !strings.Contains(r.Hint, test.hint) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
