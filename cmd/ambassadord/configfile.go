package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/admin"
	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/option"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/internal/rundir"
	"github.com/ambassadord/ambassadord/internal/status"
)

const (
	configFlag = "config"
	modeFlag   = "mode"
)

// notInFile are flags whose meaning a file has other words for.
var notInFile = []string{configFlag, defaultFlag, limitFlag, "listen", "help"}

// registerFile registers --config, of commands that load.
func (f *runFlags) registerFile(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.configFile, configFlag, "", "a YAML file of flags, options, listeners and clients; SIGHUP reads it again. See docs/config.md")
	_ = cmd.MarkFlagFilename(configFlag, "yml", "yaml") // fails for unknown flags only
	_ = cmd.RegisterFlagCompletionFunc(defaultFlag, completeDefault)
}

// load makes the Config of the flags that were given, of args, and of the file that
// --config names. A flag that was given wins over the file. It may be called again,
// for what the file says then.
func (f *runFlags) load(given *pflag.FlagSet, args []string) (config.Config, error) {
	fresh, set, err := f.anew(given)
	if err != nil {
		return config.Config{}, err
	}
	return fresh.loadInto(set, f.configFile, args)
}

// loadInto is load for flags that are nobody else's, and have what was given: set, which has what the file
// says of flags afterwards.
func (f *runFlags) loadInto(set *pflag.FlagSet, name string, args []string) (config.Config, error) {
	if name == "" {
		return f.config(set, args)
	}
	file, err := config.ReadFile(name, fileKeys(set))
	if err != nil {
		return config.Config{}, usage(err)
	}
	layers, err := f.take(set, file)
	if err != nil {
		return config.Config{}, usage(err)
	}
	c, err := f.config(set, args)
	if err != nil {
		return c, err
	}
	c.Defaults = append(layers, c.Defaults...)
	c.Targets, c.Clients = file.Targets, file.Clients
	c.Policy.Rules = append(c.Policy.Rules, file.Policy...)
	c.Limits = limitsOver(file.Limits, c.Limits)
	for _, l := range file.Listeners {
		if l.AcceptProxyFrom == nil {
			l.AcceptProxyFrom = f.options.proxies
		}
		c.Listeners = append(c.Listeners, l)
	}
	return c, usage(c.Validate())
}

// limitsOver are the limits of the file, and in their place those of flags.
func limitsOver(file, flags option.Limited) option.Limited {
	if file == nil {
		return flags
	}
	limits := maps.Clone(file)
	maps.Copy(limits, flags)
	return limits
}

// anew makes flags of their own that are set as given are.
func (f *runFlags) anew(given *pflag.FlagSet) (*runFlags, *pflag.FlagSet, error) {
	fresh, set := newRunFlags(f.environ), pflag.NewFlagSet("", pflag.ContinueOnError)
	fresh.register(set)
	var errs []error
	given.VisitAll(func(from *pflag.Flag) {
		to := set.Lookup(from.Name)
		if to == nil || !from.Changed {
			return
		}
		errs = append(errs, setFlag(to, valuesOf(from)))
	})
	return fresh, set, errors.Join(errs...)
}

// valuesOf are the values of a flag.
func valuesOf(f *pflag.Flag) []string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.GetSlice()
	}
	return []string{f.Value.String()}
}

// setFlag sets f as the command line would.
func setFlag(f *pflag.Flag, values []string) error {
	f.Changed = true
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.Replace(values)
	}
	if len(values) != 1 {
		return hint.Errorf("write "+f.Name+": VALUE", "%s takes one value", f.Name)
	}
	if err := f.Value.Set(values[0]); err != nil {
		fix := f.Name + ": " + f.Usage
		switch f.Value.Type() {
		case "duration":
			fix = "write a number with its unit, such as 5s or 500ms"
		case "bool":
			fix = "write true or false; " + fix
		case "int":
			fix = "write a whole number; " + fix
		}
		return hint.Errorf(fix, "%s does not take %q", f.Name, values[0])
	}
	return nil
}

// fileKeys are the flags that a file may set.
func fileKeys(set *pflag.FlagSet) []string {
	var names []string
	set.VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(notInFile, f.Name) {
			names = append(names, f.Name)
		}
	})
	return names
}

// take sets the flags of file that were not given, and returns the file's layers of
// defaults. dial-timeout is in the lower of the two: its flag would be above both.
func (f *runFlags) take(set *pflag.FlagSet, file *config.File) ([]option.Layer, error) {
	var lowest option.Layer
	var errs []error
	told := map[string]bool{} // flags that belong together have one mistake
	for _, flag := range file.Flags {
		if err := f.try(set, file, flag); err != nil {
			if !told[err.Error()] {
				errs = append(errs, fmt.Errorf("%s: %w", flag.Origin, err))
			}
			told[err.Error()] = true
			continue
		}
		switch to := set.Lookup(flag.Name); {
		case flag.Name == dialTimeoutFlag:
			lowest = append(lowest, option.Setting{Name: timeoutOption, Text: flag.Values[0], Origin: flag.Origin})
		case !to.Changed:
			f.policy.origins[flag.Name] = flag.Origin
			errs = append(errs, setFlag(to, flag.Values))
		}
	}
	return []option.Layer{lowest, file.Defaults}, hint.Join(errs...)
}

// try says what is wrong with one flag of a file, by itself or with those that it belongs to, of which
// given has those of the command line.
func (f *runFlags) try(given *pflag.FlagSet, file *config.File, flag config.FileFlag) error {
	alone, set := newRunFlags(f.environ), pflag.NewFlagSet("", pflag.ContinueOnError)
	alone.register(set)
	if err := setFlag(set.Lookup(flag.Name), flag.Values); err != nil {
		return err
	}
	for _, other := range file.Flags {
		if other.Name != flag.Name && belongTogether(other.Name, flag.Name) {
			_ = setFlag(set.Lookup(other.Name), other.Values) // it is tried in its turn
		}
	}
	given.VisitAll(func(from *pflag.Flag) {
		if from.Changed && from.Name != flag.Name && belongTogether(from.Name, flag.Name) {
			_ = setFlag(set.Lookup(from.Name), valuesOf(from)) // it was set before
		}
	})
	c, err := alone.config(set, nil)
	if err == nil && flag.Name == "docker-host" {
		_, err = oneshot.NewParser(c, slog.New(slog.DiscardHandler))
	}
	return err
}

// belongTogether reports whether one of two flags may be right or wrong by what the other says.
func belongTogether(a, b string) bool {
	const admin = "admin"
	return strings.HasPrefix(a, admin) && strings.HasPrefix(b, admin)
}

const configShowHelp = `Show every value that "ambassadord run" would have with this command line, this environment and
the file that --config names, and where each is from: the default, a variable, a place in the file, or
a flag. A daemon that runs may have been started otherwise.

A key is what the configuration file calls it; defaults.NAME are the options of ports that set none
themselves. Passwords and tokens are left out.`

func configCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the configuration",
		Args:  exactArgs(0),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := newRunFlags(environ)
	var o output
	var changed bool
	show := &cobra.Command{
		Use:   "show [LISTEN_PORT=TARGET …]",
		Short: "Show every value that holds, and where it is from",
		Long:  configShowHelp,
		Example: `  ambassadord config show --config /etc/ambassadord.yml
  ambassadord config show --config /etc/ambassadord.yml --changed
  ambassadord config show -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			fresh, set, err := flags.anew(cmd.Flags())
			if err != nil {
				return err
			}
			c, err := fresh.loadInto(set, flags.configFile, args)
			if err != nil {
				return err
			}
			all := fresh.shown(cmd.Flags(), set, &c)
			if changed {
				all = slices.DeleteFunc(all, func(v config.Value) bool { return v.Source == config.FromDefault })
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			if o.format == "json" {
				return printAll(&o, printable.Writer(cmd.OutOrStdout()), all, nil)
			}
			for _, v := range all {
				fmt.Fprintf(out, "%s\t%s\t%s\n", printable.Text(v.Key), printable.Text(v.Value), printable.Text(cmp.Or(v.Origin, string(v.Source))))
			}
			return out.Flush()
		},
	}
	flags.register(show.Flags())
	flags.registerFile(show)
	o.register(show.Flags())
	show.Flags().BoolVar(&changed, "changed", false, "leave out what is the default")
	cmd.AddCommand(show)
	return cmd
}

// notShown are flags that stand among the options, or that say what is to be shown.
var notShown = []string{defaultFlag, limitFlag, dialTimeoutFlag, "listen"}

// fallback is what holds where a flag says nothing: the variable's value, or else value.
type fallback struct{ variable, value string }

// fallbacks are those of flags whose own default is empty.
func fallbacks() map[string]fallback {
	return map[string]fallback{
		"docker-host":    {"DOCKER_HOST", "unix:///var/run/docker.sock"},
		"consul-addr":    {"CONSUL_HTTP_ADDR", "127.0.0.1:8500"},
		"etcd-endpoints": {"ETCDCTL_ENDPOINTS", "127.0.0.1:2379"},
		"run-dir":        {"", rundir.Default()},
	}
}

// shown are all values of c. set has its flags, and given those of the command line alone.
func (f *runFlags) shown(given, set *pflag.FlagSet, c *config.Config) []config.Value {
	var all []config.Value
	set.VisitAll(func(flag *pflag.Flag) {
		if slices.Contains(notShown, flag.Name) {
			return
		}
		v := config.Value{Key: flag.Name, Value: strings.Join(valuesOf(flag), ","), Source: config.FromDefault}
		other, falls := fallbacks()[flag.Name]
		switch from := given.Lookup(flag.Name); {
		case from != nil && from.Changed:
			v.Source, v.Origin = config.FromFlag, "--"+flag.Name
		case f.policy.origins[flag.Name] != "":
			v.Source, v.Origin = config.FromFile, f.policy.origins[flag.Name]
		case falls && other.variable != "" && f.lookup(other.variable) != "":
			v.Value, v.Source, v.Origin = f.lookup(other.variable), config.FromEnvironment, "$"+other.variable
		case falls:
			v.Value = other.value
		case flag.Name == modeFlag && len(c.Modes) == 0: // as LISTEN_PORT=TARGET alone has it
			v.Value, v.Source, v.Origin = "", config.FromFlag, "the command line"
		}
		if flag.Name == "admin" && v.Value == config.AdminAuto {
			v.Value = admin.DefaultPath()
		}
		all = append(all, v)
	})
	port := config.Value{Key: "port", Value: strconv.Itoa(int(c.Port)), Source: config.FromDefault}
	if f.lookup("PORT") != "" {
		port.Source, port.Origin = config.FromEnvironment, "$PORT"
	}
	all = append(all, port)
	for i := range all {
		all[i].Value = status.Redacted(all[i].Value)
	}
	for _, v := range c.Values() {
		v.Key, v.Origin = status.Redacted(v.Key), status.Redacted(v.Origin)
		v.Value = status.RedactedOption(v.Option, v.Value)
		all = append(all, v)
	}
	return append(all, f.registryVariables()...)
}

// registryVariables are the variables that are set for the registries and the engine, without what may be
// a secret of them.
func (f *runFlags) registryVariables() []config.Value {
	var all []config.Value
	for _, v := range environment {
		name := v.name
		registry := strings.HasPrefix(name, "CONSUL_") || strings.HasPrefix(name, "ETCDCTL_") || strings.HasPrefix(name, "DOCKER_")
		if text := f.lookup(name); registry && text != "" && !slices.ContainsFunc(slices.Collect(maps.Values(fallbacks())), func(o fallback) bool { return o.variable == name }) {
			if !strings.HasSuffix(name, "_FILE") && slices.ContainsFunc([]string{"TOKEN", "AUTH", "USER", "PASSWORD"}, func(word string) bool { return strings.Contains(name, word) }) {
				text = "…"
			}
			all = append(all, config.Value{Key: "$" + name, Value: status.Redacted(text), Source: config.FromEnvironment, Origin: "$" + name})
		}
	}
	return all
}
