package consul

import (
	"strings"

	"github.com/hashicorp/consul/api"
)

// serviceEntry is one instance of a service, with its node and the checks of both, as the endpoints
// /v1/health/service/:service and /v1/query/:query/execute answer (Consul's HTTP API, "Health"
// and "Prepared Queries"). It has the fields that an answer is made of and no others:
// api.ServiceEntry takes ten times the memory, which thousands of services at once leave behind
// as garbage between what is kept.
type serviceEntry struct {
	Node    *entryNode
	Service *entryService
	Checks  []*entryCheck
}

type entryNode struct{ Node, Address, Datacenter, PeerName string }

type entryService struct {
	ID          string
	Address     string
	Port        int
	Ports       []api.ServicePort
	Weights     api.AgentWeights
	ModifyIndex uint64 // the Raft index at which it was registered last
}

type entryCheck struct{ CheckID, Name, Status, Notes, ServiceID string }

// statusOf is the worst status of the checks of an instance and its node, as
// api.HealthChecks.AggregatedStatus says it; maintenance counts as one of its own, and "" is a
// status that is not known.
func statusOf(e *serviceEntry) string {
	if e == nil {
		return api.HealthPassing // of no use all the same
	}
	worst := api.HealthPassing
	for _, c := range e.Checks {
		if c == nil {
			continue
		}
		switch status := c.status(); {
		case status == "":
			return ""
		case severity(status) > severity(worst):
			worst = status
		}
	}
	return worst
}

// status is what the check says by itself, "" if that is not known.
func (c *entryCheck) status() string {
	switch {
	case c.CheckID == api.NodeMaint, strings.HasPrefix(c.CheckID, api.ServiceMaintPrefix):
		return api.HealthMaint
	case severity(c.Status) < 0 || c.Status == api.HealthMaint:
		return ""
	}
	return c.Status
}

// severity orders statuses, the worst being the greatest; -1 is none that is known.
func severity(status string) int {
	switch status {
	case api.HealthPassing:
		return 0
	case api.HealthWarning:
		return 1
	case api.HealthCritical:
		return 2
	case api.HealthMaint:
		return 3
	}
	return -1
}

// defaultPort is api.AgentService.DefaultPort.
func (s *entryService) defaultPort() int {
	for _, p := range s.Ports {
		if p.Default {
			return p.Port
		}
	}
	return s.Port
}
