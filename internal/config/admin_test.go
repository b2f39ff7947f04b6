package config

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func TestParseAdminListen(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "9100": "127.0.0.1:9100", ":9100": "127.0.0.1:9100", "0.0.0.0:9100": "0.0.0.0:9100", "[::1]:9100": "[::1]:9100", "10.0.0.1:1": "10.0.0.1:1",
	} {
		if got, err := ParseAdminListen(text); got != want || err != nil {
			t.Errorf("ParseAdminListen(%q) = %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"http", "admin.example.com:9100", "127.0.0.1", "127.0.0.1:99999", "0.0.0.0:"} {
		if got, err := ParseAdminListen(text); err == nil || hint.Of(err) == "" {
			t.Errorf("ParseAdminListen(%q) = %q, %v; want an error with a hint", text, got, err)
		}
	}
}

func TestAdminThatIsRefused(t *testing.T) {
	for want, a := range map[string]Admin{
		"would tell whoever dials it": {Listen: "127.0.0.1:9100"},
		"127.0.0.1:9101 would tell":   {Listen: "127.0.0.1:9101", Cert: "c", Key: "k"},
		"belong together":             {Listen: "127.0.0.1:9100", TokenFile: "t", Cert: "c"},
		"needs TLS":                   {Listen: "127.0.0.1:9100", ClientCA: "ca"},
		"no TCP socket":               {TokenFile: "t"},
		"no Unix socket":              {Group: "docker"},
		`does not take "admin.sock"`:  {Path: "admin.sock"},
	} {
		c := Default()
		c.Admin = a
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("%+v: %v (%s); want: %s", a, err, hint.Of(err), want)
		}
	}
	for _, a := range []Admin{{}, {Path: AdminAuto}, {Path: "/run/a.sock", Group: "docker"}, {Listen: "x", TokenFile: "t"}, {Listen: "x", Cert: "c", Key: "k", ClientCA: "ca"}} {
		c := Default()
		c.Admin = a
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", a, err)
		}
	}
}
