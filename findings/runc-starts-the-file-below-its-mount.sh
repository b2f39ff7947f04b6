#!/usr/bin/env bash
# runc 1.5.3: where the program is a file that is mounted over another, `runc run` and
# `runc create` execute that other one, and not themselves.
#
# To keep containers from writing to its program runc starts its second stage, `runc init`,
# from a read-only overlay of the folder that /proc/self/exe is in. An overlay shows what is
# in the folder's own file system, and nothing that is mounted over a file in it. So after
# `mount --bind NEW /usr/bin/runc`, or with a runc that an engine's container has by
# `-v runc:/usr/bin/runc`,
#   - `runc --version` is the new one's, and the containers are started by the old one;
#   - over an empty file, as a mount point for one is made, every start fails by "fork/exec
#     /proc/self/fd/6: permission denied", which says nothing of it.
# A copy in its place, or the folder mounted as a whole, is started as expected.
#
# Go 1.26 with a C compiler, Linux 5.12 or newer, as root. runc is built from its Go module in
# a temporary folder; the mounts are in a namespace of their own.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf --one-file-system "$dir"' EXIT
cd "$dir"
mkdir build bin container
(
	cd build
	printf 'module build\n\ngo 1.26\n' >go.mod
	go get -tool github.com/opencontainers/runc@v1.5.3 2>/dev/null
	CGO_ENABLED=1 go build -o "$dir/runc" github.com/opencontainers/runc
	mkdir hello
	printf 'package main\n\nfunc main() { println("hello") }\n' >hello/main.go
	CGO_ENABLED=0 go build -o "$dir/hello" ./hello
)
mkdir container/rootfs
mv hello container/rootfs/
(cd container && ../runc spec)
sed -i -e 's/"terminal": true/"terminal": false/' -e 's|"sh"|"/hello"|' container/config.json

inside() {
	start() { bin/runc --root "$PWD/state" run -b container "$1" 2>&1 </dev/null | grep -E "below|hello|denied" || true; }

	printf '#!/bin/sh\necho "the file below, as $(id -un): $*" >&2\nexit 1\n' >bin/runc
	chmod 755 bin/runc
	mount --bind runc bin/runc
	echo "mounted over a script: $(bin/runc --version | head -n 1)"
	below=$(start below)
	echo "  starts: $below"
	[[ $below == *"the file below, as root: init"* && $below != *hello* ]]
	umount bin/runc

	: >bin/runc
	chmod 644 bin/runc
	mount --bind runc bin/runc
	empty=$(start empty)
	echo "mounted over an empty file: $empty"
	[[ $empty == *"permission denied"* ]]
	umount bin/runc

	rm bin/runc
	cp runc bin/runc
	copied=$(start copied)
	echo "copied: $copied"
	[[ $copied == hello ]]
}
export -f inside
unshare --mount --pid --fork --mount-proc bash -euo pipefail -c inside
echo "as described"
