package config

import (
	"go.yaml.in/yaml/v4"

	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// Policy is what flags and file say of who may reach what.
type Policy struct {
	// Rules are in the order in which they are asked.
	Rules []policy.Rule
	// AllowLoopback lets containers' declarations reach the loopback of this host.
	AllowLoopback bool
	// FileFolders are those whose files containers may name as targets; none means
	// policy.DefaultFileFolder.
	FileFolders []string
}

// maxRules bounds the rules of a file: all are asked about each client and target.
const maxRules = 1000

// ruleKeys are the keys of a rule.
var ruleKeys = knownKeys{
	words: []string{
		"name", "action",
		"container", "label", "project", "image", "network", "declared",
		"to", "port", "kind", "target", "registry",
	},
	doc: policyDoc,
	meant: map[string]string{ // as other tools call them
		"rule": "name:", "id": "name:", "description": "name:",
		"do": "action:", "verdict": "action:", "effect": "action:", "allow": "action: allow", "deny": "action: deny", "audit": "action: audit",
		"from": "container:", "client": "container:", "clients": "container:", "who": "container:", "source": "container:",
		"stack": "project:", "compose": "project:", "by": "declared:", "declared-by": "declared:", "declarer": "declared:",
		"address": "to:", "addresses": "to:", "addr": "to:", "ip": "to:", "cidr": "to:", "host": "to:", "hosts": "to:", "destination": "to:", "dest": "to:", "dst": "to:", "endpoint": "to:",
		"dport": "port:", "scheme": "kind:", "type": "kind:", "protocol": "kind:",
		"domain": "target:", "hostname": "target:", "dns": "target:", "service": "target:", "path": "target:", "file": "target:", "server": "registry:", "consul": "registry:", "etcd": "registry:",
	},
}

// policy reads the list of rules.
func (r *fileReader) policy(node *yaml.Node) {
	for i, item := range r.sequence(node, keyPolicy) {
		if i == maxRules {
			r.wrong(item, hint.Errorf("put several networks, ports or containers into one rule", "more than %d rules", maxRules))
			return
		}
		rule := policy.Rule{Origin: r.at(item), Number: i + 1}
		before, acts, values := len(r.found), false, map[string]*yaml.Node{}
		for key, value := range r.mapping(item, "a rule of policy", ruleKeys) {
			acts = acts || key.Value == "action"
			values[key.Value] = value
			r.ruleKey(&rule, key.Value, value)
		}
		if !acts && len(r.found) == before {
			r.wrong(item, hint.Errorf("write action: allow, action: deny or action: audit", "a rule without an action"))
		}
		if key, err := rule.Impossible(); err != nil {
			r.wrong(values[key], err)
		}
		r.file.Policy = append(r.file.Policy, rule)
	}
}

// ruleKey reads one key of a rule.
func (r *fileReader) ruleKey(rule *policy.Rule, key string, node *yaml.Node) {
	switch key {
	case "name":
		rule.Name, _ = r.scalar(node, key)
	case "action":
		if text, ok := r.scalar(node, key); ok {
			var err error
			if rule.Action, err = policy.ParseAction(text); err != nil {
				r.wrong(node, err)
			}
		}
	case "container":
		rule.Containers = each(r, node, key, policy.ParseContainer)
	case "label":
		rule.Labels = each(r, node, key, policy.ParseLabel)
	case "project":
		rule.Projects = each(r, node, key, policy.ParseWord)
	case "image":
		rule.Images = each(r, node, key, policy.ParseImage)
	case "network":
		rule.Networks = each(r, node, key, policy.ParseNetwork)
	case "declared":
		rule.Declared = each(r, node, key, policy.ParseDeclarer)
	case "to":
		rule.To = each(r, node, key, policy.ParsePlace)
	case "port":
		rule.Ports = each(r, node, key, policy.ParsePorts)
	case "kind":
		rule.Kinds = each(r, node, key, policy.ParseKind)
	case "target":
		rule.Targets = each(r, node, key, policy.ParseTarget)
	case "registry":
		rule.Registries = each(r, node, key, policy.ParseRegistry)
	}
}

// each reads one value or a list of them. A list of nothing would match everything, which
// nobody means who writes it.
func each[T any](r *fileReader, node *yaml.Node, key string, parse func(string) (T, error)) []T {
	values := r.values(node, key)
	if values != nil && len(values) == 0 {
		r.wrong(node, hint.Errorf("leave the key out to match all", "%s: an empty list matches nothing", key))
	}
	var out []T
	for i, text := range values {
		v, err := parse(text)
		if err != nil {
			at := resolved(node)
			if at.Kind == yaml.SequenceNode && len(at.Content) == len(values) {
				at = at.Content[i]
			}
			r.wrong(at, err)
			continue
		}
		out = append(out, v)
	}
	return out
}
