//go:build integration

package metrics

import (
	"os/exec"
	"testing"
)

// TestPromtool has Prometheus's own tool read what deploy/prometheus has, and run the trials of the alerts.
func TestPromtool(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", "alerts.yml"},
		{"test", "rules", "alerts_test.yml"},
		{"check", "config", "--syntax-only", "prometheus.yml"}, // the token's file is the user's
	} {
		promtool := exec.CommandContext(t.Context(), "promtool", args...)
		promtool.Dir = "../../deploy/prometheus"
		if out, err := promtool.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v; if it is not there, run scripts/setup prometheus\n%s", args, err, out)
		}
	}
}
