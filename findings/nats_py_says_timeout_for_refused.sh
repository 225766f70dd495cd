#!/usr/bin/env bash
# nats-py 2.16.0
# A guess: connecting to a port where nobody listens raises what the kernel said, ConnectionRefusedError, at once. Seen:
# it tries again and again until the caller's own time limit ends it; the reason goes to error_cb and nowhere else.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install nats-py==2.16.0
seen=$("$BIN/python" - "$(port)" <<'PY'
import asyncio, sys
import nats
async def main():
    heard = []
    async def error_cb(error):
        heard.append(type(error).__name__)
    try:
        await asyncio.wait_for(nats.connect(f"nats://127.0.0.1:{sys.argv[1]}", connect_timeout=1, error_cb=error_cb), 5)
    except Exception as error:
        print(type(error).__name__, *sorted(set(heard)))
asyncio.run(main())
PY
)
expect "what the caller gets, and what error_cb heard" "$seen" "TimeoutError ConnectionRefusedError" || exit 1
