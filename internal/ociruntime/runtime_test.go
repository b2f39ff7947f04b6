package ociruntime

import "testing"

func TestOwnStack(t *testing.T) {
	for want, all := range map[string][]Runtime{
		"gVisor": {
			{Name: "runsc", Path: "/usr/local/bin/runsc"}, {Name: "sandboxed", Path: "/opt/gvisor/runsc"}, {Name: "gvisor"},
			{Name: "io.containerd.runsc.v1"}, {Name: "x", Type: "io.containerd.runsc.v1"}, {Name: "x", Path: "/usr/bin/runsc", Args: []string{"--network=sandbox"}},
		},
		"Kata Containers": {
			{Name: "kata"}, {Name: "secure", Path: "/usr/bin/kata-runtime"}, {Name: "io.containerd.kata-fc.v2"}, {Name: "x", Type: "io.containerd.kata.v2"},
			{Name: "/opt/kata/bin/containerd-shim-kata-v2"},
		},
		"libkrun":     {{Name: "krun"}},
		"Firecracker": {{Name: "aws.firecracker"}},
		"": {
			{}, {Name: "runc", Path: "runc"}, {Name: "crun", Path: "/usr/bin/crun"}, {Name: "io.containerd.runc.v2"}, {Name: "sysbox-runc"},
			{Name: "nvidia", Path: "/usr/bin/nvidia-container-runtime"}, {Name: "youki"}, {Name: "oci"},
			{Name: "runsc", Path: "/usr/bin/runsc", Args: []string{"--network=host"}}, {Name: "runsc", Path: "/usr/bin/runsc", Args: []string{"-network", "host"}},
		},
	} {
		for _, r := range all {
			if got := r.OwnStack(); got != want {
				t.Errorf("%+v: %q; want %q", r, got, want)
			}
		}
	}
}
