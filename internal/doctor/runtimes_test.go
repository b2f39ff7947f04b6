package doctor

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/dockerd"
	"github.com/ambassadord/ambassadord/internal/ociruntime"
)

func TestJudgeRuntimes(t *testing.T) {
	declares := map[string]string{"connect.6379": "redis:6379"}
	known := map[string]ociruntime.Runtime{"runc": {Path: "runc"}, "safe": {Path: "/opt/runsc"}}
	for name, c := range map[string]struct {
		container dockerd.Container
		modes     []config.Mode
		status    Status
		want      string
	}{
		"shares the kernel's": {dockerd.Container{Running: true, Labels: declares, Runtime: "runc"}, []config.Mode{config.Redirect}, OK, "no running"},
		"by its program":      {dockerd.Container{Name: "app", Running: true, Labels: declares, Runtime: "safe"}, []config.Mode{config.Redirect}, Warn, "its runtime safe is gVisor"},
		"by its name":         {dockerd.Container{Name: "app", Running: true, Labels: declares, Runtime: "io.containerd.kata.v2"}, []config.Mode{config.Listen}, Warn, "Kata"},
		"by its address":      {dockerd.Container{Name: "app", Running: true, Labels: declares, Runtime: "safe"}, []config.Mode{config.Host}, OK, "source addresses"},
		"declares nothing":    {dockerd.Container{Running: true, Runtime: "safe"}, []config.Mode{config.Redirect}, OK, "no running"},
		"has ended":           {dockerd.Container{Labels: declares, Runtime: "safe"}, []config.Mode{config.Redirect}, OK, "no running"},
	} {
		got := judgeRuntimes([]*dockerd.Container{&c.container}, known, c.modes)
		if got.Status != c.status || !strings.Contains(got.Summary, c.want) || (got.Status == Warn) != strings.Contains(got.Hint, "--mode host") {
			t.Errorf("%s: %+v; want %v and %q", name, got, c.status, c.want)
		}
	}
}
