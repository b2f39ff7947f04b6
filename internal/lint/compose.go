package lint

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
)

// composeService is a service of a Compose file.
type composeService struct {
	declarant
	node          *yaml.Node
	networkMode   scalar
	containerName string
	links         []scalar
	aliases       []string // on its networks
	profiles      []string
	// base is the service of this file that it extends; read says that what that has is here, too.
	base    string
	extends spot
	read    bool
}

// composeFile is a Compose file.
type composeFile struct {
	services []*composeService // in the file's order
	byName   map[string]*composeService
	// included says that there are services which the file does not show.
	included bool
}

// composeReader reads a Compose file, by the Compose Specification.
type composeReader struct {
	*linter
	lines  []string // of the file
	merged int      // keys that its merges and aliases have added
}

func (l *composeReader) read(content []byte) error {
	root, err := l.root(content)
	if err != nil {
		return err
	}
	const fix = "a Compose file has services: at the beginning of a line; for other files give --kind"
	if root == nil || behind(root).Kind != yaml.MappingNode {
		return l.unreadable(spot{1, 1}, fix, "no Compose file: it is no mapping")
	}
	l.lines = strings.Split(string(content), "\n")
	file := &composeFile{byName: map[string]*composeService{}}
	found := false
	for _, top := range l.mapping(root, "the file", "") {
		switch top.key.Value {
		case "services":
			found = true
			l.services(file, top.value)
		case "include":
			found, file.included = true, true
			l.note(spotOf(top.key), Finding{Level: LevelNote, Message: "include: other files are not read", Hint: l.elsewhere()})
		case "networks", "volumes", "configs", "secrets":
			l.labelledOthers(top)
		}
	}
	if !found {
		return l.unreadable(spot{1, 1}, fix, "no Compose file: it has no services")
	}
	for _, s := range file.services {
		l.inherit(file, s, 0)
	}
	for _, s := range file.services {
		l.nearMisses(&s.declarant)
		l.judge(&s.declarant)
	}
	l.neighbours(file)
	return nil
}

// services reads each service by itself.
func (l *composeReader) services(file *composeFile, n *yaml.Node) {
	for _, e := range l.mapping(n, "services", "") {
		if len(file.services) >= maxServices {
			l.wrong(spotOf(e.key), "", hint.Errorf("split the file", "more than %d services; the others are not read", maxServices))
			return
		}
		s := &composeService{node: e.value}
		s.name, s.at, s.overImage = e.key.Value, spotOf(e.key), true
		file.services = append(file.services, s)
		file.byName[s.name] = s
		for _, k := range l.mapping(e.value, "the service", s.name) {
			l.serviceKey(s, k)
		}
	}
}

// hide notes that something of s is not read.
func (l *composeReader) hide(s *composeService, at spot, what, message string) {
	if s.hidden == "" {
		s.hidden = what
	}
	l.note(at, Finding{Level: LevelNote, Service: s.name, Message: message, Hint: l.elsewhere()})
}

// serviceKey takes one key of s.
func (l *composeReader) serviceKey(s *composeService, k keyed) {
	switch k.key.Value {
	case "labels":
		labels := l.items(k.value, "labels", s.name, "")
		l.twice(&s.declarant, labels, binding.LabelOrigin)
		s.labels = append(s.labels, labels...)
	case "environment":
		env := l.items(k.value, "environment", s.name, "the value that the variable has where Compose runs")
		l.twice(&s.declarant, env, binding.VariableOrigin)
		s.env = append(s.env, env...)
	case "build":
		l.build(s, k)
	case "deploy":
		l.deploy(s, k)
	case "extends":
		l.extended(s, k)
	case "env_file", "label_file":
		l.hide(s, spotOf(k.key), "the "+k.key.Value, k.key.Value+" is not read: what it declares is not checked")
	case "image":
		s.image = l.scalarOf(k.value, s.name, false).text
	case "container_name":
		s.containerName = l.scalarOf(k.value, s.name, false).text
	case "network_mode":
		s.networkMode = l.scalarOf(k.value, s.name, false)
		s.networkMode.at = spotOf(k.value)
	case "links":
		for _, n := range listOf(k.value) {
			s.links = append(s.links, l.scalarOf(n, s.name, false))
		}
	case "profiles":
		for _, n := range listOf(k.value) {
			s.profiles = append(s.profiles, n.Value)
		}
	case "networks":
		l.networks(s, k.value)
	case "ports":
		for _, n := range listOf(k.value) {
			l.port(s, n, "port %s is published in line %d")
		}
	case "expose":
		for _, n := range listOf(k.value) {
			l.port(s, n, "port %s is exposed in line %d")
		}
	default:
		l.strangeKey(s, k.key)
	}
}

// strangeKey notes a key that was probably meant to have declarations.
func (l *composeReader) strangeKey(s *composeService, key *yaml.Node) {
	word := key.Value
	if strings.HasPrefix(word, "x-") || len(word) > 2*len("environment") {
		return
	}
	for _, meant := range []string{"labels", "environment"} {
		if suggest.Distance(strings.ToLower(word), meant) <= 2 {
			l.wrong(spotOf(key), s.name, hint.Errorf("did you mean "+meant+"?", "unknown key %q", word))
		}
	}
}

// build reads the labels that the image gets, which the service's own overrule.
func (l *composeReader) build(s *composeService, k keyed) {
	if k.value.Kind != yaml.MappingNode {
		return // the folder alone
	}
	for _, e := range l.mapping(k.value, "build", s.name) {
		if e.key.Value == "labels" {
			labels := l.items(e.value, "labels", s.name, "")
			l.twice(&s.declarant, labels, binding.LabelOrigin)
			s.labels = append(labels, s.labels...)
		}
	}
}

// deploy notes declarations that stand at the service of a swarm, and not at its containers.
func (l *composeReader) deploy(s *composeService, k keyed) {
	for _, e := range l.mapping(k.value, "deploy", s.name) {
		if e.key.Value != "labels" {
			continue
		}
		for _, i := range l.items(e.value, "labels", s.name, "") {
			if ofLabel(i.key.text) {
				l.note(i.key.at, Finding{Level: LevelMistake, Service: s.name, Origin: binding.LabelOrigin(i.key.text),
					Message: "labels under deploy: are those of the service in a swarm, and no container has them", Hint: "write it under labels: of the service itself"})
			}
		}
	}
}

// labelledOthers notes declarations at networks, volumes and the like.
func (l *composeReader) labelledOthers(top keyed) {
	for _, e := range l.mapping(top.value, top.key.Value, "") {
		if e.value.Kind != yaml.MappingNode {
			continue
		}
		for _, k := range l.mapping(e.value, top.key.Value, "") {
			if k.key.Value != "labels" {
				continue
			}
			for _, i := range l.items(k.value, "labels", "", "") {
				if ofLabel(i.key.text) {
					l.note(i.key.at, Finding{Level: LevelMistake, Origin: binding.LabelOrigin(i.key.text),
						Message: "declares nothing under " + top.key.Value + ": only containers have ports", Hint: "write it under labels: of a service"})
				}
			}
		}
	}
}

// extended reads which service s extends.
func (l *composeReader) extended(s *composeService, k keyed) {
	s.extends = spotOf(k.key)
	if k.value.Kind == yaml.ScalarNode {
		s.base = l.scalarOf(k.value, s.name, false).text
		return
	}
	base, file := "", ""
	for _, e := range l.mapping(k.value, "extends", s.name) {
		switch e.key.Value {
		case "service":
			base = l.scalarOf(e.value, s.name, false).text
		case "file":
			file = l.scalarOf(e.value, s.name, false).text
		}
	}
	if file == "" {
		s.base = base
		return
	}
	l.hide(s, s.extends, "the service that it extends", fmt.Sprintf("extends %s of %s, which is not read: what that declares is not checked",
		shorten.Text(base, maxShown), shorten.Text(file, maxShown)))
}

// inherit gives s what the service of this file has that it extends.
func (l *composeReader) inherit(file *composeFile, s *composeService, depth int) {
	if s.read {
		return
	}
	s.read = true
	if s.base == "" {
		return
	}
	base := file.byName[s.base]
	switch {
	case base == nil && file.included:
		return
	case base == nil:
		l.wrong(s.extends, s.name, hint.Errorf(nameMeant(file, s.base), "extends %q, and there is no such service", shorten.Text(s.base, maxShown)))
		return
	case depth >= maxAliases:
		l.wrong(s.extends, s.name, hint.Errorf("write out what it is to have", "extends a service that extends others, %d in a row", maxAliases))
		return
	}
	l.inherit(file, base, depth+1)
	if l.merged += len(base.labels) + len(base.env) + len(base.serves); l.merged > maxMerged {
		l.wrong(s.extends, "", hint.Errorf("write the keys out", "the services extend one another by more than %d keys; what follows is not read", maxMerged))
		return
	}
	s.labels = append(base.labels[:len(base.labels):len(base.labels)], s.labels...)
	s.env = append(base.env[:len(base.env):len(base.env)], s.env...)
	s.serves = append(base.serves[:len(base.serves):len(base.serves)], s.serves...)
	if s.image == "" {
		s.image = base.image
	}
	if s.networkMode.text == "" {
		s.networkMode = base.networkMode
	}
	if s.hidden == "" {
		s.hidden = base.hidden
	}
}

// listOf are the items of n, without aliases.
func listOf(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return nil
	}
	out := make([]*yaml.Node, len(n.Content))
	for i, item := range n.Content {
		out[i] = behind(item)
	}
	return out
}

// networks reads the aliases that s has on its networks.
func (l *composeReader) networks(s *composeService, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return // a list of their names
	}
	for _, network := range l.mapping(n, "networks", s.name) {
		if network.value.Kind != yaml.MappingNode {
			continue
		}
		for _, e := range l.mapping(network.value, "the network", s.name) {
			if e.key.Value != "aliases" {
				continue
			}
			for _, alias := range listOf(e.value) {
				s.aliases = append(s.aliases, alias.Value)
			}
		}
	}
}

// port reads one item of ports or expose: [[IP:]HOST:]PORT[-PORT][/PROTOCOL], or a mapping with a target.
func (l *composeReader) port(s *composeService, n *yaml.Node, why string) {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "target" {
				l.port(s, behind(n.Content[i+1]), why)
				return
			}
		}
		return
	}
	text := interpolate(n.Value, 0)
	if n.Kind != yaml.ScalarNode || text.unknown != "" || text.bad != "" || len(s.serves) >= maxServed {
		return
	}
	ports, protocol, _ := strings.Cut(text.text[strings.LastIndexByte(text.text, ':')+1:], "/")
	low, high, ranged := strings.Cut(ports, "-")
	first, err := strconv.ParseUint(low, 10, 16)
	last := first
	if err == nil && ranged {
		last, err = strconv.ParseUint(high, 10, 16)
	}
	if err == nil && !strings.EqualFold(protocol, "udp") {
		s.serves = append(s.serves, servedPorts{uint16(first), uint16(last), fmt.Sprintf(why, ports, n.Line)})
	}
}
