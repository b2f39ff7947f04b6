package consul

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
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

// portOf is the port of an instance that has the name port, or its default one if that is
// empty; 0 if it has none. Consul 1.22 and later know several ports of one service.
func portOf(service *entryService, port string) int {
	if port == "" {
		return service.defaultPort()
	}
	for _, p := range service.Ports {
		if p.Name == port {
			return p.Port
		}
	}
	return 0
}

// endpointOf reads where an instance listens by the port of that name, at its own address or
// else its node's, and its weight, which may be another while its status is a warning.
func endpointOf(entry *serviceEntry, status, port string) (resolver.Endpoint, bool) {
	if entry == nil || entry.Service == nil {
		return resolver.Endpoint{}, false
	}
	host := entry.Service.Address
	if host == "" && entry.Node != nil {
		host = entry.Node.Address
	}
	endpoint, err := answer.Endpoint(net.JoinHostPort(host, strconv.Itoa(portOf(entry.Service, port))), entry.Service.ID)
	if err != nil {
		return resolver.Endpoint{}, false
	}
	weight := entry.Service.Weights.Passing
	if status == api.HealthWarning {
		weight = entry.Service.Weights.Warning
	}
	if weight > 0 { // agents older than weights send none
		endpoint.Weight = uint16(min(weight, math.MaxUint16))
	}
	return endpoint, true
}

// datacenterOf is that of an instance, "" if it is not known. Those of a peer are of a
// cluster of its own and may have the same names as ours.
func datacenterOf(entry *serviceEntry) string {
	if entry == nil || entry.Node == nil || entry.Node.PeerName != "" {
		return ""
	}
	return entry.Node.Datacenter
}

// distance is how far it is from one datacenter to the other, either of which may be
// unknown.
func distance(from, to string) resolver.Distance {
	switch {
	case from == "" || to == "":
		return resolver.DistanceUnknown
	case from == to:
		return resolver.SameDatacenter
	}
	return resolver.OtherDatacenter
}

// malformed is an instance that is registered without a place to dial, or without the port
// of that name.
func malformed(entry *serviceEntry, port string) resolver.LeftOut {
	out := resolver.LeftOut{Why: "is registered without a usable address and port"}
	if entry == nil || entry.Service == nil {
		return out
	}
	out.Name = entry.Service.ID
	if port != "" && portOf(entry.Service, port) == 0 {
		out.Why = fmt.Sprintf("has no port named %q", answer.Shorten(port, maxErrorText))
		if known := portNames(entry.Service); known != "" {
			out.Why += ", but " + known
		}
	}
	return out
}

// mostPorts is of how many ports it is said that there are.
const mostPorts = 5

// portNames are the names of an instance's ports, for people.
func portNames(service *entryService) string {
	var names []string
	for _, p := range service.Ports[:min(len(service.Ports), mostPorts)] {
		names = append(names, fmt.Sprintf("%q", answer.Shorten(p.Name, maxErrorText/mostPorts)))
	}
	if more := len(service.Ports) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// failing is an instance whose checks give it this status, at endpoint unless that is
// empty.
func failing(entry *serviceEntry, endpoint resolver.Endpoint, status string) resolver.LeftOut {
	out := malformed(entry, "")
	if endpoint != (resolver.Endpoint{}) {
		out.Addr = endpoint.String()
	}
	out.Why = whyFailing(entry.Checks, status)
	out.Unhealthy = status == api.HealthCritical
	return out
}

// whyFailing names the first check that gives an instance its status, and for
// maintenance the reason that somebody gave.
func whyFailing(checks []*entryCheck, status string) string {
	of := slices.DeleteFunc(slices.Clone(checks), func(c *entryCheck) bool {
		return c == nil || c.status() != status
	})
	if len(of) == 0 { // the status is made of these, so there is one
		return "is " + status
	}
	check := of[0]
	if status == api.HealthMaint {
		text := "is in maintenance"
		if check.CheckID == api.NodeMaint {
			text = "is on a node in maintenance"
		}
		if check.Notes != "" {
			text += fmt.Sprintf(": %q", answer.Shorten(check.Notes, maxErrorText))
		}
		return text
	}
	if status == "" { // Consul has learnt another one
		status = fmt.Sprintf("%q", answer.Shorten(check.Status, maxErrorText))
	}
	whose := "its"
	if check.ServiceID == "" {
		whose = "its node's"
	}
	text := fmt.Sprintf("is %s by %s check %q", status, whose, answer.Shorten(cmp.Or(check.Name, check.CheckID), maxErrorText))
	if more := len(of) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
