#!/usr/bin/env bash
# ai-dynamo 1.6.1
# A guess: what a process of Dynamo writes for itself goes when it ends. Seen: each start, also one for --help, writes a
# logging configuration for SGLang into the folder for temporary files and leaves it there, whatever the engine is.
# A supervisor that restarts workers, and probes that call --help, fill /tmp; a TMPDIR of the process's own avoids it.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
mkdir "$WORK/tmp"
for _ in 1 2 3; do TMPDIR=$WORK/tmp "$BIN/python" -m dynamo.frontend --help >/dev/null; done
expect "files left by three starts" "$(find "$WORK/tmp" -name '*.json' | wc -l)" 3 || exit 1
expect "of which for SGLang" "$(grep -l sglang "$WORK"/tmp/*.json | wc -l)" 3 || exit 1
TMPDIR=$WORK/tmp "$BIN/python" -c 'import dynamo.frontend'
expect "files after an import alone" "$(find "$WORK/tmp" -name '*.json' | wc -l)" 3 || exit 1
