package failover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errDenied = errors.New("denied")

// servers answer with their own name, each in its own way.
func ask(ctx context.Context, server string) (string, error) {
	how, _, _ := strings.Cut(server, " ")
	switch how {
	case "frozen":
		<-ctx.Done()
		return "", ctx.Err()
	case "refuses":
		return "", errors.New("refused")
	case "denies":
		return "", errDenied
	case "panics":
		panic("hostile")
	case "slow":
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return server, nil
}

func TestFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		servers []string
		from    string // "" if none answers
		slow    []string
		failed  int
		took    time.Duration
	}{
		"the first":                   {[]string{"well", "well 2"}, "well", nil, 0, 0},
		"the first is frozen":         {[]string{"frozen", "well"}, "well", []string{"frozen"}, 0, time.Second},
		"two are frozen":              {[]string{"frozen", "frozen 2", "well"}, "well", []string{"frozen", "frozen 2"}, 0, 2 * time.Second},
		"the first refuses":           {[]string{"refuses", "well"}, "well", nil, 0, 0},
		"refused beside a frozen one": {[]string{"frozen", "refuses", "well"}, "well", []string{"frozen"}, 0, time.Second},
		"slow is quicker than frozen": {[]string{"slow", "frozen"}, "slow", nil, 0, 2 * time.Second},
		"all refuse":                  {[]string{"refuses", "refuses 2"}, "", nil, 2, 0},
		"all are frozen":              {[]string{"frozen", "frozen 2"}, "", nil, 2, 5 * time.Second},
		"what one denies all do":      {[]string{"denies", "well"}, "", nil, 1, 0},
		"a panic is a failure":        {[]string{"panics", "well"}, "well", nil, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				began := time.Now()
				asking := Asking[string, string]{Ask: ask, Slow: time.Second, Another: func(err error) bool { return !errors.Is(err, errDenied) }}
				got, failures := asking.First(ctx, tt.servers)
				if took := time.Since(began); took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				switch {
				case (got == nil) != (tt.from == ""), len(failures) != tt.failed:
					t.Errorf("%v, %v", got, failures)
				case got != nil && (got.From != tt.from || got.Value != tt.from || !slices.Equal(got.Slow, tt.slow)):
					t.Errorf("%+v, want %s with %v slow", got, tt.from, tt.slow)
				}
			})
		})
	}
}

func TestFirstAfterTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, failures := (Asking[string, string]{Ask: ask, Slow: time.Second}).First(ctx, []string{"frozen"}); got != nil || len(failures) != 1 {
		t.Errorf("%v, %v", got, failures)
	}
}

func TestOrder(t *testing.T) {
	servers := []string{"a", "b", "c"}
	var o Order[string]
	for _, step := range []struct {
		demote string
		want   string
	}{{"", "a b c"}, {"a", "b c a"}, {"b", "c a b"}, {"a", "c b a"}, {"a", "c b a"}} {
		if step.demote != "" {
			o = o.Demote(step.demote)
		}
		if got := strings.Join(o.Sort(servers), " "); got != step.want {
			t.Errorf("after %q failed: %s, want %s", step.demote, got, step.want)
		}
	}
}
