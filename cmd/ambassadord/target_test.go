package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestMistakenCommands(t *testing.T) {
	root := rootCommand(nil)
	for _, test := range []struct{ text, meant string }{
		{"rnu", `did you mean "run"?`},
		{"RUN", `did you mean "run"?`},
		{" check ", `did you mean "check"?`},
		{"resovle", `did you mean "resolve"?`},
		{"doctro", `did you mean "doctor"?`},
		{"status", `did you mean "status"?`},
		{"stauts", `did you mean "status"?`},
		{"Status", `did you mean "status"?`},
		{"statu", `did you mean "status"?`},
		{"statsu", `did you mean "status"?`},
		{"conections", `did you mean "connections"?`},
		{"health", "ambassadord --help"},
		{"metrcs", "ambassadord --help"},
		{"top", "ambassadord --help"},
		{"ps", "ambassadord --help"},
		{"help", "ambassadord --help"},
		{"explian", `did you mean "explain"?`},

		// What the first ambassadord was told, and what may be a name.
		{"redis.service.consul", ""},
		{"status.service.consul", ""},
		{"status.", ""},
		{"192.168.1.100:8080", ""},
		{"status:6379", ""},
		{"redis-1:6379,redis-2:6379", ""},
		{"consul://127.0.0.1:8500/path", ""},
		{"docker://status:80", ""},
		{"status | a:1", ""},
		{"redis", ""},
		{"pg", ""},
		{"", ""},
	} {
		for name, refuse := range map[string]func() error{
			"alone":        func() error { return mistakenCommand(root, test.text) },
			"as an option": func() error { return mistakenTarget(root, test.text) },
		} {
			err := refuse()
			usage := new(usageError)
			if (err != nil) != (test.meant != "") || err != nil && !errors.As(err, &usage) || !strings.Contains(hint.Of(err), test.meant) {
				t.Errorf("%q %s: %v (%s); want %q", test.text, name, err, hint.Of(err), test.meant)
			}
		}
	}
}

// TestNoCommandIsTakenForATarget: not one that will be added either.
func TestNoCommandIsTakenForATarget(t *testing.T) {
	root := rootCommand(nil)
	for _, c := range root.Commands() {
		if err := mistakenTarget(root, c.Name()); err == nil && !c.Hidden {
			t.Errorf("%s is taken for a target", c.Name())
		}
	}
	for _, word := range otherCommands {
		if err := mistakenCommand(root, word); err == nil {
			t.Errorf("%s is taken for a target", word)
		}
	}
}

// TestNeverListensForAWordThatIsNobodysName, however it is written.
func TestNeverListensForAWordThatIsNobodysName(t *testing.T) {
	for _, args := range [][]string{{"nobody-of-that-name"}, {"--listen", "127.0.0.1:0", "nobody-of-that-name"}, {" status"}} {
		var out, errs strings.Builder
		args = append([]string{"--resolve-timeout", "1s"}, args...)
		code := run(context.Background(), args, nil, &out, &errs)
		if code != exitUsage || !strings.Contains(errs.String(), "hint: ") || strings.Contains(errs.String(), "listening") {
			t.Errorf("%q ends with %d and\n%s", args, code, errs.String())
		}
	}
}
