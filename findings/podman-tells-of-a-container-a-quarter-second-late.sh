#!/usr/bin/env bash
# Podman 4.3.1: whoever follows its events where they are kept in a file
# (events_logger = "file", as on machines without systemd) hears of each 0 to 250 ms late,
# while one who asks without following (--stream=false, stream=false in the HTTP API) is
# told at once of the same event.
#
# The stream looks for what is new in the file four times a second. A container takes less
# than that to start, so a program that acts on the event of its creation, as one may with
# Docker, which tells within a millisecond or two, comes after its first instructions.
#
# Debian 12 on amd64, as root. The packages are unpacked in a temporary folder; volumes stand for
# containers, since their events go the same way and need no image.
set -euo pipefail

dir=$(mktemp -d)
follower=
clean() {
	[[ -z $follower ]] || kill "$follower" 2>/dev/null || true
	rm -rf "$dir"
}
trap clean EXIT
cd "$dir"
packages=(podman=4.3.1+ds1-8+deb12u1+b3 conmon=2.1.6+ds1-1 libgpgme11=1.18.0-3+deb12u1 libassuan0=2.5.5-5
	libsubid4=1:4.13+dfsg1-1+deb12u2)
apt-get download "${packages[@]}" >/dev/null
for package in *.deb; do dpkg-deb -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name 'libgpgme.so.11')")
export LD_LIBRARY_PATH
cat >containers.conf <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "true"
conmon_path = ["$dir/root/usr/bin/conmon"]
[engine.runtimes]
true = ["/bin/true"]
CONF
export CONTAINERS_CONF=$dir/containers.conf
podman() { "$dir/root/usr/bin/podman" --root "$dir/storage" --runroot "$dir/run" --tmpdir "$dir/tmp" --storage-driver vfs "$@"; }
podman --version

podman volume create first >/dev/null
"$dir/root/usr/bin/podman" --root "$dir/storage" --runroot "$dir/run" --tmpdir "$dir/tmp" --storage-driver vfs \
	events --filter event=create --format '{{.Time.UnixNano}} {{.Name}}' >heard &
follower=$!
: >late
for i in $(seq 12); do
	sleep "0.$((RANDOM % 90 + 10))"
	podman volume create "v$i" >/dev/null
	until read -r at name < <(grep " v$i\$" heard); do :; done
	echo "$name $((($(date +%s%N) - at) / 1000000))" >>late
done
began=$(date +%s%N)
told=$(podman events --stream=false --since 1m --filter event=create --format '{{.Name}}' | tail -1)
took=$((($(date +%s%N) - began) / 1000000))
sort -n -k2 late | awk '{ print "followed: " $1 " heard after " $2 " ms" }'
echo "asked: $told heard in $took ms, with the start of the program"

# Of 12 that are anywhere in 250 ms, the latest is nearly always beyond 100.
latest=$(sort -n -k2 late | tail -1 | cut -d' ' -f2)
[[ $told == v12 ]]
((latest >= 100))
echo "as described"
