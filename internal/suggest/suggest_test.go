package suggest

import "testing"

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"connect", "connect", 0}, {"conect", "connect", 1}, {"cnonect", "connect", 1},
		{"kitten", "sitting", 3}, {"backup", "backend", 3},
	} {
		if got := Distance(test.a, test.b); got != test.want {
			t.Errorf("Distance(%q, %q) = %d; want %d", test.a, test.b, got, test.want)
		}
		if got := Distance(test.b, test.a); got != test.want {
			t.Errorf("Distance(%q, %q) = %d; want %d", test.b, test.a, got, test.want)
		}
	}
}

func TestClosest(t *testing.T) {
	words := []string{"run", "check", "resolve", "rules", "version"}
	for word, want := range map[string]string{
		"rnu": "run", "chekc": "check", "resovle": "resolve", "rule": "rules", "redis": "", "x": "", "": "",
	} {
		if got := Closest(word, words); got != want {
			t.Errorf("Closest(%q) = %q; want %q", word, got, want)
		}
	}
}
