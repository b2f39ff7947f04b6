package consul

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/resolver"
	"github.com/ambassadord/ambassadord/resolver/sourcetest"
)

// conformConfig is for a test that counts updates, which are not to come at the rate
// of every day, nor are slots to be short for all the watches that come and go.
func conformConfig(address string) Config {
	return Config{Address: address, MinInterval: time.Microsecond, Poll: 100 * time.Microsecond, Slots: 10_000}
}

// heartbeatSpare is what the connection takes by which an agent is asked for signs of life, at both
// its ends.
const heartbeatSpare = 8

// controlOf is what a test can do to what a fake agent answers, body being how it
// says that these endpoints are all. The index moves with every change.
func controlOf(agent *fakeAgent, port uint16, body func(endpoints []string) string) sourcetest.Control {
	index := uint64(100)
	var current string
	say := func(status int, text string) {
		index++
		agent.respond(status, index, text)
	}
	return sourcetest.Control{
		Set: func(_ testing.TB, endpoints ...string) {
			current = body(endpoints)
			say(http.StatusOK, current)
		},
		Port:  port,
		Spare: heartbeatSpare,
		Break: func(testing.TB) { say(http.StatusInternalServerError, "No cluster leader") },
		Mend:  func(testing.TB) { say(http.StatusOK, current) },
	}
}

// instancesAt are healthy instances at these addresses.
func instancesAt(endpoints []string) string {
	var instances []string
	for _, e := range endpoints {
		at := netip.MustParseAddrPort(e)
		instances = append(instances, instance("r-"+at.Addr().String(), at.Addr().String(), "", int(at.Port()), 1, "passing"))
	}
	return list(instances...)
}

func TestServiceConformance(t *testing.T) {
	for name, shared := range map[string]bool{"with a slot": false, "by a shared watch": true} {
		t.Run(name, func(t *testing.T) {
			agent := newFakeAgent(t, instancesAt([]string{"10.0.0.1:6379"}))
			agent.forgets = true
			control := controlOf(agent, 6379, instancesAt)
			if shared { // several requests at once, by connections that are kept
				control.Spare = 4 * shortSlots
			}
			sourcetest.Run(t, sourcetest.Case{
				New: func(testing.TB) (resolver.Source, func()) {
					client := New(conformConfig(agent.address))
					if shared {
						client.config.Slots = 0 // in a Config that would be the default
					}
					return client.Services(), func() { _ = client.Close() }
				},
				Query:       serviceQuery("redis", ""),
				Want:        []string{"10.0.0.1:6379"},
				Change:      func(testing.TB) { agent.set(11, instancesAt([]string{"10.0.0.1:7000"})) },
				WantChanged: []string{"10.0.0.1:7000"},
				Control:     control,
			})
		})
	}
}

func TestQueryConformance(t *testing.T) {
	result := func(endpoints []string) string {
		return `{"Service":"redis","Datacenter":"dc1","Nodes":` + instancesAt(endpoints) + `}`
	}
	agent := newFakeAgent(t, result([]string{"10.0.0.1:6379"}))
	agent.forgets = true
	sourcetest.Run(t, sourcetest.Case{
		New: func(testing.TB) (resolver.Source, func()) {
			client := New(conformConfig(agent.address))
			return client.Queries(), func() { _ = client.Close() }
		},
		Query:       preparedQuery("nearest", ""),
		Want:        []string{"10.0.0.1:6379"},
		Change:      func(testing.TB) { agent.set(11, result([]string{"10.0.0.1:7000"})) },
		WantChanged: []string{"10.0.0.1:7000"},
		Control:     controlOf(agent, 6379, result),
	})
}

func TestKVConformance(t *testing.T) {
	const first = "10.0.0.1:6379,redis.test:6379"
	agent := newFakeAgent(t, "")
	agent.forgets = true
	for _, query := range []resolver.Query{kvQuery(agent.address, "services/redis"), kvQuery("", "services/redis/")} {
		t.Run(query.String(), func(t *testing.T) {
			agent.set(10, list(pair("services/redis", first)))
			sourcetest.Run(t, sourcetest.Case{
				New: func(testing.TB) (resolver.Source, func()) {
					client := New(conformConfig(agent.address))
					return client.KV(), func() { _ = client.Close() }
				},
				Query:       query,
				Want:        []string{"10.0.0.1:6379", "redis.test:6379"},
				Change:      func(testing.TB) { agent.set(11, list(pair("services/redis/a", "10.0.0.2:6379"))) },
				WantChanged: []string{"10.0.0.2:6379"},
				Control: controlOf(agent, 6379, func(endpoints []string) string {
					return list(pair("services/redis", strings.Join(endpoints, ",")))
				}),
			})
		})
	}
}
