package answer

import "github.com/ambassadord/ambassadord/resolver"

// Endpoint reads host:port, as registries write it, into an endpoint called name.
// The error is ParseHostPort's.
func Endpoint(hostPort, name string) (resolver.Endpoint, error) {
	q, err := resolver.ParseHostPort(hostPort)
	if err != nil {
		return resolver.Endpoint{}, err
	}
	if q.Scheme == resolver.SchemeStatic {
		return resolver.Endpoint{Addr: q.AddrPort(), Name: name, Weight: 1}, nil
	}
	return resolver.Endpoint{Host: q.Host, Port: q.Port, Name: name, Weight: 1}, nil
}
