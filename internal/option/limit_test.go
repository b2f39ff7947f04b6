package option

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/hint"
)

func limited(t *testing.T, settings ...string) Limited {
	t.Helper()
	limits := Limited{}
	for _, s := range settings {
		name, text, _ := strings.Cut(s, "=")
		o, err := Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		if limits[name], err = ParseLimit(&o, text, "--limit "+name); err != nil {
			t.Fatal(err)
		}
	}
	return limits
}

// TestLimits: a container gets what it asks for within the limits, else the nearest, and
// is told.
func TestLimits(t *testing.T) {
	for _, test := range []struct {
		limits     []string
		name, text string
		want       string
		says       string
	}{
		{[]string{"client-limit=100"}, "client-limit", "50", "50", ""},
		{[]string{"client-limit=100"}, "client-limit", "101", "100", "label: 101 is more than 100, to which --limit client-limit limits client-limit"},
		{[]string{"client-limit=100"}, "client-limit", "0", "100", "label: 0 (no limit) is more than 100, to which --limit client-limit limits client-limit"},
		{[]string{"client-rate=10"}, "client-rate", "0", "10", "0 (no limit) is more than 10"},
		{[]string{"idle-timeout=1m..1h"}, "idle-timeout", "0", "1h", "0 (off) is more than 1h"},
		{[]string{"idle-timeout=1m..1h"}, "idle-timeout", "30s", "1m", "30s is less than 1m"},
		{[]string{"idle-timeout=1m.."}, "idle-timeout", "0", "0", ""},
		{[]string{"wait=0..10s"}, "wait", "5m", "10s", "5m is more than 10s"},
		{[]string{"wait=1s.."}, "wait", "0", "1s", "0 is less than 1s"},
		{[]string{"hedge=10ms.."}, "hedge", "0", "0", ""},
		{[]string{"hedge=10ms.."}, "hedge", "1ms", "10ms", "1ms is less than 10ms"},
		{[]string{"queue=10"}, "queue", "65535", "10", "65535 is more than 10"},
		{[]string{"policy=random,first"}, "policy", "first", "first", ""},
		{[]string{"policy=random,first"}, "policy", "source", "least-connections", "source is none of random, first, which --limit policy allows; least-connections is used"},
		{[]string{"retry=deny"}, "retry", "first-byte", "dial", "retry cannot be set by a container: it is the operator's, by --limit retry; dial is used"},
		{nil, "mark", "7", "0", "mark cannot be set by a container: it is the operator's; 0 is used"},
		{[]string{"mark=allow"}, "mark", "7", "7", ""},
		{[]string{"mark=10..20"}, "mark", "7", "10", "7 is less than 10"},
		{nil, "proxy-protocol", "off", "off", ""}, // which it is anyway
		{nil, "proxy-protocol", "v2", "off", "proxy-protocol cannot be set by a container"},
		{nil, "source-address", "10.0.0.1", "", "source-address cannot be set by a container: it is the operator's; passed over"},
		{nil, "eject-after", "1", "3", "eject-after cannot be set by a container"},
		{nil, "eject-for", "24h", "10s", "eject-for cannot be set by a container"},
		{nil, "check", "tcp", "none", "check cannot be set by a container"},
	} {
		setting := Setting{Name: test.name, Text: test.text, Origin: "label", By: ByContainer}
		for place, merge := range map[string]func() (Set, []*Problem){
			"of the port":   func() (Set, []*Problem) { return MergeLimited(limited(t, test.limits...), nil, Layer{setting}) },
			"for all ports": func() (Set, []*Problem) { return MergeLimited(limited(t, test.limits...), []Layer{{setting}}, nil) },
			"after another": func() (Set, []*Problem) {
				return MergeLimited(limited(t, test.limits...), []Layer{{setting}}, Layer{setting})
			},
		} {
			set, problems := merge()
			o, _ := Lookup(test.name)
			if got := o.In(set); got != test.want {
				t.Errorf("%s %s, %v: %s gives %s; want %s", test.name, place, test.limits, test.text, got, test.want)
			}
			said := ""
			for _, p := range problems {
				said += p.Error() + "; " + p.Instead
				if hint.Of(p) == "" {
					t.Errorf("%v has no hint", p)
				}
			}
			if (said == "") != (test.says == "") || !strings.Contains(said, test.says) {
				t.Errorf("%s %s, %v: %s: says %q; want %q", test.name, place, test.limits, test.text, said, test.says)
			}
		}
		// The operator's own is not limited.
		setting.By = ByOperator
		set, problems := MergeLimited(limited(t, test.limits...), []Layer{{setting}}, nil)
		o, _ := Lookup(test.name)
		if got := o.In(set); got != test.text || len(problems) > 0 && !strings.Contains(problems[0].Error(), "does nothing") && !strings.Contains(problems[0].Error(), "which is less") {
			if test.name != "eject-for" { // which is more than the longest
				t.Errorf("%s=%s by the operator gives %s, %v", test.name, test.text, got, problems)
			}
		}
	}
}

// TestLimitsHoldForWhatNobodySets: a container that leaves an option out gets no more than
// one that asks for all.
func TestLimitsHoldForWhatNobodySets(t *testing.T) {
	limits := limited(t, "client-limit=100", "wait=1s", "slow-start=20s..", "mark=deny")
	set, problems := MergeLimited(limits, nil, nil)
	if set.ClientLimit != 100 || set.Wait.Seconds() != 1 || set.SlowStart.Seconds() != 20 || set.Mark != 0 || len(problems) > 0 {
		t.Errorf("it has %+v, %v", set, problems)
	}
	operators := Layer{{Name: "client-limit", Text: "0", Origin: "file"}}
	if set, problems := MergeLimited(limits, []Layer{operators}, nil); set.ClientLimit != 0 || len(problems) > 0 {
		t.Errorf("the operator's own: %d, %v; want no limit", set.ClientLimit, problems)
	}
	higher := Layer{{Name: "client-limit", Text: "500", Origin: "file"}}
	asks := Layer{{Name: "client-limit", Text: "500", Origin: "label", By: ByContainer}}
	if set, problems := MergeLimited(limits, []Layer{higher}, asks); set.ClientLimit != 500 || len(problems) > 0 {
		t.Errorf("what the operator gives anyway: %d, %v; want 500", set.ClientLimit, problems)
	}
}

func TestBadLimits(t *testing.T) {
	for text, want := range map[string]string{
		"client-limit=many": `"many" is not a whole number`, "client-limit=10..5": "10 is more than 5", "client-limit=..": "a limit without a bound",
		"client-limit=0..5": "0 is more than 5", // no limit
		"wait=10":           `"10" has no unit`, "policy=fastest": `"fastest" is no word that policy knows`, "check-path=/x": `"/x" is no limit`,
	} {
		name, value, _ := strings.Cut(text, "=")
		o, _ := Lookup(name)
		if _, err := ParseLimit(&o, value, ""); err == nil || !strings.Contains(err.Error(), want) || hint.Of(err) == "" {
			t.Errorf("%s: %v, hint %q; want %q", text, err, hint.Of(err), want)
		}
	}
}
