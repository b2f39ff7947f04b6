package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/doctor"
	"github.com/ambassadord/ambassadord/internal/explain"
	"github.com/ambassadord/ambassadord/internal/operate"
	"github.com/ambassadord/ambassadord/internal/printable"
	"github.com/ambassadord/ambassadord/netrules/filter"
)

const doctorHelp = `Check whether the daemon would work on this host, and say what to do where not.

Run it as the daemon is run: as the same user, or in the same container with the
same options. It changes nothing: what the kernel can do is tried in a network
namespace of its own, which is thrown away.

It prints a line for each check, ok, warn or fail, and ends with the worst of
them: 0 if all is ok, 1 if something fails, 3 if there are warnings at most.`

func doctorCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	var out output
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this host and say what to do",
		Long:  doctorHelp,
		Example: `  ambassadord doctor
  ambassadord doctor --mode listen -o json`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			modes, err := config.ParseModes(flags.modes)
			if err != nil {
				return usage(err)
			}
			if err := (&config.Config{Rules: flags.rules}).ValidRules(); err != nil {
				return usage(err)
			}
			etcd := flags.etcdEndpoints
			if given := flags.lookup("ETCDCTL_ENDPOINTS"); len(etcd) == 0 && given != "" {
				etcd = strings.Split(given, ",")
			}
			checks := doctor.Checks(cmd.Context(), doctor.Options{
				Modes:      modes,
				DockerHost: flags.dockerHost,
				ConsulAddr: cmp.Or(strings.Join(flags.consulAddrs, ","), flags.lookup("CONSUL_HTTP_ADDR")),

				EtcdEndpoints: etcd,
				RunDir:        flags.runDir,
				Rules:         filter.Kind(flags.rules),
			})
			report := doctor.Run(cmd.Context(), checks)
			if err := cmd.Context().Err(); err != nil {
				return err // what was cut short would read as warnings
			}
			if err := printReport(cmd.OutOrStdout(), out, report); err != nil {
				return err
			}
			return exitWith(report.Status)
		},
	}
	flags.registerMode(cmd.Flags())
	flags.registerRules(cmd.Flags())
	flags.registerEndpoints(cmd.Flags())
	registerRunDir(cmd.Flags(), &flags.runDir)
	out.register(cmd.Flags())
	return cmd
}

// exitWith is the exit code of a report, as an error where it is not 0.
func exitWith(worst doctor.Status) error {
	switch worst {
	case doctor.OK:
		return nil
	case doctor.Warn:
		return exitStatus(exitWarning)
	}
	return exitStatus(exitFailure)
}

// printReport prints a line for each finding, and below it what to do; or all as
// one JSON object.
func printReport(w io.Writer, out output, report doctor.Report) error {
	if out.format == "json" {
		return encodeJSON(w, report)
	}
	width := 0
	for _, f := range report.Findings {
		width = max(width, len(f.Name))
	}
	for _, f := range report.Findings {
		fmt.Fprintf(w, "%-4s  %-*s  %s\n", f.Status, width, f.Name, f.Summary)
		if f.Hint != "" {
			fmt.Fprintf(w, "%-4s  %-*s  hint: %s\n", "", width, "", f.Hint)
		}
	}
	return nil
}

const explainHelp = `Show why a connection of CONTAINER to localhost:PORT goes where it goes, or fails: the
daemon, the container and its network, the rule, the declaration and what looks like
one, the target with its sources and endpoints, limits, the policy, the last failure;
then the verdict in one sentence, and what to do.

CONTAINER is a name, the beginning of an ID, or a service of Compose (PROJECT/SERVICE
where several projects have it). Run it as root on the host: it then looks into the
container's network namespace. Where no daemon runs it asks the engine and the sources
itself, with the flags of run, and says so.

It changes nothing. With --dial it makes one connection from inside of the container's
network namespace, as the container would, sends nothing, and shows what becomes of it.

It ends with 0 if nothing is wrong, 1 if connections fail, 3 if something may be wrong.
With -o json it prints one object, which docs/explain.md describes.`

func explainCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	var out output
	var dial bool
	cmd := &cobra.Command{
		Use:   "explain CONTAINER PORT",
		Short: "Show why a container's connection to a port goes where it goes, or fails",
		Long:  explainHelp,
		Example: `  ambassadord explain shop-app-1 6379
  ambassadord explain app 6379 --dial
  ambassadord explain shop/app 6379 -o json`,
		Args: exactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			port, err := config.ParsePort(args[1])
			if err != nil {
				return usage(err)
			}
			cfg, err := flags.load(cmd.Flags(), nil)
			if err != nil {
				return err
			}
			d := operate.At(cfg.Admin.Path)
			defer d.Close()
			e, err := explain.Ask(cmd.Context(), explain.Question{Container: args[0], Port: port, Dial: dial}, explain.Means{Config: cfg, Daemon: d})
			if err != nil {
				return err
			}
			if out.format == "json" {
				if err := encodeJSON(printable.Writer(cmd.OutOrStdout()), e); err != nil {
					return err
				}
			} else {
				operate.WriteExplanation(cmd.OutOrStdout(), e, styleOf(cmd, environ))
			}
			switch e.Verdict.State {
			case explain.Broken:
				return exitStatus(exitFailure)
			case explain.Doubtful:
				return exitStatus(exitWarning)
			case explain.OK:
			}
			return nil
		},
	}
	flags.register(cmd.Flags())
	flags.registerFile(cmd)
	cmd.Flags().BoolVar(&dial, "dial", false, "make one connection from inside of the container's network namespace, and show what becomes of it")
	out.register(cmd.Flags())
	return cmd
}
