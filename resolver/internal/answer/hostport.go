package answer

import (
	"strings"

	"github.com/ambassadord/ambassadord/resolver"
)

// Endpoint reads host:port, as registries write it, into an endpoint called name.
// The error is ParseHostPort's.
func Endpoint(hostPort, name string) (resolver.Endpoint, error) {
	q, err := resolver.ParseHostPort(hostPort)
	if err != nil {
		return resolver.Endpoint{}, err
	}
	return endpointOf(q, 1, name), nil
}

// Item reads host:port or host:port weight, as people write it, into an endpoint
// called name. The error is ParseItem's.
func Item(text, name string) (resolver.Endpoint, error) {
	q, weight, err := resolver.ParseItem(text)
	if err != nil {
		return resolver.Endpoint{}, err
	}
	return endpointOf(q, weight, name), nil
}

func endpointOf(q resolver.Query, weight uint16, name string) resolver.Endpoint {
	if q.Scheme == resolver.SchemeStatic {
		return resolver.Endpoint{Addr: q.AddrPort(), Name: name, Weight: weight}
	}
	// A copy: it may be a few bytes of a list that is long.
	return resolver.Endpoint{Host: strings.Clone(q.Host), Port: q.Port, Name: name, Weight: weight}
}
