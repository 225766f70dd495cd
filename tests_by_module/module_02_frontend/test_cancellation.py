"""Clients that leave: the frontend and the workers notice, count it, and keep nothing."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.measure import Measure
from fixtures.clients import access
from fixtures.clients.inference import complete
from fixtures.clients.turns import Turns
from fixtures.load.from_here import LEFT, RequestRecord, run_load
from fixtures.load.plan import plan
from fixtures.product.deployments.deployment import Deployment, proxied
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_02_frontend.counters import (
    CANCELLED,
    DISCONNECTED,
    FRONTEND_IN_FLIGHT,
    OUTPUT_TOKENS,
    REQUESTS,
    STARTED,
    Snapshot,
    idle,
    idle_at_first,
    require_alone,
    snapshot,
    wait_for,
)

# far more than is generated before anybody notices; on its own it would take 10 s and more
MANY_TOKENS = 2000
NOTICED_WITHIN_S = 5
STORM = 200
# a quarter more for the storm before the first token: meanwhile the workers come to the first of them
EARLY_STORM = 250
# where requests a second are bounded: those of so many seconds, and enough that all that leak are seen
PACED_S, LEAST_STORM = 5, 30
TRIES = 5
WITHIN_S = 30
EARLY, MIDDLE, WHOLE = "before the first token", "in the middle", "of a whole answer"
AS_CANCELLED = {"status": "error", "error_type": "cancelled"}
# about 0.4 s of the mocker's time: the first token comes after its client has left
LONG_PROMPT, SHORT_PROMPT = (6000, 6000), (5, 50)
# a first token is out, and generation goes on
CHUNKS = {EARLY: None, MIDDLE: 3}


def settled(deployment: Deployment, before: Snapshot, left: int) -> Snapshot:
    def reached(now: Snapshot) -> bool:
        counts = CANCELLED if now.counts(CANCELLED) else DISCONNECTED
        return idle(now) and now.count(counts) - before.count(counts) >= left

    return wait_for(deployment, reached, NOTICED_WITHIN_S)


def judge(before: Snapshot, after: Snapshot, left: int, when: str, way: str = "") -> float:
    """How many disconnects were counted beyond the `left` that there were.

    Raises AssertionError, which begins with `way`, unless each was counted, once where it can be, and nobody has
    anything in hand any more.
    """
    held = {who: number for who, number in after.in_flight.items() if number}
    assert not held, f"{way}{NOTICED_WITHIN_S} s after {left} clients left {when} still in flight are {held}"
    if when != WHOLE:
        moved = after.count(REQUESTS, **AS_CANCELLED) - before.count(REQUESTS, **AS_CANCELLED)
        assert moved == left, f"{way}{left} clients left {when}, {REQUESTS}{AS_CANCELLED} moved by {moved:g}"
    # 1.6 counts one that leaves while its stream is being made twice: once for the request, once for the stream
    most = 2 * left if when == EARLY else left
    counted = [name for name in (CANCELLED, DISCONNECTED) if after.counts(name)]
    moved_by = {name: after.count(name) - before.count(name) for name in counted}
    for name, moved in moved_by.items():
        assert left <= moved <= most, (
            f"{way}{left} clients left {when}, {name} moved by {moved:g}, not {left} to {most}"
        )
    return moved_by[counted[0]] - left


def way_of(deployment: Deployment) -> str:
    """How what is found begins where a proxy is declared: the frontend hears from it alone that a client has left."""
    if not proxied(deployment):
        return ""
    return (
        f"the proxy at {deployment.request_url} does not pass on in time to the frontend at {deployment.frontend_url} "
        "that its client has left: "
    )


def require_came(deployment: Deployment, before: Snapshot, after: Snapshot, sent: int) -> None:
    """Raises NotOffered where a proxy has sent another frontend some of the requests."""
    came = after.count(STARTED) - before.count(STARTED)
    if proxied(deployment) and came < sent:
        raise NotOffered(
            f"the proxy asks other frontends than the one of dynamo_frontend_direct_url: {came:g} of {sent} requests "
            f"to {deployment.request_url} came to {deployment.frontend_url}"
        )


def leave(when: str, seed: int, deployment: Deployment, clients: int) -> list[RequestRecord]:
    """Records of as many `clients` at once, all of which left: as soon as the frontend has all of them, or later."""

    def in_hand() -> bool:
        return deployment.frontend_metrics(FRONTEND_IN_FLIGHT).total_or_zero(FRONTEND_IN_FLIGHT) >= clients

    early = when == EARLY
    prompts = LONG_PROMPT if early else SHORT_PROMPT
    requests = plan(seed, clients, prompts, (MANY_TOKENS, MANY_TOKENS), leave_after_chunks=CHUNKS[when])
    leave_when = in_hand if early else None
    before = snapshot(deployment)
    records = run_load(deployment.endpoint, requests, concurrency=clients, within_s=WITHIN_S, leave_when=leave_when)
    if others := [record.describe() for record in records if record.outcome != LEFT]:
        require_came(deployment, before, snapshot(deployment), clients)
    assert not others, f"{len(others)} of {clients} requests did not end with their client leaving {when}: {others[0]}"
    return records


def leave_once(when: str, run: Run, deployment: Deployment) -> int:
    """Send a request and leave it; returns how many were left.

    Raises CouldNotLook when the moment was never met; NotOffered where the pace of questions may be why.
    """
    if when == WHOLE:
        answer = complete(deployment.endpoint, "a", timeout_s=1, max_tokens=MANY_TOKENS, ignore_eos=True)
        assert "ReadTimeout" in (answer.error or ""), (
            f"the client was to give up after 1 s without an answer: {answer.describe()}"
        )
        return 1
    for times in range(1, TRIES + 1):
        (record,) = leave(when, run.seed + times, deployment, clients=1)
        # on a busy machine the first token may be quicker than we are; all that we left must be counted
        if when == MIDDLE or not record.answer.chunks:
            return times
    never = f"{TRIES} times the first token came before its client could leave"
    if pace := access.of(deployment.endpoint.url).pace:
        raise NotOffered(
            f"{never}: the frontend is asked {pace.per_s:g} times a second (dynamo_attached_load) whether it has the "
            "request; a greater number may be soon enough"
        )
    raise CouldNotLook(never)


@check(
    "M02-23",
    judged="before the first token, in the middle, of a whole answer, through the proxy where one is declared: counted "
    "once, nothing in flight, generation ends",
    evidence="measurement",
    by_hand="curl -N FRONTEND/v1/completions -d '{…}', Ctrl-C; curl FRONTEND/metrics",
    causes=[63],
)
@pytest.mark.parametrize("when", [EARLY, MIDDLE, WHOLE])
def test_client_that_leaves_is_noticed(when: str, run: Run, deployment: Deployment, measure: Measure):
    """When a client disconnects, its request is cancelled and counted, and frontend and worker stop working on it."""
    way = way_of(deployment)
    before = idle_at_first(deployment, NOTICED_WITHIN_S)
    left = leave_once(when, run, deployment)
    after = settled(deployment, before, left)
    measure("tokens_generated", after.count(OUTPUT_TOKENS) - before.count(OUTPUT_TOKENS))
    require_alone(deployment, before, after, left)
    require_came(deployment, before, after, left)
    judge(before, after, left, when, way)
    measure.judge()


@check(
    "M02-24",
    judged="200 at once before their first token, and in the middle: counted exactly, nothing in flight on frontend "
    "and workers, no file left open. Of a deployment that runs already as many in the middle as "
    "`dynamo_attached_load` allows in 5 s",
    evidence="measurement",
    by_hand="for i in $(seq 200); do timeout 0.2 curl -N FRONTEND/v1/completions -d '{…}' & done",
    causes=[63, 66],
)
@pytest.mark.parametrize(("when", "clients"), [(EARLY, EARLY_STORM), (MIDDLE, STORM)], ids=["early", "middle"])
def test_storm_of_disconnects_leaks_nothing(
    when: str, clients: int, run: Run, deployment: Deployment, measure: Measure
):
    """After 200 clients disconnect at once, all are counted, no request is left running and no file left open."""
    if proxied(deployment):
        raise NotOffered("a proxy (dynamo_frontend_url) keeps connections to the frontend open as it likes")
    if pace := access.of(deployment.endpoint.url).pace:
        clients = allowed(when, clients, pace)
    files = open_files(run, deployment)
    before = idle_at_first(deployment, NOTICED_WITHIN_S)
    records = leave(when, run.seed, deployment, clients)
    after = settled(deployment, before, clients)
    require_alone(deployment, before, after, clients)
    twice = judge(before, after, clients, when)
    if not pace:
        measure("disconnects_counted_twice", twice, n=clients)
    in_time = sum(bool(record.answer.chunks) == (when == MIDDLE) for record in records)
    if in_time < min(STORM, clients):
        raise CouldNotLook(f"only {in_time} of {clients} clients left {when}")
    measure("open_files_more", open_files(run, deployment) - files)
    good = complete(deployment.endpoint, "after the storm", max_tokens=2)
    assert good.ok, f"a good request after the storm: {good.describe()}"
    measure.judge()


def allowed(when: str, clients: int, pace: Turns) -> int:
    """How many clients leave a deployment that runs already. Raises NotOffered where so few say nothing."""
    if when == EARLY:
        raise NotOffered(
            f"before a first token {clients} clients are to be there at once, and dynamo_attached_load lets "
            f"{pace.per_s:g} a second begin"
        )
    if (many := min(clients, int(PACED_S * pace.per_s))) < LEAST_STORM:
        raise NotOffered(
            f"of {many} clients connections that leak are not seen; {LEAST_STORM} are enough "
            f"(dynamo_attached_load: {LEAST_STORM / PACED_S:g})"
        )
    return many


def open_files(run: Run, deployment: Deployment) -> int:
    """Files and connections that the frontend has open. Raises NotOffered where its process is another user's."""
    if isinstance(deployment, ManagedDeployment):
        node, pid = deployment.frontend.node, deployment.frontend.require_process().pgid
    else:
        found = run.picture().of_kind("frontend")
        if not found or found[0].pid is None:
            raise NotOffered("the frontend's process is another user's: log in as that user, or as root")
        node, pid = run.nodes()[found[0].node], found[0].pid
    listed = node.run(["ls", f"/proc/{pid}/fd"], deadline=Deadline(10, "the frontend's open files"), hidden=True)
    return len(listed.stdout.split())
