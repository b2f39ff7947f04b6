package lint

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver"
)

// imagePorts are the ports that official images serve, by the last part of their names.
var imagePorts = map[string]uint16{
	"redis": 6379, "valkey": 6379, "postgres": 5432, "mysql": 3306, "mariadb": 3306, "mongo": 27017, "memcached": 11211,
	"rabbitmq": 5672, "nats": 4222, "nginx": 80, "httpd": 80, "caddy": 80, "elasticsearch": 9200, "consul": 8500, "etcd": 2379,
}

// neighbours notes what the services of a file are to each other.
func (l *composeReader) neighbours(file *composeFile) {
	shared := map[*composeService][]*composeService{} // by the one whose network namespace it is
	for _, s := range file.services {
		l.imageServes(s)
		l.network(file, s)
		l.linked(file, s)
		for _, b := range s.bindings.All() {
			if b.Problem == nil {
				l.names(file, s, b)
			}
		}
		owner := file.owner(s)
		shared[owner] = append(shared[owner], s)
	}
	for _, owner := range file.services {
		if members := shared[owner]; len(members) > 0 {
			l.namespace(owner, members)
		}
	}
}

// imageServes adds what s serves by its image, or by the variable PORT.
func (l *composeReader) imageServes(s *composeService) {
	name, _, _ := strings.Cut(path.Base(s.image), "@")
	name, _, _ = strings.Cut(name, ":")
	if port, ok := imagePorts[name]; ok {
		s.serves = append(s.serves, servedPorts{port, port, fmt.Sprintf("the image %s serves port %d", shorten.Text(s.image, maxShown), port)})
	}
	for _, i := range last(s.env) {
		if i.key.text != "PORT" || i.value.unknown != "" {
			continue
		}
		if n, err := strconv.ParseUint(i.value.text, 10, 16); err == nil {
			s.serves = append(s.serves, servedPorts{uint16(n), uint16(n), fmt.Sprintf("the variable PORT says that port %d is served", n)})
		}
	}
}

const (
	ofService   = "service:"
	ofContainer = "container:"
)

// owner is the service whose network namespace s is in.
func (f *composeFile) owner(s *composeService) *composeService {
	for range maxAliases {
		name, ok := strings.CutPrefix(s.networkMode.text, ofService)
		next := f.byName[name]
		if !ok || next == nil || s.networkMode.unknown != "" {
			break
		}
		s = next
	}
	return s
}

// network notes what the network_mode of s means for what it declares.
func (l *composeReader) network(file *composeFile, s *composeService) {
	note := func(level Level, fix, format string, args ...any) {
		l.note(s.networkMode.at, Finding{Level: level, Service: s.name, Message: fmt.Sprintf(format, args...), Hint: fix})
	}
	mode := s.networkMode.text
	name, joins := strings.CutPrefix(mode, ofService)
	switch {
	case s.networkMode.unknown != "":
		if s.bindings.Len() > 0 {
			l.unchecked(s.networkMode, s.name, "")
		}
	case joins && file.byName[name] == nil && !file.included:
		note(LevelMistake, nameMeant(file, name), "network_mode names the service %q, and there is none", shorten.Text(name, maxShown))
	case s.bindings.Len() == 0:
	case mode == "host":
		note(LevelMistake, "give it a network of its own", "its network is the host's, where nothing is redirected, and no mode serves it")
	case mode == "none":
		note(LevelWarning, "give it a network if the daemon is to run in mode host or link", "without a network it is served in modes redirect and listen, and not in host and link")
	case strings.HasPrefix(mode, ofContainer):
		note(LevelNote, "see what the log of the daemon says of it", "it is in the network namespace of a container that is not in this file: which of its ports others there declare is not checked")
	}
}

// linked notes links that lead nowhere, and those to the daemon of a service that declares nothing.
func (l *composeReader) linked(file *composeFile, s *composeService) {
	for _, link := range s.links {
		if link.unknown != "" {
			continue
		}
		name, alias, _ := strings.Cut(link.text, ":")
		to := file.byName[name]
		switch {
		case to == nil && file.included:
		case to == nil:
			l.wrong(link.at, s.name, hint.Errorf(nameMeant(file, name), "links to %q, and there is no such service", shorten.Text(name, maxShown)))
		case strings.HasPrefix(path.Base(to.image), "ambassadord") && s.bindings.Len() == 0 && s.hidden == "":
			if alias == "" {
				alias = name
			}
			l.note(link.at, Finding{Level: LevelWarning, Service: s.name, Message: "links to the daemon and declares no port, unless its image does: what it dials there is refused",
				Hint: fmt.Sprintf("declare what it dials at %s, for example BACKEND_6379=redis.service.consul", shorten.Text(alias, maxShown))})
		}
	}
}

// instance is the name of a container that Compose makes of a service: PROJECT-SERVICE-NUMBER.
var instance = regexp.MustCompile(`^.+[-_](.+)[-_][0-9]+$`)

// names notes names in the target of b that are none of the file, or that DNS does not know.
func (l *composeReader) names(file *composeFile, s *composeService, b binding.Binding) {
	i, ok := s.origins[b.Origin]
	if !ok || i.value.unknown != "" {
		return
	}
	for q := range b.Target.Queries() {
		note := func(level Level, fix, format string, args ...any) {
			l.note(i.value.inside(strings.Index(b.Text, q.Host)), Finding{Level: level, Service: s.name, Origin: b.Origin, Message: fmt.Sprintf(format, args...), Hint: fix})
		}
		to := file.byName[q.Host]
		shown := shorten.Text(q.Host, maxShown)
		switch {
		case q.Host == "":
		case q.Scheme == resolver.SchemeDNS && q.Server == "" && to != nil:
			note(LevelWarning, fmt.Sprintf("write docker://%s:%d for the service of this file", shown, q.Port),
				"%s is asked of DNS as the host sees it, which does not know the services of Compose", shown)
		case q.Scheme == resolver.SchemeSRV && q.Server == "" && to != nil:
			note(LevelWarning, fmt.Sprintf("write docker://%s:PORT for the service of this file", shown),
				"the SRV records of %s are asked of DNS, which does not know the services of Compose", shown)
		case q.Scheme != "docker" || q.Values().Has("project"):
		case to == nil:
			if level, fix := file.stranger(q.Host); level != "" {
				note(level, fix, "no service and no container_name of this file is %q: it has to be on this host from elsewhere", shown)
			}
		default:
			l.reachable(s, to, note)
		}
	}
}

// stranger is how sure it is that nothing of the name is meant but a container of this file, and what to do;
// "" if the file may have it.
func (f *composeFile) stranger(name string) (Level, string) {
	for _, s := range f.services {
		if s.containerName == name {
			return "", ""
		}
		if slices.Contains(s.aliases, name) {
			return LevelWarning, "it is an alias on a network, which docker:// does not look at: write docker://" + shorten.Text(s.name, maxShown)
		}
	}
	if match := instance.FindStringSubmatch(shorten.Text(name, maxShown)); match != nil && f.byName[match[1]] != nil {
		return "", ""
	}
	if f.included {
		return LevelNote, "look for it in the files that are included"
	}
	return LevelWarning, nameMeant(f, name)
}

// reachable notes why to, which s reaches by its name, may not be there.
func (l *composeReader) reachable(s, to *composeService, note func(Level, string, string, ...any)) {
	if to.networkMode.text == "none" {
		note(LevelWarning, "give it a network", "the service %s has network_mode none, and so no address", shorten.Text(to.name, maxShown))
	}
	missing := len(to.profiles) > 0
	for _, p := range s.profiles {
		missing = missing && !slices.Contains(to.profiles, p)
	}
	if missing {
		note(LevelWarning, "start it with that profile, or give both the same", "the service %s is only there with the profile %s",
			shorten.Text(to.name, maxShown), shorten.Text(strings.Join(to.profiles, " or "), maxShown))
	}
}

// nameMeant is the hint about a service that is not there.
func nameMeant(file *composeFile, name string) string {
	names := make([]string, len(file.services))
	for i, s := range file.services {
		names[i] = s.name
	}
	if meant := suggest.Closest(name, names); meant != "" {
		return "did you mean " + meant + "?"
	}
	return "the services are " + shorten.Text(strings.Join(names, ", "), maxShown)
}

// namespace notes the ports that more than one of members, which share the network namespace of owner,
// declares or serves.
func (l *composeReader) namespace(owner *composeService, members []*composeService) {
	first := map[uint16]*composeService{}
	slices.SortStableFunc(members, func(a, b *composeService) int { // the owner's declarations come first
		switch {
		case a == owner:
			return -1
		case b == owner:
			return 1
		}
		return 0
	})
	var serves []servedPorts
	for _, m := range members {
		for _, s := range m.serves {
			if len(members) > 1 {
				s.why += " of the service " + shorten.Text(m.name, maxShown)
			}
			if len(serves) < maxServed {
				serves = append(serves, s)
			}
		}
	}
	for _, m := range members {
		if owner.networkMode.text != "host" { // where nothing is redirected
			l.served(&m.declarant, serves)
		}
		for _, lost := range m.bindings.All() {
			before := first[lost.Port]
			if before == nil {
				first[lost.Port] = m
				continue
			}
			if won, _ := before.bindings.Lookup(lost.Port); won.Text != lost.Text || won.Options != lost.Options {
				l.overruled(owner, before, m, won, lost)
			}
		}
	}
}

// overruled notes that lost, of m, is overruled by won, of another service of the network namespace.
func (l *composeReader) overruled(owner, other, m *composeService, won, lost binding.Binding) {
	which := "which may have joined this network namespace before it"
	if other == owner {
		which = "which owns this network namespace"
	}
	at := m.at
	if i, ok := m.origins[lost.Origin]; ok {
		at = i.key.at
	}
	how := "with the target " + shorten.Text(shownTarget(won.Text), maxShown)
	if won.Text == lost.Text {
		how = "with the same target and other options"
	}
	l.note(at, Finding{Level: LevelMistake, Service: m.name, Origin: lost.Origin,
		Message: fmt.Sprintf("port %d is declared by the service %s, %s, %s", won.Port, shorten.Text(other.name, maxShown), which, how),
		Hint:    "let one of the two declare the port, or give " + shorten.Text(m.name, maxShown) + " a network of its own"})
}
