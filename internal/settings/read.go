package settings

import (
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/policy"
	"github.com/ambassadord/ambassadord/resolver"
)

// Reader makes settings of configurations, for a daemon of which the rest never changes.
type Reader struct {
	Parse func(string) (resolver.Target, error) // a target, as the daemon's resolver does
	Modes []config.Mode                         // in which it runs, Auto resolved
	// Registries are the servers that the configuration and the environment name, HOST:PORT.
	Registries []string
	Host       policy.Host
}

// Read is what cfg says; its error names all that cannot be used.
func (r *Reader) Read(cfg config.Config) (*Settings, error) {
	layers, err := LayersOf(cfg, r.Parse)
	if err != nil {
		return nil, err
	}
	if err := withoutEarlyRefusal(cfg.Listeners, layers, r.Modes); err != nil {
		return nil, err
	}
	p := policyOf(cfg, r.Modes, r.Registries, r.Host)
	layers.Permit = permit(p)
	return New(cfg, layers, p), nil
}
