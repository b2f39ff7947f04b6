package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/daemon"
	"github.com/ambassadord/ambassadord/internal/events"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/logging"
	"github.com/ambassadord/ambassadord/internal/mode/link"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/resolver"
)

const rootHelp = `ambassadord lets a container dial a fixed local address and reach the service
that it declared, wherever that runs and whatever port it got.

  ambassadord run                       serve every container of this host
  docker run -l connect.6379=redis.service.consul my/app
                                        … which dials localhost:6379
  ambassadord status                    see what it knows, and what is wrong

The command lines of the first ambassadord work as they did:

  ambassadord 192.168.1.100:8080        forward the port 8080 to that address
  ambassadord redis-1:6379,redis-2:6379 … to one of a list
  ambassadord redis.service.consul      forward the port 10000, by SRV records
  ambassadord consul://127.0.0.1:8500/path
                                        … by a path in Consul's KV store
  ambassadord --links                   forward the ports of linked containers
  ambassadord --omnimode                serve the containers that link to this one
  ambassadord --setup-iptables          … and set the rules for that

PORT in the environment sets the port to listen on.

Every flag, target, reason and variable: docs/reference.md.`

// legacyFlags are the flags of the first ambassadord that say what to do.
type legacyFlags struct {
	links, omnimode, setup bool
}

func rootCommand(environ []string) *cobra.Command {
	flags := newRunFlags(environ)
	var legacy legacyFlags
	root := &cobra.Command{
		Use:           "ambassadord [TARGET]",
		Short:         "Containers dial localhost and reach what they declared",
		Long:          rootHelp,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLegacy(cmd, flags, legacy, args)
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	flags.register(root.Flags())
	root.Flags().BoolVar(&legacy.links, "links", false, "forward the ports of linked containers")
	root.Flags().BoolVar(&legacy.omnimode, "omnimode", false, "serve the containers that link to this one (run --mode link)")
	root.Flags().BoolVar(&legacy.setup, "setup-iptables", false, "set the rules of mode link in this network namespace, and exit")
	root.AddCommand(runCommand(environ), checkCommand(environ), lintCommand(environ), configCommand(environ), resolveCommand(environ), rulesCommand(environ), doctorCommand(environ), reloadCommand(), statusCommand(environ), connectionsCommand(environ), eventsCommand(environ), explainCommand(environ), endpointsCommand(environ), logLevelCommand(), drainCommand(), versionCommand(), keeperCommand(), sweeperCommand(), preparerCommand())
	return root
}

// runLegacy gives the original command lines their meaning.
func runLegacy(cmd *cobra.Command, flags *runFlags, legacy legacyFlags, args []string) error {
	if err := legacy.exclusive(args); err != nil {
		return err
	}
	cfg, err := flags.config(cmd.Flags(), nil)
	if err != nil {
		return err
	}
	kept := new(events.Log)
	log, change, flush := logging.NewBuffered(cfg, cmd.ErrOrStderr(), kept)
	defer flush()
	switch {
	case legacy.setup:
		return link.Setup(cmd.Context(), cfg.Port, log)
	case legacy.omnimode:
		cfg.Modes, cfg.RulesByOthers = []config.Mode{config.Link}, true
		cfg.TrustSources = true // as the original did
	case legacy.links:
		cfg.Modes = nil
		if cfg.Listeners, err = oneshot.LinkListeners(cmd.Context(), cfg, flags.environ, log); err != nil {
			return err
		}
	case len(args) == 1:
		cfg.Modes = nil
		if err := mistakenCommand(cmd.Root(), args[0]); err != nil {
			return err
		}
		address, err := legacyAddress(args[0], flags)
		if err != nil {
			return err
		}
		if err := mustResolve(cmd.Context(), cfg, args[0]); err != nil {
			return err
		}
		warnOfAllAddresses(log, address, args[0])
		cfg.Listeners = []config.Listener{{Address: address, Target: args[0]}}
	}
	return serve(cmd.Context(), cfg, log, daemon.Hooks{Applied: change, Events: kept})
}

func (l legacyFlags) exclusive(args []string) error {
	var given []string
	for name, set := range map[string]bool{
		"--links": l.links, "--omnimode": l.omnimode, "--setup-iptables": l.setup, "a TARGET": len(args) > 0,
	} {
		if set {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	switch {
	case len(given) > 1:
		return usage(hint.Errorf("give one of them", "%s exclude each other", strings.Join(given, " and ")))
	case len(args) > 1:
		return usage(hint.Errorf(fmt.Sprintf("for several: ambassadord run 6379=%s 8080=%s", args[0], args[1]),
			"one TARGET is expected, not %d", len(args)))
	}
	return nil
}

// warnOfAllAddresses says that address is not of one interface alone, as it was with the
// first ambassadord, which ran in a container of its own.
func warnOfAllAddresses(log *slog.Logger, address, target string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "" {
		return
	}
	log.Warn("whoever reaches this host at port "+port+" reaches the target: it listens on all addresses", "target", target,
		"hint", fmt.Sprintf("for this host alone: ambassadord --listen 127.0.0.1:%s %s", port, target))
}

// legacyAddress is where the original listens: on PORT when it is set, else on
// the target's own port, else on 10000.
func legacyAddress(target string, flags *runFlags) (string, error) {
	if flags.listen != "" {
		address, err := config.ParseAddress(flags.listen)
		return address, usage(err)
	}
	if flags.lookup("PORT") != "" {
		return net.JoinHostPort("", strconv.Itoa(int(flags.port))), nil
	}
	t, err := resolver.Parse(target)
	if err != nil {
		return "", usage(err)
	}
	port := uint16(config.DefaultPort)
	first := true
	for q := range t.Queries() {
		if q.Scheme != resolver.SchemeStatic && q.Scheme != resolver.SchemeDNS {
			return net.JoinHostPort("", strconv.Itoa(config.DefaultPort)), nil
		}
		if !first && q.Port != port {
			return "", usage(hint.Wrap(errors.New("the list names several ports, so it does not say on which to listen"),
				"add --listen PORT, or set PORT"))
		}
		port, first = q.Port, false
	}
	return net.JoinHostPort("", strconv.Itoa(int(port))), nil
}
