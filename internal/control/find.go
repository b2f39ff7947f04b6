package control

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Find returns the control socket of this network namespace, where there is one; of one
// daemon's several it is the shortest.
func Find() (string, error) {
	text, err := os.ReadFile("/proc/thread-self/net/unix")
	if err != nil {
		return "", fmt.Errorf("look for control sockets: %w", err)
	}
	names := listening(string(text))
	switch {
	case len(names) == 0:
		return "", hint.Wrap(ErrNobody, "start it, or run this in its network namespace")
	case len(names) > 1 && names[0] != Name:
		return "", hint.Errorf("say which with --control", "there are several control sockets: %s", strings.Join(names, ", "))
	}
	return names[0], nil
}

// listening finds control sockets in what /proc/net/unix says (proc_net(5)): Num,
// RefCount, Protocol, Flags, Type, St, Inode, Path.
func listening(text string) []string {
	const accepts = "00010000" // __SO_ACCEPTCON of linux/net.h
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 8 && f[3] == accepts && (f[7] == Name || strings.HasPrefix(f[7], Name+"/")) {
			names = append(names, f[7])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
