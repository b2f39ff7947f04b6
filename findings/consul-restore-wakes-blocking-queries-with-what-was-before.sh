#!/usr/bin/env bash
# Consul 1.22.7: a snapshot that is restored wakes every blocking query, as documented, but with
# the state of before and that state's index; and the next query, which waits for more than this
# index, is deaf for what has been restored.
#
#   - A key is "old", a snapshot is taken, the key is made "new" some times, up to index N.
#   - A query waits for more than N. PUT /v1/snapshot brings "old" back, with its own lower index.
#   - The query is answered at once: "new", X-Consul-Index N. The value that a plain query returns
#     at that moment is "old".
#   - The client goes on as it should: the index has not gone backwards, so it waits for more than
#     N again. Nothing comes until the whole wait is over, and only then does the index go
#     backwards and the value is "old".
# So the advice to begin anew when the index goes backwards comes as late as the wait is long, 5
# minutes by default. Who needs to know sooner has to ask without waiting, now and then, and
# compare the index.
#
# Debian 12 on amd64 or arm64 with Go 1.26 and curl. Consul is built from its module in a temporary
# folder, which takes some minutes, and listens on 127.0.0.1.
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

port=18500
./consul agent -dev -bind 127.0.0.1 -http-port $port -server-port 18300 -serf-lan-port 18301 \
	-serf-wan-port -1 -dns-port -1 -grpc-port -1 -grpc-tls-port -1 >log 2>&1 &
agent=$!
url=http://127.0.0.1:$port/v1
until [[ $(curl -s $url/status/leader) == *:18300* ]]; do kill -0 "$agent"; done

put() { curl -sf -X PUT -d "$1" "$url/kv/key" >/dev/null; }
# index NAME: the index of the answer that is kept as NAME
index() { sed -n 's/^X-Consul-Index: *\([0-9]*\).*/\1/Ip' "$1"; }

until put old 2>/dev/null; do :; done
curl -sf -o snapshot $url/snapshot
for _ in 1 2 3; do put new; done
curl -si "$url/kv/key?raw" >before
waited=$(index before)
echo "before: $(tail -1 before), index $waited"

curl -si "$url/kv/key?raw&index=$waited&wait=60s" >woken &
query=$!
sleep 1 # until the agent has the query
began=$SECONDS
curl -sf -X PUT --data-binary @snapshot $url/snapshot
wait "$query"
echo "woken after $((SECONDS - began)) s: $(tail -1 woken), index $(index woken)"
curl -si "$url/kv/key?raw" >after
echo "restored: $(tail -1 after), index $(index after)"
began=$SECONDS
curl -si "$url/kv/key?raw&index=$(index woken)&wait=8s" >deaf
took=$((SECONDS - began))
echo "the next query: $(tail -1 deaf), index $(index deaf), after $took s"

[[ $(tail -1 woken) == new && $(index woken) == "$waited" ]]
[[ $(tail -1 after) == old && $(tail -1 deaf) == old ]]
((took >= 8 && $(index deaf) < waited))
echo "as described"
