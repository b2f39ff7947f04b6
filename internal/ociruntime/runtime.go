// Package ociruntime knows which OCI runtimes give a container a network stack of its own, by what
// an engine's settings say of them.
package ociruntime

import (
	"path"
	"slices"
	"strings"

	"github.com/ambassadord/ambassadord/internal/hint"
)

// Runtime is how an engine starts containers, as its settings name it.
type Runtime struct {
	Name string
	Path string   // of its program; "" if it is a shim of containerd's
	Type string   // of such a shim, "io.containerd.runsc.v1"
	Args []string // that its program is given
}

// ownStacks are the kinds of runtime that have a network stack of their own, each by words
// of which one is in the name of its program or shim.
var ownStacks = []struct {
	kind  string
	words []string
}{
	{"gVisor", []string{"runsc", "gvisor"}},
	{"Kata Containers", []string{"kata"}},
	{"Firecracker", []string{"firecracker"}},
	{"libkrun", []string{"krun"}},
	{"urunc", []string{"urunc"}},
	{"Hyper-V", []string{"runhcs", "hyperv"}},
}

// OwnStack names the kind of the runtime if its containers have a network stack of their
// own, in a kernel of their own: their loopback is not that of the network namespace. It is
// "" if they use the host's kernel, and for what is not known.
func (r Runtime) OwnStack() string {
	for _, text := range []string{path.Base(r.Path), r.Type, r.Name} {
		// A shim is named io.containerd.NAME.VERSION, or by the path of its program.
		name := strings.ToLower(path.Base(text))
		for _, s := range ownStacks {
			if !slices.ContainsFunc(s.words, func(word string) bool { return strings.Contains(name, word) }) {
				continue
			}
			if s.kind == "gVisor" && r.usesHostStack() {
				return ""
			}
			return s.kind
		}
	}
	return ""
}

// usesHostStack reports whether runsc is told to use the kernel's stack (--network=host).
func (r Runtime) usesHostStack() bool {
	for i, arg := range r.Args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !joined && i+1 < len(r.Args) {
			value = r.Args[i+1]
		}
		if name == "network" && value == "host" {
			return true
		}
	}
	return false
}

// OwnStackError says why containers of a runtime of that kind are not served in a mode that
// works inside their network namespaces, and what to do.
func OwnStackError(runtime, kind, mode string) error {
	return hint.Errorf("serve it by its source address: run --mode "+mode+" --mode host, and let it dial 169.254.77.1:PORT; or start it by a runtime that uses the host's kernel: --runtime runc",
		"its runtime %s is %s, which has a network stack of its own: its loopback is in there, and mode %s works in the kernel's", runtime, kind, mode)
}
