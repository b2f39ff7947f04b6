package rulescmd

import (
	"strings"
	"testing"

	"github.com/ambassadord/ambassadord/netrules"
)

func TestListenPortIsReadFromTheRules(t *testing.T) {
	if got := listenPortIn(netrules.State{}); got != netrules.FirstListenPort {
		t.Errorf("without rules: %d; want the first that would be tried", got)
	}
	state, err := netrules.ParseState(netrules.IPv4, "nat", strings.Join([]string{
		"-P OUTPUT ACCEPT",
		"-N AMBASSADORD",
		"-A OUTPUT -m comment --comment ambassadord -j AMBASSADORD",
		"-A AMBASSADORD -d 127.0.0.0/8 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 61007",
		"",
	}, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := listenPortIn(state); got != 61007 {
		t.Errorf("with rules: %d; want theirs, 61007", got)
	}
}
