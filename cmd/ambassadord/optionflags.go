package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// optionFlags are the flags of run about connections: the options that hold for
// every port, and the daemon's own limits.
type optionFlags struct {
	dialTimeout    time.Duration
	defaults       []string
	limits         []string
	maxConnections int
	acceptRate     int
	reclaimIdle    time.Duration
	proxyFrom      []string
	proxies        []netip.Prefix // proxyFrom, read
}

const (
	dialTimeoutFlag = "dial-timeout"
	defaultFlag     = "default"
	limitFlag       = "limit"
	timeoutOption   = "timeout"
)

func (f *optionFlags) register(set *pflag.FlagSet) {
	set.DurationVar(&f.dialTimeout, dialTimeoutFlag, option.Default().Timeout, "how long to look for an endpoint that answers (--default timeout=…)")
	set.StringArrayVar(&f.defaults, defaultFlag, nil, "NAME=VALUE: an option of every port that sets none itself; may be repeated. See docs/options.md")
	set.StringArrayVar(&f.limits, limitFlag, nil, "NAME=MAX, NAME=MIN..MAX, NAME=allow or NAME=deny: what containers may choose of an option; may be repeated. See docs/options.md")
	set.IntVar(&f.maxConnections, "max-connections", 0, "how many connections may be open (0: what the limit of open files is good for)")
	set.IntVar(&f.acceptRate, "accept-rate", 0, "how many new connections a second are taken (0: no limit)")
	set.DurationVar(&f.reclaimIdle, "reclaim-idle", 0, "when others have no place, reset connections of the client with the most, as long as it has more than its fair share, on which no byte has moved for so long: the longest idle first, as many as are needed, with the reason over_limit (0: none)")
	set.StringSliceVar(&f.proxyFrom, "accept-proxy-protocol-from", nil, "networks whose connections to listeners begin with a PROXY protocol header")
}

// apply puts what the flags say into c.
func (f *optionFlags) apply(set *pflag.FlagSet, c *config.Config) error {
	c.MaxConnections, c.AcceptRate, c.ReclaimIdle = f.maxConnections, f.acceptRate, f.reclaimIdle
	var err error
	if f.proxies, err = config.ParsePrefixes(f.proxyFrom); err != nil {
		return fmt.Errorf("--%w", err) // it begins with the flag's name
	}
	var layer option.Layer
	if set.Changed(dialTimeoutFlag) {
		layer = append(layer, option.Setting{Name: timeoutOption, Text: f.dialTimeout.String(), Origin: "--" + dialTimeoutFlag})
	}
	for _, text := range f.defaults {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return hint.Errorf("write --default NAME=VALUE, for example --default wait=5s", "--default %q has no value", text)
		}
		layer = append(layer, option.Setting{Name: name, Text: value, Origin: "--" + defaultFlag + " " + name})
	}
	for _, s := range layer {
		o, err := option.Lookup(s.Name)
		if err == nil {
			err = o.Validate(s.Text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Origin, err)
		}
	}
	c.Defaults = append(c.Defaults, layer)
	return f.applyLimits(c)
}

// applyLimits puts the limits of the flags into c.
func (f *optionFlags) applyLimits(c *config.Config) error {
	if len(f.limits) > 0 {
		c.Limits = option.Limited{}
	}
	for _, text := range f.limits {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return hint.Errorf("write --limit NAME=MAX, for example --limit client-limit=100", "--limit %q says nothing of it", text)
		}
		origin := "--" + limitFlag + " " + name
		if err := config.AddLimit(c.Limits, name, value, origin); err != nil {
			return fmt.Errorf("%s: %w", origin, err)
		}
	}
	return nil
}

// completeDefault completes --default: names, and the words of those that take any.
func completeDefault(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	var out []string
	name, _, valued := strings.Cut(typed, "=")
	for _, o := range option.All() {
		switch {
		case !valued:
			out = append(out, o.Name+"=\t"+o.Help)
		case o.Name == name:
			for _, w := range o.Words {
				out = append(out, o.Name+"="+w)
			}
		}
	}
	if valued {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// policyFlags are the flags of run about which client may reach what: the common cases, which
// come before the rules of the file.
type policyFlags struct {
	allowLoopback     bool
	deny, allow       []string
	imageDeclarations string
	fileFolders       []string
	// origins say where in a file flags of these names are set.
	origins map[string]string
}

func (f *policyFlags) register(set *pflag.FlagSet) {
	set.BoolVar(&f.allowLoopback, "allow-loopback", false, "let what containers declare reach the loopback addresses of this host. See docs/policy.md")
	set.StringSliceVar(&f.deny, "deny", nil, "NETWORK or NETWORK:PORTS: what nobody may reach; also the words loopback, link-local, metadata, host, own; may be repeated. See docs/policy.md")
	set.StringSliceVar(&f.allow, "allow", nil, "NETWORK or NETWORK:PORTS: what everybody may reach, unless --deny names it; also the words of --deny; may be repeated. See docs/policy.md")
	set.StringVar(&f.imageDeclarations, "image-declarations", "on", "on or off: whether what the labels and environment of an image itself declare counts")
	set.StringSliceVar(&f.fileFolders, "file-folder", []string{policy.DefaultFileFolder}, "the folder whose files containers may name as file:// targets; may be repeated")
}

// apply puts what the flags say into c.
func (f *policyFlags) apply(c *config.Config) error {
	c.Policy.AllowLoopback, c.Policy.FileFolders = f.allowLoopback, nil
	switch f.imageDeclarations {
	case "on":
	case "off":
		c.Policy.Rules = append(c.Policy.Rules, policy.Rule{
			Action: policy.Deny, Declared: []policy.Declarer{policy.ByImage}, Origin: f.origin("image-declarations", "off"),
		})
	default:
		return hint.Errorf("give on or off", "--image-declarations does not know %q", f.imageDeclarations)
	}
	for _, flag := range []struct {
		name   string
		action policy.Action
		texts  []string
	}{{"deny", policy.Deny, f.deny}, {"allow", policy.Allow, f.allow}} {
		for _, text := range flag.texts {
			place, ports, err := policy.ParseFlag(text)
			if err != nil {
				return hint.Errorf(hint.Of(err), "--%s: %w", flag.name, err)
			}
			c.Policy.Rules = append(c.Policy.Rules, policy.Rule{
				Action: flag.action, To: []policy.Place{place}, Ports: ports, Origin: f.origin(flag.name, text),
			})
		}
	}
	for _, folder := range f.fileFolders {
		if !filepath.IsAbs(folder) || filepath.Clean(folder) == "/" {
			return hint.Errorf("give an absolute path, such as "+policy.DefaultFileFolder, "--file-folder does not take %q", folder)
		}
		c.Policy.FileFolders = append(c.Policy.FileFolders, filepath.Clean(folder))
	}
	return nil
}

// origin is where a rule was written that a flag stands for.
func (f *policyFlags) origin(name, value string) string {
	if at := f.origins[name]; at != "" {
		return name + ": " + value + " in " + at
	}
	return "--" + name + " " + value
}
