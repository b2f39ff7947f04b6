package dockerd

import (
	"slices"

	docker "github.com/fsouza/go-dockerclient"
)

const (
	unhealthy = "unhealthy"

	// probeRetries is how many probes have to fail in a row where the container's own number
	// is not known to be another (defaultProbeRetries in moby, daemon/health.go).
	probeRetries = 3
)

// health is what the engine's probes have shown of a container, as in Container.Health.
//
// An engine calls a container unhealthy as soon as it stops probing, as at a pause, and so at
// a commit; and, once it probes again, until the first probe that passes. It tells no event of
// that. So it is believed only if as many probes have failed as it takes. If not, unsure is
// true: the next that fails may make it so, of which the engine tells no event either.
func (in *inspection) health() (health string, unsure bool) {
	h := &in.State.Health
	switch {
	case h.Status == "none":
		return "", false
	case h.Status != unhealthy:
		return h.Status, false
	}
	retries := 1
	if in.Config != nil && in.Config.Healthcheck != nil {
		if retries = in.Config.Healthcheck.Retries; retries <= 0 {
			retries = probeRetries
		}
	}
	passed := func(p docker.HealthCheck) bool { return p.ExitCode == 0 }
	switch {
	case h.FailingStreak >= retries:
		return unhealthy, false
	case slices.ContainsFunc(h.Log, passed):
		return "healthy", true
	}
	return "starting", true
}
