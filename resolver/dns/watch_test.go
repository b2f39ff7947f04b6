package dns

import (
	"context"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambassadord/ambassadord/resolver"
)

// TestWatchTime lets a watch run for two minutes of fake time.
func TestWatchTime(t *testing.T) {
	for name, test := range map[string]struct {
		holds time.Duration
		asked int // in two minutes
	}{
		"a TTL":           {10 * time.Second, 12},
		"between looks":   {7 * time.Second, 18},
		"the floor":       {New(Config{}).holds(0), 120},
		"the ceiling":     {New(Config{}).holds(24 * time.Hour), 2},
		"an absent name":  {New(Config{}).absence(24*time.Hour, "none").holds, 12},
		"longer than all": {time.Hour, 1},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig(t, "", "")
			config.FilesInterval = 0 // the default
			synctest.Test(t, func(t *testing.T) {
				asked := countLookups(t, New(config), test.holds, 2*time.Minute-time.Millisecond, nil)
				if asked != test.asked {
					t.Errorf("asked %d times, want %d", asked, test.asked)
				}
			})
		})
	}
}

func TestWatchAsksAgainWhenAFileChanges(t *testing.T) {
	for name, change := range map[string]func(Config) error{
		"resolv.conf is written":  func(c Config) error { return os.WriteFile(c.ResolvConf, []byte("search x.test"), 0o600) },
		"resolv.conf is replaced": func(c Config) error { return os.Rename(c.HostsFile, c.ResolvConf) },
		"the hosts file is gone":  func(c Config) error { return os.Remove(c.HostsFile) },
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig(t, "search a.test", "10.0.0.1 other")
			config.FilesInterval = 0
			synctest.Test(t, func(t *testing.T) {
				asked := countLookups(t, New(config), time.Hour, 6*time.Second, func() {
					if err := change(config); err != nil {
						t.Error(err)
					}
				})
				if asked != 2 {
					t.Errorf("asked %d times, want a second time within 5 s of the change", asked)
				}
			})
		})
	}
}

// countLookups counts the lookups of a watch, whose answers hold that long, for a
// time. meanwhile runs after the first.
func countLookups(t *testing.T, client *Client, holds, lasts time.Duration, meanwhile func()) (asked int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	err := client.watch(ctx, func(resolver.Answer) {
		if asked == 1 && meanwhile != nil {
			meanwhile()
		}
	}, func() (lookup, error) {
		asked++
		return lookup{answer: resolver.Answer{Note: fmt.Sprint(asked)}, holds: holds}, nil
	})
	if err != nil {
		t.Errorf("the watch ended with %v", err)
	}
	return asked
}
