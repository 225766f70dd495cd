#!/usr/bin/env bash
# nixl 1.4.1 with nixl-cu12 1.4.1, backend UCX, with the configuration that the Python API makes by default
# A guess: an agent that has nothing to transfer takes no processor time worth telling. Seen: its progress thread polls
# without a pause, so the process takes about a whole processor from the moment the agent is there; without that thread
# it takes none. On a machine with few cores agents that wait slow down those that transfer.
set -euo pipefail
source "$(dirname "$0")/lib.bash"
install --no-deps nixl==1.4.1 nixl-cu12==1.4.1 numpy==2.4.6
"$BIN/python" - "$WORK/seen" >"$WORK/nixl.log" <<'PY'
import sys, time
from nixl._api import nixl_agent, nixl_agent_config

def share(name, **settings):
    """Of a processor, while nothing is asked of the agent; the best of what a busy machine lets it have."""
    agent, shares = nixl_agent(name, nixl_agent_config(backends=["UCX"], **settings)), []
    for _ in range(3):
        began = time.process_time()
        time.sleep(2)
        shares.append((time.process_time() - began) / 2)
    print(f"{name}: {', '.join(f'{each:.2f}' for each in shares)} of a processor")
    return max(shares)

# the one without a thread first: the other's goes on
seen = [share("without a thread", enable_prog_thread=False) < 0.1, share("by default") > 0.4]
with open(sys.argv[1], "w") as file:
    file.write(" ".join("yes" if each else "no" for each in seen))
PY
grep "of a processor" "$WORK/nixl.log"
expect "without a thread an agent that waits takes none, by default it takes much" "$(cat "$WORK/seen")" "yes yes" || exit 1
