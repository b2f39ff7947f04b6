package status

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/ambassadord/ambassadord/internal/balance"
	"github.com/ambassadord/ambassadord/internal/option"
)

func TestRedacted(t *testing.T) {
	for text, want := range map[string]string{
		"redis:6379": "redis:6379",
		`target "postgres://app:s3cret@db:5432/x": unknown`:      `target "postgres://…@db:5432/x": unknown`,
		"consul-service://redis?tag=primary&near=_agent":         "consul-service://redis?tag=primary&near=_agent",
		"consul-service://redis?tag=a&Token=s3cret&dc=dc2 | x:1": "consul-service://redis?tag=a&Token=…&dc=dc2 | x:1",
		"postgres://app:s3/c?r#et@db:5432/x":                     "postgres://…@db:5432/x",
		"postgres://app:s3@cret@db:5432/x | redis:1":             "postgres://…@db:5432/x | redis:1",
		`"app:s3/cret@db:5432" is no target`:                     `"…@db:5432" is no target`,
		"app:s3cret@tcp(db:3306)/x":                              "…@tcp(db:3306)/x",
		"consul://kv:8500/a@b":                                   "consul://kv:8500/a@b",
		"file:///etc/x@y":                                        "file:///etc/x@y",
		"mail me@example.com":                                    "mail me@example.com",
	} {
		if got := Redacted(text); got != want {
			t.Errorf("Redacted(%q) = %q; want %q", text, got, want)
		}
	}
	for name, want := range map[string]string{"check-send": "(13 bytes)", "check-expect": "(13 bytes)", "check-path": "/x?…", "policy": "/x?t=AUTH pas"} {
		if got := RedactedOption(name, "/x?t=AUTH pas"); got != want {
			t.Errorf("the option %s is shown as %q; want %q", name, got, want)
		}
	}
}

// TestNoSecretIsInTheJSON puts a URL with a password, or bytes of a check, in every text of a snapshot
// that a container or an operator could have chosen.
func TestNoSecretIsInTheJSON(t *testing.T) {
	s := full(t)
	s.Listeners[0].Options.CheckSend, s.Listeners[0].Options.CheckPath = "s3cret", "/?s3cret"
	seen := 0
	var visit func(v reflect.Value, name string)
	visit = func(v reflect.Value, name string) {
		switch {
		case v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[option.Set]():
		case v.Kind() == reflect.Pointer && !v.IsNil():
			visit(v.Elem(), name)
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
			for i := range v.Len() {
				visit(v.Index(i), name)
			}
		case v.Type() == reflect.TypeFor[balance.Check]():
			v.FieldByName("Send").SetString("s3cret")
			v.FieldByName("Expect").SetString("s3cret")
			v.FieldByName("Path").SetString("/?s3cret")
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				if f := v.Type().Field(i); f.IsExported() {
					visit(v.Field(i), f.Name)
				}
			}
		case v.Kind() == reflect.String && v.CanSet() && holdsText(name):
			v.SetString("postgres://app:s3cret@db?token=s3cret")
			seen++
		}
	}
	visit(reflect.ValueOf(s).Elem(), "")
	line, err := json.Marshal(s)
	if err != nil || bytes.Contains(line, []byte("s3cret")) {
		t.Errorf("%v: %s", err, line)
	}
	if seen < 10 || !bytes.Contains(line, []byte("postgres://…@db?token=…")) {
		t.Errorf("only %d texts were set, or none is shown: %s", seen, line)
	}
}

// holdsText reports whether the field of that name is a text that may quote a declaration: not a
// name, an ID or an address.
func holdsText(field string) bool {
	switch field {
	case "Target", "Meaning", "Origin", "Problem", "Overruled", "Error", "Why", "Notes":
		return true
	}
	return false
}
