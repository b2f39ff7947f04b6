package containerproc

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSelf(t *testing.T) {
	id, other := strings.Repeat("0123456789abcdef", 4), strings.Repeat("f", 64)
	tests := []struct {
		name, cgroup, mountinfo, want string
	}{
		{name: "cgroup v1", cgroup: "12:cpuset:/\n9:name=systemd:/docker/" + id + "\n", want: id},
		{name: "cgroup v2, systemd", cgroup: "0::/system.slice/docker-" + id + ".scope\n", want: id},
		{name: "child of the container's cgroup", cgroup: "0::/docker/" + id + "/init.scope\n", want: id},
		{name: "an engine in a container", cgroup: "0::/docker/" + other + "/docker/" + id + "\n", want: id},
		{name: "host", cgroup: "0::/user.slice/user-0.slice\n", mountinfo: "22 1 8:1 / / rw - ext4 /dev/sda rw\n"},
		{
			name:   "cgroup namespace of its own",
			cgroup: "0::/\n",
			mountinfo: "90 80 0:50 / / rw - overlay overlay rw,lowerdir=" + strings.Repeat("/l:", 100<<10) + "\n" +
				"94 90 8:1 /var/lib/docker/containers/" + id + "/hostname /etc/hostname rw,relatime shared:1 - ext4 /dev/sda rw\n",
			want: id,
		},
		{
			name:      "data directory elsewhere",
			mountinfo: "94 90 8:1 /srv/d/containers/" + id + "/hosts /etc/hosts rw,relatime - ext4 /dev/sda rw\n",
			want:      id,
		},
		{
			name:      "another container's file mounted on the host",
			mountinfo: "94 90 8:1 /var/lib/docker/containers/" + other + "/hosts /mnt/hosts rw,relatime - ext4 /dev/sda rw\n",
		},
		{
			name:      "container:ID has the files of that one",
			cgroup:    "0::/docker/" + id + "\n",
			mountinfo: "94 90 8:1 /var/lib/docker/containers/" + other + "/hosts /etc/hosts rw,relatime - ext4 /dev/sda rw\n",
			want:      id,
		},
		{name: "Podman, cgroupfs", cgroup: "0::/libpod_parent/libpod-" + id + "\n", want: id},
		{
			name:      "Podman, cgroup namespace of its own",
			cgroup:    "0::/\n",
			mountinfo: "197 191 0:24 /containers/storage/overlay-containers/" + id + "/userdata/hosts /etc/hosts rw,relatime - tmpfs tmpfs rw\n",
			want:      id,
		},
		{name: "too short", cgroup: "0::/docker/" + id[:63] + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := Self(context.Background(), writeFile(t, tt.cgroup), writeFile(t, tt.mountinfo))
			if got != tt.want || ok != (tt.want != "") {
				t.Errorf("Self: %q, %t, want %q", got, ok, tt.want)
			}
		})
	}
	if got, ok := Self(context.Background(), filepath.Join(t.TempDir(), "missing")); ok {
		t.Errorf("Self without files: %q, want none", got)
	}
}
