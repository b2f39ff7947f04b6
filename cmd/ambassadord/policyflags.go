package main

import (
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/policy"
)

// policyFlags are the flags of run about who may reach what: the common cases, which come
// before the rules of the file.
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
