package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/ambassadord/ambassadord/internal/binding"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// maxFile bounds the configuration file.
const maxFile = 1 << 20

// File is what a configuration file says.
type File struct {
	// Flags are the flags of run that it sets, in its order.
	Flags []FileFlag
	// Defaults, Targets, Listeners, Clients and Limits are as in Config.
	Defaults  option.Layer
	Targets   []TargetOptions
	Listeners []Listener
	Clients   []binding.Static
	// Policy are the rules of Policy that the file has.
	Policy []policy.Rule
	Limits option.Limited
}

// FileFlag is one flag as a file sets it.
type FileFlag struct {
	Name string
	// Values is one value, or those of a list.
	Values []string
	// Origin says where.
	Origin string
}

// The keys of a file that are no flags.
const (
	keyDefaults = "defaults"
	keyTargets  = "targets"
	keyListen   = "listen"
	keyClients  = "clients"
	keyPolicy   = "policy"
	keyLimits   = "limits"
)

// Where the keys are described.
const (
	configDoc  = "docs/config.md"
	optionsDoc = "docs/options.md"
	policyDoc  = "docs/policy.md"
)

// ReadFile reads the configuration file at name. flags are the names of the flags
// that may be keys. An error lists every mistake, each with line and column.
func ReadFile(name string, flags []string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("configuration: %w", err), "give --config a file that this user may read")
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("configuration: %w", err)
	case len(content) > maxFile:
		return nil, hint.Errorf("give --config the file that was meant", "%s has more than %d bytes", name, maxFile)
	}
	return ParseFile(name, content, flags)
}

// ParseFile is ReadFile of content; name is for the messages.
func ParseFile(name string, content []byte, flags []string) (*File, error) {
	r := &fileReader{name: name, file: &File{}}
	root, err := r.parse(content)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return r.file, nil
	}
	r.whole(root, flags)
	if err := r.mistakes(); err != nil {
		return nil, err
	}
	return r.file, nil
}

// parse reads content as one YAML document; nil is an empty one.
func (r *fileReader) parse(content []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, more yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err == nil {
		if err = decoder.Decode(&more); errors.Is(err, io.EOF) {
			return document.Content[0], nil
		}
		if err == nil {
			return nil, hint.Errorf("write one document, without ---", "%s: more than one document", r.at(&more))
		}
	}
	const fix = "the file is YAML: check quotes, colons, and indentation, which is by spaces and never by tabs"
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		return nil, hint.Errorf(fix, "%s:%d:%d: %s", r.name, max(1, e.Mark.Line), max(1, e.Mark.Column), e.Message)
	}
	return nil, hint.Wrap(fmt.Errorf("%s: %w", r.name, err), fix)
}

// whole reads the file's own keys.
func (r *fileReader) whole(root *yaml.Node, flags []string) {
	own := []string{keyDefaults, keyTargets, keyListen, keyClients, keyPolicy, keyLimits}
	r.top = slices.Concat(own, flags)
	slices.Sort(r.top)
	for key, value := range r.mapping(root, "the file", knownKeys{words: r.top, doc: configDoc}) {
		switch key.Value {
		case keyDefaults:
			r.file.Defaults = r.options(value, keyDefaults)
		case keyTargets:
			for target, options := range r.mapping(value, keyTargets, knownKeys{}) {
				t := TargetOptions{Target: target.Value, Origin: r.at(target)}
				t.Options = r.options(options, t.Target)
				r.file.Targets = append(r.file.Targets, t)
			}
		case keyListen:
			for _, item := range r.sequence(value, keyListen) {
				r.listener(item)
			}
		case keyClients:
			for _, item := range r.sequence(value, keyClients) {
				r.client(item)
			}
		case keyPolicy:
			r.policy(value)
		case keyLimits:
			r.limits(value)
		default:
			if values := r.values(value, key.Value); values != nil {
				r.file.Flags = append(r.file.Flags, FileFlag{Name: key.Value, Values: values, Origin: r.at(key)})
			}
		}
	}
}

// options reads a mapping of options; other keys are handed to also, which may
// take them.
func (r *fileReader) options(node *yaml.Node, where string) option.Layer {
	return r.optionsAnd(node, where, nil, nil)
}

func (r *fileReader) optionsAnd(node *yaml.Node, where string, others []string, also func(key, value *yaml.Node)) option.Layer {
	var layer option.Layer
	for key, value := range r.mapping(node, where, knownKeys{words: slices.Concat(others, option.Names()), doc: optionsDoc}) {
		if slices.Contains(others, key.Value) {
			also(key, value)
			continue
		}
		o, err := option.Lookup(key.Value)
		text, ok := r.scalar(value, key.Value)
		if err != nil || !ok {
			continue // it is a name that mapping has let through; scalar has said it
		}
		if err := o.Validate(text); err != nil {
			r.wrong(value, fmt.Errorf("%s: %w", key.Value, err))
			continue
		}
		layer = append(layer, option.Setting{Name: o.Name, Text: text, Origin: r.at(key)})
	}
	return layer
}

// listener reads one item of listen.
func (r *fileReader) listener(node *yaml.Node) {
	l, before := Listener{Origin: r.at(node)}, len(r.found)
	l.Options = r.optionsAnd(node, "an item of listen", []string{"address", "target", "accept-proxy-protocol-from"}, func(key, value *yaml.Node) {
		if key.Value == "accept-proxy-protocol-from" {
			prefixes, err := ParsePrefixes(r.values(value, key.Value))
			if err != nil {
				r.wrong(value, err)
			}
			l.AcceptProxyFrom = orEmpty(prefixes)
			return
		}
		text, ok := r.scalar(value, key.Value)
		switch {
		case !ok:
		case key.Value == "target":
			l.Target = text
		default:
			var err error
			if l.Address, err = ParseAddress(text); err != nil {
				r.wrong(value, err)
				l.Address = text
			}
		}
	})
	if len(r.found) == before && (l.Address == "" || l.Target == "") {
		r.wrong(node, hint.Errorf("write address: 127.0.0.1:6379 and target: redis.service.consul", "a listener needs an address and a target"))
	}
	r.file.Listeners = append(r.file.Listeners, l)
}

// orEmpty makes nothing an empty list, which is a list that was given.
func orEmpty(prefixes []netip.Prefix) []netip.Prefix {
	if prefixes == nil {
		return []netip.Prefix{}
	}
	return prefixes
}

// client reads one item of clients.
func (r *fileReader) client(node *yaml.Node) {
	s := binding.Static{Ports: map[uint16]binding.StaticPort{}}
	before := len(r.found)
	for key, value := range r.mapping(node, "an item of clients", knownKeys{words: []string{"container", "label", "ports"}, doc: configDoc}) {
		switch key.Value {
		case "ports":
			for number, port := range r.mapping(value, "ports", knownKeys{}) {
				r.port(s.Ports, number, port)
			}
		case "container":
			s.Container, _ = r.scalar(value, key.Value)
			if _, err := policy.ParseContainer(s.Container); err != nil && s.Container != "" {
				r.wrong(value, err)
			}
		case "label":
			s.Label, _ = r.scalar(value, key.Value)
			if strings.HasPrefix(s.Label, "=") {
				r.wrong(value, hint.Errorf("write label: app=web", "%q names no label", s.Label))
			}
		}
	}
	switch {
	case len(r.found) > before: // it is wrong enough
	case s.Container == "" && s.Label == "":
		r.wrong(node, hint.Errorf(`write container: NAME, or label: app=web; container: "*" is every one`, "clients without container and label"))
	case len(s.Ports) == 0:
		r.wrong(node, hint.Errorf("write ports: {6379: redis.service.consul}", "clients without ports"))
	}
	r.file.Clients = append(r.file.Clients, s)
}

// port reads one port of a client: a target, or a target and options.
func (r *fileReader) port(ports map[uint16]binding.StaticPort, number, node *yaml.Node) {
	n, err := ParsePort(number.Value)
	if err != nil {
		r.wrong(number, err)
		return
	}
	p := binding.StaticPort{Origin: r.at(number)}
	if node.Kind == yaml.MappingNode {
		p.Options = r.optionsAnd(node, "port "+number.Value, []string{"target"}, func(key, value *yaml.Node) { p.Target, _ = r.scalar(value, key.Value) })
	} else {
		p.Target, _ = r.scalar(node, "port "+number.Value)
	}
	if p.Target == "" && !r.said(node) {
		r.wrong(node, hint.Errorf("write "+number.Value+": TARGET, or "+number.Value+": {target: TARGET}", "port %s has no target", number.Value))
	}
	ports[n] = p
}

// ParsePrefixes reads addresses and networks, of those that send a PROXY protocol
// header.
func ParsePrefixes(texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		text = strings.TrimSpace(text)
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, hint.Errorf("give networks, for example 10.0.0.0/8, or addresses", "accept-proxy-protocol-from does not know %q", text)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(prefixes), nil
}
