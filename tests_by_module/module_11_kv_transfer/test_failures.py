"""What cannot go well ends with an error, and soon; nothing hangs, and nothing is moved that must not be."""

import base64
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import pause
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import RemoteError
from fixtures.kv.pair import Operation, Pair, whole
from fixtures.kv.side import ANSWERS_WITHIN_S, Refused, Side

pytestmark = [pytest.mark.needs("nixl", "runtime", role="worker")]
BLOCK, CUT_OFF = 4096, 32
DIES_AFTER_S = 4
# for how long transfers go on, and after how long one hangs: over RDMA UCX sends seven times more before it gives up
GOES_ON_S, HANGS_AFTER_S = 20, 15
GOES_ON_OVER_RDMA_S, HANGS_OVER_RDMA_AFTER_S = 100, 90


def refusal(act: Callable[[], Any]) -> str | None:
    """What it was refused with; None when it was done."""
    try:
        done = act()
    except Refused as error:
        return str(error)
    return done.get("error_told", done["state"]) if (done or {}).get("state", "DONE") != "DONE" else None


@check(
    "M11-11",
    judged="SIGKILL under repeated READs and WRITEs: an error within the threshold, and another peer is served",
    evidence="measurement",
    by_hand="kill -KILL PID of b under repeated moves of a",
)
@pytest.mark.parametrize("operation", ["WRITE", "READ"])
def test_transfer_to_a_dead_peer_soon_ends_with_an_error(
    operation: Operation,
    inventory: Inventory,
    pair: Pair,
    survivor: Side,
    spare: Side,
    evidence: Evidence,
    measure: Measure,
) -> None:
    """A transfer to a peer that died ends with an error, and soon."""
    evidence.nodes(survivor.node.name, spare.node.name)
    dying = Pair(survivor, spare, pair.size)
    dying.connect()
    first = dying.move(operation, whole(dying.size))
    assert first["state"] == "DONE", f"transfers do not work while the peer lives: {first}"
    told: list[tuple[float, dict]] = []
    goes_on_s, hangs_after_s = GOES_ON_S, HANGS_AFTER_S
    if inventory.cluster.dynamo_kv_transport == "rdma":
        goes_on_s, hangs_after_s = GOES_ON_OVER_RDMA_S, HANGS_OVER_RDMA_AFTER_S

    def go_on() -> None:
        with suppress(RemoteError):  # told below, with how it ended
            answer = dying.move(
                operation,
                whole(dying.size),
                times=10**9,
                seconds=goes_on_s,
                hangs_after_s=hangs_after_s,
                within_s=goes_on_s + hangs_after_s + ANSWERS_WITHIN_S,
            )
            told.append((time.monotonic(), answer))

    mover = threading.Thread(target=go_on)
    mover.start()
    pause(DIES_AFTER_S, "transfers to run")
    spare.kill()
    killed = time.monotonic()
    mover.join()
    status = survivor.process.exit_status()
    assert status is None, f"the peer was killed, and the end that should outlive it ended too, with {status}"
    assert told, "the peer is dead, and the end that lives does not answer any more: it hangs"
    ((ended, answer),) = told
    evidence.note(
        "The end of it", f"{len(answer['took_s'])} transfers, then {answer['state']}: {answer.get('error_told')}"
    )
    assert answer["state"] != "PROC", f"the peer is dead, and its transfer hangs: no end within {hangs_after_s} s"
    assert answer["state"] == "ERR", f"the peer is dead, and its transfers ended with {answer['state']}"
    measure("error_after_death_s", max(0.0, ended - killed))
    still = connected_again(survivor, pair.far).move("WRITE", whole(BLOCK))
    assert still["state"] == "DONE", f"transfers to another peer do not work any more: {still}"
    measure.judge()


def connected_again(near: Side, far: Side) -> Pair:
    after = Pair(near, far, BLOCK)
    after.label = f"after {near.name}"
    after.connect()
    return after


def metadata_of(side: Side) -> bytes:
    return base64.b64decode(side.do("metadata")["metadata"])


def refusal_of(metadata: bytes, near: Side) -> str | None:
    """What `near` refused metadata with; None when it was taken."""
    return refusal(lambda: near.do("connect", metadata=base64.b64encode(metadata).decode()))


@check(
    "M11-12",
    judged="no metadata, noise, half of it, all but its end; another peer is served",
    evidence="table",
    by_hand='ask a \'{"do": "connect", "metadata": "bm9pc2U="}\'',
)
def test_wrong_metadata_is_refused(survivor: Side, spare: Side, pair: Pair, evidence: Evidence) -> None:
    """Invalid metadata is refused."""
    good = metadata_of(spare)
    wrong = {
        "nothing": b"",
        "noise": bytes(range(256)),
        "half of it": good[: len(good) // 2],
        "all but its end": good[:-CUT_OFF],
    }
    rows = [(what, refusal_of(given, survivor)) for what, given in wrong.items()]
    evidence.table("Wrong metadata", ("given", "refused with"), rows)
    taken = [what for what, error in rows if not error]
    assert not taken, f"metadata that is wrong was taken without an error: {', '.join(taken)}"
    still = connected_again(survivor, pair.far).move("WRITE", whole(BLOCK))
    assert still["state"] == "DONE", f"transfers to another peer do not work any more: {still}"


@check(
    "M11-17",
    judged="metadata of a known peer without its last 32 bytes is refused; a transfer and the whole metadata are "
    "accepted afterwards",
    evidence="table",
)
@pytest.mark.known_defect(
    issue="nixl, not reported",
    versions=">=1.4,<1.7",
    shows="the peer was known, and is not any more",
    reason="NIXL 1.3.2, 1.4.1 and 1.5.1 forget a known peer when its metadata comes truncated. Only a new "
    "process can reach it again.",
)
def test_a_peer_outlives_metadata_that_was_cut_off(survivor: Side, spare: Side, evidence: Evidence) -> None:
    """Truncated metadata is refused and leaves its peer reachable."""
    known = Pair(survivor, spare, BLOCK)
    known.connect()
    assert known.move("WRITE", whole(BLOCK))["state"] == "DONE"
    good = metadata_of(spare)
    write = partial(known.move, "WRITE", whole(BLOCK))
    rows = [("metadata without its end", refusal_of(good[:-CUT_OFF], survivor)), ("a transfer then", refusal(write))]
    rows += [("the whole metadata once more", refusal_of(good, survivor)), ("a transfer then", refusal(write))]
    evidence.table("A peer whose metadata was cut off", ("what", "refused with"), rows)
    lost = [f"{what}: {error}" for what, error in rows[1:] if error]
    Findings(lost).judge(about="the peer was known, and is not any more")


@check(
    "M11-13",
    judged="local memory, remote memory behind what is registered, more than is registered, an unknown peer",
    evidence="table",
    by_hand='ask a \'{"do": "move", …}\' with an address behind b\'s memory',
)
def test_memory_that_is_not_registered_is_refused(pair: Pair, evidence: Evidence) -> None:
    """A transfer of memory that is not registered is refused."""
    assert pair.move("WRITE", whole(BLOCK))["state"] == "DONE"  # else all of these would be refused for nothing
    pair.near.do("memory", label="unregistered", size=BLOCK, register=False)
    attempts = {
        "memory here that is not registered": lambda: pair.move("WRITE", whole(BLOCK), label="unregistered"),
        "memory there behind what is registered": lambda: pair.move("WRITE", [(0, pair.size, BLOCK)]),
        "more than is registered": lambda: pair.move("READ", whole(pair.size + BLOCK)),
        "a peer that nobody knows": lambda: pair.move("WRITE", whole(BLOCK), peer="nobody"),
    }
    rows = [(what, refusal(attempt)) for what, attempt in attempts.items()]
    evidence.table("What must be refused", ("attempt", "refused with"), rows)
    done = [what for what, refused in rows if not refused]
    assert not done, f"moved without an error: {', '.join(done)}"


@check(
    "M11-14",
    judged="remote memory, by metadata that was sent afterwards; local memory at once",
    evidence="table",
    by_hand='deregister the memory of b, connect again, then ask a \'{"do": "move", …}\'',
)
def test_memory_that_is_deregistered_is_refused(pair: Pair, spare: Side, evidence: Evidence) -> None:
    """A transfer of memory that was deregistered is refused."""
    leaving = Pair(pair.near, spare, BLOCK)
    leaving.label = "leaving"
    leaving.connect()
    assert leaving.move("WRITE", whole(BLOCK))["state"] == "DONE"
    spare.do("deregister", label="leaving")
    pair.near.do("forget", peer=spare.name)
    pair.near.do("connect", **spare.do("metadata"))
    rows = [("memory there, by metadata of afterwards", refusal(lambda: leaving.move("WRITE", whole(BLOCK))))]
    pair.near.do("deregister", label="leaving")
    rows.append(("memory here", refusal(lambda: pair.move("WRITE", whole(BLOCK), label="leaving"))))
    evidence.table("Deregistered", ("memory", "refused with"), rows)
    done = [what for what, refused in rows if not refused]
    assert not done, f"deregistered memory was moved without an error: {', '.join(done)}"
