package consul

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/internal/answer"
)

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
