#!/usr/bin/env bash
# Consul 1.22.7: of a blocking query that its client gives up, an agent notices so at
# /v1/health/service alone. Any other goes on until its wait is over; the connection stays in
# CLOSE-WAIT, and it counts for limits.http_max_conns_per_client (200 by default). So a client that
# cancels and asks again, as one does whose watches come and go, gets 429 for all that it asks, and
# so does every other program at its address.
#
#   - An agent that allows 10 connections of an address is asked 10 blocking queries of one kind,
#     for 8 s, by curls that are ended after they have been sent.
#   - Then one request that does not wait is made, to another path.
#   - After 10 queries to /v1/health/service it is answered: 200. After 10 of KV, the catalogue,
#     health by state, by node and checks of a service it is refused, 429, until the 8 s are over.
# "wait" is 5 minutes by default. A client that gives queries up has to count them until then, or to ask for
# short waits.
#
# Debian 12 on amd64 or arm64 with Go 1.26, curl and iproute2. Consul is built from its module in a
# temporary folder, which takes some minutes, and listens on 127.0.0.1.
set -euo pipefail

dir=$(mktemp -d)
agent=
clean() {
	[[ -z $agent ]] || { kill "$agent" && wait "$agent"; } 2>/dev/null || true
	rm -rf "$dir"
}
trap clean EXIT
cd "$dir"
(
	go mod init finding
	go get github.com/hashicorp/consul@v1.22.7 github.com/hashicorp/consul/api@v1.34.1
	go build -mod=mod -trimpath -buildvcs=false -ldflags='-s -w' -o consul github.com/hashicorp/consul
) >/dev/null 2>&1
./consul version | sed -n 1p

port=18520
./consul agent -dev -bind 127.0.0.1 -http-port $port -server-port 18320 -serf-lan-port 18321 \
	-serf-wan-port -1 -dns-port -1 -grpc-port -1 -grpc-tls-port -1 \
	-hcl 'limits { http_max_conns_per_client = 10 }' >log 2>&1 &
agent=$!
url=http://127.0.0.1:$port/v1
until [[ $(curl -s $url/status/leader) == *:18320* ]]; do kill -0 "$agent"; done
until curl -sf -X PUT -d '{"Name": "web", "Port": 80}' $url/agent/service/register; do kill -0 "$agent"; done
until curl -sf -X PUT -d x $url/kv/key >/dev/null; do kill -0 "$agent"; done
until [[ $(curl -s $url/catalog/service/web) == *'"web"'* ]]; do kill -0 "$agent"; done

# of STATE: how many connections the agent has in that state
of() { ss -tnH state "$1" "sport = :$port" | wc -l; }
# plain: the status of a request that does not wait
plain() { curl -s -o /dev/null -w '%{http_code}' $url/status/leader; }

failed=0
for path in health/service/web kv/key catalog/services catalog/service/web health/state/critical health/node/here health/checks/web; do
	want=429
	[[ $path != health/service/* ]] || want=200
	index=$(curl -si "$url/$path" | sed -n 's/^X-Consul-Index: *\([0-9]*\).*/\1/Ip')
	began=$SECONDS queries=()
	for _ in {1..10}; do
		curl -s "$url/$path?index=$index&wait=8s" >/dev/null &
		queries+=($!)
	done
	until (( $(of established) == 10 )); do (( SECONDS - began < 6 )); done
	sleep 0.5 # until the agent has read the last of them
	kill "${queries[@]}"
	wait "${queries[@]}" 2>/dev/null || true
	sleep 0.5 # until it has read their ends
	got=$(plain)
	echo "$path: $(of close-wait) connections that are given up, and the next request: $got"
	[[ $got == "$want" ]] || failed=1
	until (( $(of close-wait) == 0 )); do (( SECONDS - began < 20 )); done
	[[ $(plain) == 200 ]] || failed=1
done
(( failed == 0 )) || { echo "it is another behaviour now" >&2; exit 1; }
echo "as described"
