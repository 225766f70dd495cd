"""The router's index follows what happens to workers, to their caches, to NATS and to the router itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.served import require_all_served
from fixtures.cluster.inventory.model import Inventory
from fixtures.load.traces import Tokens, Traces, expected_hits
from fixtures.product.deployments.deployment import READY_WITHIN_S
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.readiness import wait_until_serving
from fixtures.product.deployments.registry import RegisteredWorker
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run
from tests_by_module.module_06_kv_aware_routing.routing import (
    HEADERS,
    Index,
    Routed,
    disagreements,
    events_applied,
    replay,
    send,
)

pytestmark = pytest.mark.needs("managed", "kv_router", why="breaks")

CAPACITY = 40  # blocks of a cache that is soon full
BLOCKS = 5
FOLLOWS_WITHIN_S = 15
KNOWN, ASKED_EVERY_S = 12, 0.5
# etcd looks for expired leases every 0.5 s, and the frontend has to hear of it
BEYOND_LEASE_S = 3


@check(
    "M06-09",
    judged="a worker of 40 blocks, twice as many sent: predicted is reused, the newest hits, the oldest does not",
    evidence="table of requests",
    by_hand="a worker with few blocks; send more prefixes than fit",
    causes=[2, 7],
)
@pytest.mark.needs("managed", why="settings")
@pytest.mark.usefixtures("reuse_is_told")
def test_index_forgets_what_workers_evict(run: Run, traces: Traces, evidence: Evidence):
    """The router stops predicting blocks that a worker evicted, and still predicts those it kept."""
    size = traces.block_size
    trace = traces.more_prefixes_than_blocks(CAPACITY)
    few = ("--num-gpu-blocks-override", str(CAPACITY))
    with run.own_deployment("module_06.small", worker_args=few) as deployment:
        done = replay(deployment, trace, size, expected_hits(trace, size, CAPACITY), follow=True)
        removed = sum(count for (kind, _), count in events_applied(deployment).items() if kind == "removed")
    evidence.table("more prefixes than blocks", HEADERS, done.rows())
    require_all_served(done.routed)
    wrong = disagreements(done.routed, size)
    assert not wrong, (
        f"{len(wrong)} of {len(done.routed)} predictions are stale, workers did not reuse what was predicted: "
        f"{wrong[0]}"
    )
    assert removed, (
        f"the router applied no event of an eviction: {trace.prompt_tokens // size} blocks were sent to a cache of "
        f"{CAPACITY}"
    )
    assert done.reused == done.expected_tokens, f"expected {done.expected_tokens} reused tokens, got {done.reused}"


@contextmanager
def warm_joined_worker(
    run: Run, deployment: ManagedDeployment, traces: Traces, prompt: Tokens, on: str | None = None
) -> Iterator[tuple[Worker, RegisteredWorker, Routed]]:
    """A worker that joined (on the node of this name) and has served `prompt`, and how it answered it once more."""
    index = Index(deployment)
    with run.joined_worker(deployment, on) as worker:
        registered = deployment.wait_until_registered(worker, Deadline(READY_WITHIN_S, f"{worker.name} to register"))
        ask = partial(send, deployment, prompt, traces.block_size, pinned_to=registered.instance_id)
        before = index.stored()

        def served() -> tuple[bool | None, object]:
            answer = ask()
            return (None if answer.error else True), answer.error

        wait_until(served, Deadline(FOLLOWS_WITHIN_S, f"the joined worker {registered.hex_id} to answer"))
        index.wait_beyond(before)
        yield worker, registered, ask()


def not_predicted(worker: RegisteredWorker, again: Routed) -> str:
    """A prompt that a joined worker has served is no hit there: what was expected and seen."""
    return f"{BLOCKS} blocks of the joined worker {worker.hex_id} are to be predicted: {again.told}"


@check(
    "M06-10",
    judged="its prompt again: all blocks predicted on it",
    by_hand="start one more worker, send it a prompt twice (nvext.backend_instance_id)",
)
def test_joining_workers_cache_is_indexed(run: Run, managed: ManagedDeployment, traces: Traces):
    """The router predicts hits on what a worker that joined has stored."""
    prompt = traces.tokens(BLOCKS * traces.block_size + 1)
    with warm_joined_worker(run, managed, traces, prompt) as (_, registered, again):
        assert not again.error, f"the joined worker {registered.hex_id} does not answer: {again.error}"
        assert again.predicted == BLOCKS, not_predicted(registered, again)


@check(
    "M06-29",
    judged="a prompt that a worker on a node without the frontend has cached: predicted there, sent there, reused "
    "there",
    evidence="table",
    by_hand="the same on a node without frontend; send it to no worker by name",
    causes=[1, 14],
)
@pytest.mark.needs("multi_node")
def test_prefixes_are_found_on_other_nodes(
    run: Run, managed: ManagedDeployment, inventory: Inventory, traces: Traces, evidence: Evidence
):
    """A prompt cached on another node is predicted there, sent there and reused there."""
    size, rows, wrong = traces.block_size, [], Findings()
    for name in inventory.require_away_from_frontend():
        prompt = traces.tokens(BLOCKS * size + 1)
        with warm_joined_worker(run, managed, traces, prompt, on=name) as (_, registered, _):
            chosen = send(managed, prompt, size)
        rows.append([name, registered.hex_id, chosen.told])
        if (chosen.worker, chosen.predicted, chosen.reused) != (registered.instance_id, BLOCKS, BLOCKS * size):
            wrong.add(
                f"{name}: {BLOCKS} blocks are to be predicted and reused at worker {registered.hex_id}, which had "
                f"served the prompt: {chosen.told}"
            )
    evidence.table("a prompt that is cached on another node", ["node", "cached by", "sent again"], rows)
    wrong.judge()


@check(
    "M06-11",
    judged="after SIGTERM its prompt is answered by another, with no hit",
    by_hand="kill -TERM PID; send its prompt again",
    causes=[21, 22],
)
def test_leaving_worker_is_forgotten(run: Run, managed: ManagedDeployment, traces: Traces):
    """After a worker leaves by SIGTERM, its blocks are not predicted any more and others answer its prompts."""
    size = traces.block_size
    prompt = traces.tokens(BLOCKS * size + 1)
    with warm_joined_worker(run, managed, traces, prompt) as (worker, registered, again):
        assert again.predicted == BLOCKS, not_predicted(registered, again)
        worker.stop(Deadline(FOLLOWS_WITHIN_S, f"{worker.name} to end after SIGTERM"))
        after = [send(managed, prompt, size) for _ in range(2)]
    require_all_served(after, "after the worker had left")
    assert after[0].predicted == 0, (
        f"0 blocks are to be predicted after worker {registered.hex_id} left: {after[0].told}"
    )


@check(
    "M06-12",
    judged="after SIGKILL and restart, once the old lease is gone, nothing is predicted on it: else the index is stale",
    evidence="measurements",
    by_hand="kill -KILL -- -PGID; start it again; send its prompt again",
    causes=[7, 20],
)
def test_restarted_worker_starts_with_an_empty_index(
    run: Run, managed: ManagedDeployment, traces: Traces, measure: Measure
):
    """After a worker is killed and restarted, nothing of its former cache is predicted."""
    size = traces.block_size
    prompt = traces.tokens(BLOCKS * size + 1)
    with warm_joined_worker(run, managed, traces, prompt) as (worker, former, again):
        assert again.predicted == BLOCKS, not_predicted(former, again)
        worker.kill()
        worker.launch()

        def gone() -> tuple[bool | None, object]:
            there = [each.instance_id for each in managed.registered_workers()]
            return (None if former.instance_id in there else True), "it is still there"

        ttl = managed.settings.granted_ttl_s
        try:
            wait_until(
                gone, Deadline(ttl + BEYOND_LEASE_S, f"the registration of the killed worker {former.hex_id} to go")
            )
        except DeadlineExceeded as error:
            raise AssertionError(f"the registration is stale: {error}") from None
        # only now: both tell the same address, by which a registration is found
        anew = Deadline(managed.ready_within_s, f"{worker.name} to register again")
        restarted = managed.wait_until_registered(worker, anew)

        def answered() -> tuple[Routed | None, object]:
            answer = send(managed, prompt, size, pinned_to=restarted.instance_id)
            return (None if answer.error else answer), answer.error

        first = wait_until(answered, Deadline(FOLLOWS_WITHIN_S, f"the restarted worker {restarted.hex_id} to answer"))
    measure("blocks_predicted_after_restart", first.predicted)
    measure("tokens_reused_after_restart", first.reused)
    assert not first.predicted, (
        f"stale index: 0 blocks are to be predicted for the restarted worker {restarted.hex_id}, whose cache is empty "
        f"(killed: {former.hex_id}): {first.told}"
    )
    measure.judge()


@check(
    "M06-14",
    judged="what workers had cached before is predicted",
    evidence="measurements",
    by_hand="kill -KILL the frontend, start it again, send a known prompt",
    causes=[8, 18],
)
def test_restarted_frontend_recovers_its_index(own: ManagedDeployment, traces: Traces, measure: Measure):
    """A restarted frontend predicts what workers had cached before."""
    size = traces.block_size
    # each is asked for once only: a router that learns from its own choices must not pass for one that recovered
    known = [traces.tokens(BLOCKS * size + 1) for _ in range(KNOWN)]
    servers = [send(own, prompt, size).worker for prompt in known]
    own.frontend.kill()
    own.frontend.launch()
    served = Deadline(READY_WITHIN_S, "the restarted frontend to serve")
    wait_until_serving(own, served)
    measure("frontend_back_s", served.elapsed_s)
    recovered = Deadline((KNOWN - 2) * ASKED_EVERY_S, "the restarted frontend to know what workers have cached")
    ask = zip(known, servers, strict=True)

    def look() -> tuple[Routed | None, object]:
        prompt, server = next(ask)
        answer = send(own, prompt, size, pinned_to=server)
        return (answer if answer.predicted == BLOCKS else None), answer.told

    try:
        wait_until(look, recovered, every_s=ASKED_EVERY_S)
    except DeadlineExceeded as error:
        raise AssertionError(f"the index was not recovered: {error}") from None
    measure("index_recovered_after_s", recovered.elapsed_s)
    measure.judge()


@check(
    "M06-15",
    judged="NATS away while a prompt is stored; it is predicted after the worker's next event",
    evidence="measurement",
    by_hand="kill -KILL NATS, send prompts, start NATS again, send others",
    causes=[7, 14],
)
def test_lost_events_are_recovered(own: ManagedDeployment, traces: Traces, measure: Measure, evidence: Evidence):
    """Events lost while NATS was away are recovered with the worker's next event."""
    size = traces.block_size
    lost = traces.tokens(BLOCKS * size + 1)
    own.nats.kill()
    try:
        first = send(own, lost, size)
        unknown = send(own, lost, size, pinned_to=first.worker)
    finally:
        own.nats.start(Deadline(READY_WITHIN_S, "NATS to be back"))
    recovered = Deadline(FOLLOWS_WITHIN_S, "the router to recover events that were lost while NATS was away")

    def look() -> tuple[Routed | None, object]:
        send(own, traces.tokens(2 * size), size, pinned_to=first.worker)  # so that the worker publishes another event
        answer = send(own, lost, size, pinned_to=first.worker)
        return (answer if answer.predicted == BLOCKS else None), answer.told

    evidence.text("while NATS was away", f"{first.told}\n{unknown.told}")
    assert not first.error and not unknown.error, f"requests failed while NATS was away: {first.told}; {unknown.told}"
    assert unknown.predicted == 0, (
        f"while NATS is away no KV event reaches the router, so 0 blocks of a new prompt are to be predicted, and "
        f"it predicts {unknown.predicted}: it learns from something else than events over NATS (its own choices, with "
        f"--no-router-kv-events, or another event plane): {unknown.told}"
    )
    try:
        wait_until(look, recovered, every_s=0.2)
    except DeadlineExceeded as error:
        raise AssertionError(f"what was served while NATS was away was not recovered: {error}") from None
    measure("events_recovered_after_s", recovered.elapsed_s)
    measure.judge()
