package consul

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// scope is where in a Consul deployment something is looked up, and how fresh the
// answer must be. It is comparable.
type scope struct {
	dc, namespace, partition string
	consistency              string // stale, consistent, or "" for Consul's default
}

// scopeParams are the parameters that say it, named as Consul's API does.
var scopeParams = []string{"dc", "ns", "partition", "consistency"}

func scopeOf(values url.Values) scope {
	s := scope{dc: values.Get("dc"), namespace: values.Get("ns"), partition: values.Get("partition")}
	if c := values.Get("consistency"); c != "default" {
		s.consistency = c
	}
	return s
}

func (s scope) apply(options *api.QueryOptions) {
	options.Datacenter, options.Namespace, options.Partition = s.dc, s.namespace, s.partition
	options.AllowStale = s.consistency == "stale"
	options.RequireConsistent = s.consistency == "consistent"
}

func (s scope) String() string {
	var text string
	for _, part := range [][2]string{{"namespace", s.namespace}, {"partition", s.partition}, {"datacenter", s.dc}} {
		if part[1] != "" {
			text += " in " + part[0] + " " + part[1]
		}
	}
	return text
}

// checkParams refuses parameters that are unknown, empty, or repeated, which only
// tag may be, and values that a parameter does not have.
func checkParams(values url.Values, known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, key) {
			fix := "the parameters are " + strings.Join(known, ", ")
			if near := suggest.Closest(key, known); near != "" {
				fix = fmt.Sprintf("did you mean %s=?", near)
			}
			return hint.Errorf(fix, "unknown parameter %q", key)
		}
		if slices.Contains(values[key], "") {
			return hint.Errorf("write "+key+"=VALUE, or leave it out", "parameter %s is empty", key)
		}
		if len(values[key]) > 1 && key != "tag" {
			return hint.Errorf("leave one", "parameter %s is given %d times", key, len(values[key]))
		}
	}
	if err := checkChoice(values, "consistency", "default", "stale", "consistent"); err != nil {
		return err
	}
	return checkChoice(values, "health", api.HealthPassing, api.HealthWarning)
}

func checkChoice(values url.Values, key string, choices ...string) error {
	value := values.Get(key)
	if value == "" || slices.Contains(choices, value) {
		return nil
	}
	fix := "write one of " + strings.Join(choices, ", ")
	if near := suggest.Closest(value, choices); near != "" {
		fix = fmt.Sprintf("did you mean %s=%s?", key, near)
	}
	return hint.Errorf(fix, "parameter %s is %q", key, value)
}
