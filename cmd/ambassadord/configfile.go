package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/option"
)

const configFlag = "config"

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
	if f.configFile == "" {
		return fresh.config(set, args)
	}
	file, err := config.ReadFile(f.configFile, fileKeys(set))
	if err != nil {
		return config.Config{}, usage(err)
	}
	layers, err := fresh.take(set, file)
	if err != nil {
		return config.Config{}, usage(err)
	}
	c, err := fresh.config(set, args)
	if err != nil {
		return c, err
	}
	c.Defaults = append(layers, c.Defaults...)
	c.Targets, c.Clients = file.Targets, file.Clients
	c.Policy.Rules = append(c.Policy.Rules, file.Policy...)
	c.Limits = limitsOver(file.Limits, c.Limits)
	for _, l := range file.Listeners {
		if l.AcceptProxyFrom == nil {
			l.AcceptProxyFrom = fresh.options.proxies
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
