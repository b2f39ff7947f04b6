package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/internal/option"
)

// TestValuesHaveAllThatIsSet: of a file that sets every key that is no flag, each place is the origin of
// a value.
func TestValuesHaveAllThatIsSet(t *testing.T) {
	for _, path := range []string{"testdata/valid-all.yml", "testdata/valid-policy.yml", "testdata/valid-limits.yml"} {
		file, err := parseTestdata(t, path)
		if err != nil {
			t.Fatal(err)
		}
		c := Default()
		c.Defaults, c.Targets, c.Listeners, c.Clients = []option.Layer{file.Defaults}, file.Targets, file.Listeners, file.Clients
		c.Policy.Rules, c.Limits = file.Policy, file.Limits
		got := c.Values()
		want := file.Defaults
		for _, o := range file.Targets {
			want = append(want, o.Options...)
		}
		for _, l := range file.Listeners {
			want = append(append(want, option.Setting{Text: l.Target, Origin: l.Origin}), l.Options...)
		}
		for _, s := range file.Clients {
			for _, p := range s.Ports {
				want = append(append(want, option.Setting{Text: p.Target, Origin: p.Origin}), p.Options...)
			}
		}
		for _, s := range want {
			if !slices.ContainsFunc(got, func(v Value) bool {
				return v.Source == FromFile && v.Origin == s.Origin && strings.HasSuffix(v.Key, s.Name) && v.Option == s.Name
			}) {
				t.Errorf("%s: nothing is from %s, where %s is set to %q", path, s.Origin, s.Name, s.Text)
			}
		}
		count := map[string]int{}
		for _, v := range got {
			count[v.Key]++
			key, _, _ := strings.Cut(strings.ReplaceAll(v.Key, "[", "."), ".")
			count[key]++
			if count[v.Key] > 1 {
				t.Errorf("%s: %s is there twice", path, v.Key)
			}
		}
		if count["policy"] != len(file.Policy) || count["limits"] != len(file.Limits) || count["defaults"] != len(option.All()) {
			t.Errorf("%s: %d rules, %d limits and %d defaults; want %d, %d and %d", path,
				count["policy"], count["limits"], count["defaults"], len(file.Policy), len(file.Limits), len(option.All()))
		}
	}
}
