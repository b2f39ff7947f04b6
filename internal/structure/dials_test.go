package structure

import (
	"go/ast"
	"go/token"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unguarded are the files that dial without internal/selfconnect, by their folders.
var unguarded = []string{
	"internal/selfconnect/selfconnect.go",
	"internal/abstract/abstract.go", // sockets of the Unix domain
	"internal/control/control.go",   // likewise
	"internal/doctor/kernel.go",     // its own listener
	"proxy/internal/socket/raw.go",  // proxy/firstdial.go compares the addresses itself
}

const dialReason = "a dial of a port of the ephemeral range of this host may be answered by its own socket: " +
	"dial by internal/selfconnect"

// TestDialsAreGuarded: nobody in the daemon dials by package net or connect(2) alone, but for
// sockets of the Unix domain.
func TestDialsAreGuarded(t *testing.T) {
	for _, p := range own(t) {
		if p.isTestHelper() || strings.HasPrefix(p.folder(), "e2e/") || strings.HasPrefix(p.folder(), "bench/") {
			continue
		}
		for _, name := range p.GoFiles {
			if slices.Contains(unguarded, path.Join(p.folder(), name)) {
				continue
			}
			eachCall(t, filepath.Join(p.Dir, name), func(at token.Position, call *ast.CallExpr) {
				if dials(call) {
					t.Errorf("%s\n%s", at, dialReason)
				}
			})
		}
	}
}

// dials reports whether a call is one of package net, or connect(2), that dials by TCP or UDP.
func dials(call *ast.CallExpr) bool {
	called, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, _ := called.X.(*ast.Ident)
	switch called.Sel.Name {
	case "Connect", "SYS_CONNECT":
		return of != nil && of.Name == "unix"
	case "Dial", "DialTimeout", "DialTCP", "DialUDP":
		return of != nil && of.Name == "net"
	case "DialContext":
		if of != nil && of.Name == "selfconnect" {
			return false
		}
		if len(call.Args) < 2 {
			return true
		}
		network, isText := call.Args[1].(*ast.BasicLit)
		return !isText || network.Value != `"unix"`
	}
	return false
}
