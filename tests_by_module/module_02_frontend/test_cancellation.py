"""Clients that leave: the frontend and the workers notice, count it, and keep nothing."""

import re

import httpx
import pytest

from fixtures.clients.inference import InferenceEndpoint, complete
from fixtures.deadline import Deadline
from fixtures.deployments.deployment import Deployment
from fixtures.load.plan import plan
from fixtures.load.runner import LEFT, outcomes, run_load
from fixtures.outcomes import CouldNotLook
from fixtures.run import Run
from tests_by_module.module_02_frontend.counters import (
    CANCELLED,
    DISCONNECTED,
    FRONTEND_IN_FLIGHT,
    OUTPUT_TOKENS,
    Snapshot,
    idle,
    wait_for,
)

pytestmark = pytest.mark.needs("managed")

# far more than is generated before anybody notices; on its own it would take 10 s and more
MANY_TOKENS = 2000
NOTICED_WITHIN_S = 5
STORM = 200
TRIES = 5
# the frontend has a request in hand
IN_FLIGHT = re.compile(rf"^{FRONTEND_IN_FLIGHT}{{[^}}]*}} [1-9]", re.MULTILINE)
# about 0.4 s of the mocker's time: the first token comes after its client has left
LONG_PROMPT, SHORT_PROMPT = (6000, 6000), (5, 50)


def settled(deployment: Deployment, before: Snapshot, left: int) -> Snapshot:
    def reached(now: Snapshot) -> bool:
        return idle(now) and now.count(CANCELLED) - before.count(CANCELLED) >= left

    return wait_for(deployment, reached, NOTICED_WITHIN_S)


def judge(before: Snapshot, after: Snapshot, left: int, had: str) -> None:
    """Raise AssertionError unless `left` disconnects were counted and nobody has anything in hand any more."""
    held = {who: number for who, number in after.in_flight.items() if number}
    assert not held, f"{NOTICED_WITHIN_S} s after {left} clients left {had} still in flight are {held}"
    for name in (CANCELLED, DISCONNECTED):
        moved = after.count(name) - before.count(name)
        assert moved == left, f"{left} clients left {had}, {name} moved by {moved:g}"


def leave(when: str, seed: int, http: httpx.Client, endpoint: InferenceEndpoint) -> int:
    """Send a request and leave it; returns how many were left. Raises CouldNotLook when the moment was never met."""
    if when == "of a whole answer":
        body = {"model": endpoint.model, "prompt": "a", "max_tokens": MANY_TOKENS, "ignore_eos": True}
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/completions", json=body, timeout=1)
        return 1
    early = when == "before the first token"
    leaves = (
        {"leave_when": lambda: bool(IN_FLIGHT.search(http.get("/metrics").text))}
        if early
        else {"leave_after_chunks": 3}
    )
    for times in range(1, TRIES + 1):
        one = plan(seed + times, 1, LONG_PROMPT if early else SHORT_PROMPT, (MANY_TOKENS, MANY_TOKENS), **leaves)
        (record,) = run_load(endpoint, one, concurrency=1, within_s=20)
        assert record.outcome == LEFT, record.describe()
        # on a busy machine the first token may be quicker than we are; all that we left must be counted
        if not early or not record.answer.chunks:
            return times
    raise CouldNotLook(f"{TRIES} times the first token came before its client could leave")


@pytest.mark.check(
    "M02-23", by_hand="curl -N FRONTEND/v1/completions -d '{…}', Ctrl-C; curl FRONTEND/metrics", causes=[63]
)
@pytest.mark.parametrize("when", ["before the first token", "in the middle", "of a whole answer"])
def test_client_that_leaves_is_noticed(
    when: str, run: Run, deployment: Deployment, http: httpx.Client, endpoint: InferenceEndpoint, measure
):
    """When a client leaves its request is cancelled and counted, and frontend and worker stop working on it."""
    before = wait_for(deployment, idle, NOTICED_WITHIN_S)
    left = leave(when, run.seed, http, endpoint)
    after = settled(deployment, before, left)
    measure("tokens_generated", after.count(OUTPUT_TOKENS) - before.count(OUTPUT_TOKENS))
    judge(before, after, left, when)
    measure.judge()


@pytest.mark.check(
    "M02-24",
    by_hand="for i in $(seq 200); do timeout 0.2 curl -N FRONTEND/v1/completions -d '{…}' & done",
    causes=[63, 66],
)
def test_storm_of_disconnects_leaks_nothing(run: Run, deployment: Deployment, endpoint: InferenceEndpoint, measure):
    """After 200 clients left at once in the middle, all are counted, nothing is in hand, and no file is left open."""
    before = wait_for(deployment, idle, NOTICED_WITHIN_S)
    files = open_files(deployment)
    requests = plan(run.seed, STORM, SHORT_PROMPT, (MANY_TOKENS, MANY_TOKENS), leave_after_chunks=2)
    records = run_load(endpoint, requests, concurrency=STORM, within_s=30)
    assert outcomes(records) == {LEFT: STORM}, next(r.describe() for r in records if r.outcome != LEFT)
    after = settled(deployment, before, STORM)
    judge(before, after, STORM, "in the middle")
    measure("open_files_more", open_files(deployment) - files)
    good = complete(endpoint, "after the storm", max_tokens=2)
    assert good.ok, f"a good request after the storm: {good.describe()}"
    measure.judge()


def open_files(deployment: Deployment) -> int:
    """Files and connections that the frontend has open."""
    frontend = deployment.frontend
    where = f"/proc/{frontend.require_process().pgid}/fd"
    listed = frontend.node.run(["ls", where], deadline=Deadline(10, "the frontend's open files"), hidden=True)
    return len(listed.stdout.split())
