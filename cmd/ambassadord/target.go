package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambassadord/ambassadord/internal/config"
	"github.com/ambassadord/ambassadord/internal/hint"
	"github.com/ambassadord/ambassadord/internal/oneshot"
	"github.com/ambassadord/ambassadord/internal/shorten"
	"github.com/ambassadord/ambassadord/internal/suggest"
	"github.com/ambassadord/ambassadord/resolver"
)

// otherCommands are words that people take for commands of a daemon like this one, whether
// it has them or not. None is taken for a service's name: nobody meant to forward a
// port to "status".
var otherCommands = []string{
	"completion", "config", "debug", "disable", "drain", "enable", "events", "explain", "health", "help",
	"info", "inspect", "lint", "list", "logs", "metrics", "names", "policy", "ps", "reload", "restart", "show", "start",
	"stats", "stop", "top", "trace", "update", "upgrade", "validate", "version", "watch",
}

// bareWord is text without space around it, if it is a word that might as well be a command:
// it has no port, no dot and no scheme, and is no list and no chain.
func bareWord(text string) (word string, ok bool) {
	word = strings.TrimSpace(text)
	return word, word != "" && !strings.ContainsAny(word, ".:,/|[")
}

// mistakenCommand refuses the TARGET of a command line without a command that was probably
// meant to be one of root. It says which, and how a service of that name is reached all the
// same.
func mistakenCommand(root *cobra.Command, text string) error {
	return mistaken(root, text, "unknown command %q", func(word string) string {
		return fmt.Sprintf("For a service of that name: ambassadord run %d=%s", config.DefaultPort, word)
	})
}

// mistakenTarget refuses the TARGET of a command of root that is a command itself, or nearly.
func mistakenTarget(root *cobra.Command, text string) error {
	return mistaken(root, text, "%q looks like a command, not like a target", func(word string) string {
		return fmt.Sprintf("For a service of that name write it with a dot: %s.", word)
	})
}

func mistaken(root *cobra.Command, text, what string, instead func(word string) string) error {
	word, ok := bareWord(text)
	if !ok {
		return nil
	}
	var commands []string
	for _, c := range root.Commands() {
		if !c.Hidden {
			commands = append(commands, c.Name())
		}
	}
	meant, exists := meantCommand(word, commands)
	if meant == "" {
		return nil
	}
	fix := fmt.Sprintf("did you mean %q? ", meant)
	if !exists {
		fix = "the commands are listed by: ambassadord --help. "
	}
	word = shorten.Text(word, maxShownWord)
	return usage(hint.Errorf(fix+instead(word), what, word))
}

// maxShownWord is how many bytes of a word a message quotes: a name has no more.
const maxShownWord = 253

// meantCommand finds the command that word was probably meant to be, and whether it is one
// of commands; "" if it is like none.
func meantCommand(word string, commands []string) (command string, exists bool) {
	lower := strings.ToLower(word)
	for _, known := range [][]string{commands, otherCommands} {
		if slices.Contains(known, lower) {
			return lower, slices.Contains(commands, lower)
		}
	}
	near := slices.Clone(commands)
	for _, c := range otherCommands {
		if len(c) > 3 { // every short name is an edit away from a short word
			near = append(near, c)
		}
	}
	command = suggest.Closest(lower, near)
	return command, slices.Contains(commands, command)
}

// mustResolve refuses a TARGET that is one bare word and nobody's name: whatever it was meant
// to be, there is nothing to forward to.
func mustResolve(ctx context.Context, cfg config.Config, text string) error {
	word, ok := bareWord(text)
	if !ok {
		return nil
	}
	err := oneshot.Resolve(ctx, cfg, oneshot.Question{Target: word}, slog.New(slog.DiscardHandler), func(resolver.Status) {})
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return usage(hint.Wrap(fmt.Errorf("%q is no command, and no service that can be found: %w", shorten.Text(word, maxShownWord), err),
		fmt.Sprintf("write HOST:PORT, or docker://%[1]s:PORT for a container; to wait for a service of that name: ambassadord run %[2]d=%[1]s",
			shorten.Text(word, maxShownWord), config.DefaultPort)))
}
