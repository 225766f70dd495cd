"""Fixtures of module 06, and what all its checks stand on: a KV router, one block size, an index that is fed."""

from collections.abc import Iterator

import pytest

from fixtures.basics.errors import BringUpFailed, NotOffered
from fixtures.load.traces import Trace, Traces, expected_hits
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_06_kv_aware_routing.routing import (
    Index,
    Replays,
    block_size_of,
    events_applied,
    listening,
    not_offered,
    replay,
    send,
)

KV_ROUTER_CHECK, INDEX_CHECK, BLOCK_SIZE_CHECK = "M06-01", "M06-02", "M06-03"
WARM_BLOCKS = 5


@pytest.fixture(scope="package")
def kv_router(run: Run, deployment: Deployment) -> Traces:
    """Traces for this deployment, whose router was seen to be in KV mode. Raises BringUpFailed when it is not."""
    workers = deployment.registered_workers()
    for worker in workers:
        advertised = ((worker.card or {}).get("router_config") or {}).get("router_mode", "kv")
        if advertised != "kv":
            raise BringUpFailed(
                KV_ROUTER_CHECK,
                f"the model card of worker {worker.hex_id} brings a router configuration of its own with the mode "
                f"{advertised}, which replaces the frontend's: start workers without --router-mode",
            )
    traces = Traces(block_size_of(workers), run.seed, run.run_id)
    # of less than a block: an event of it would reach the index when others are waited for
    first = send(deployment, traces.tokens(traces.block_size // 2), traces.block_size)
    if first.error or first.predicted is None:
        raise BringUpFailed(
            KV_ROUTER_CHECK,
            first.error
            or "kv is declared, but the router makes no prediction of hits (nvext.timing.kv_hit_rate is "
            "absent), as in round-robin mode: look at the frontend's --router-mode and DYN_ROUTER_MODE",
        )
    return traces


@pytest.fixture(scope="package")
def traces(kv_router: Traces, deployment: Deployment) -> Traces:
    """Traces for a router that was seen to know what a worker has just stored. Raises BringUpFailed with the cause."""
    sizes = {w.hex_id: w.card["kv_cache_block_size"] for w in deployment.registered_workers() if w.card}
    if len(set(sizes.values())) > 1:
        raise BringUpFailed(
            BLOCK_SIZE_CHECK,
            f"workers register different block sizes, expected one: {sizes}",
        )
    size = kv_router.block_size
    prompt = kv_router.tokens(WARM_BLOCKS * size + size // 2)
    before = events_applied(deployment)
    index = Index(deployment)
    known = index.stored()
    with listening(deployment) as seen:
        first = send(deployment, prompt, size)
        index.wait_beyond(known)
        again = send(deployment, prompt, size, pinned_to=first.worker)
        events = seen.look() if seen else []
    if first.error or again.error:
        raise BringUpFailed(INDEX_CHECK, f"a prompt sent twice is not answered: {first.error or again.error}")
    if again.predicted == WARM_BLOCKS:
        return kv_router
    applied = sum(events_applied(deployment).values()) - sum(before.values())
    stored = sum(len(event.blocks) for event in events if event.kind == "stored")
    off = [w.hex_id for w in deployment.registered_workers() if not _publishes(w.card)]
    if off:
        why = f"KV events are not enabled on workers {', '.join(off)} (kv_event_publishing_enabled in the model card)"
    elif seen and not stored:
        why = "no KV event was published: look at the workers' event plane, NATS address and --kv-events-config"
    elif not applied:
        published = f"workers published {len(events)} KV events, " if seen else ""
        why = f"{published}the router applied none: is it on the workers' event plane?"
    else:
        whole = len(prompt)
        why = f"the router applied {applied:g} KV events"
        if stored:
            fits = f"{whole // (stored + 1) + 1} to {whole // stored}"
            why += f", workers published {stored} stored blocks, as with a block size of {fits}"
        why += f"; the block size of router and model card is {size}"
    raise BringUpFailed(
        INDEX_CHECK,
        f"a prompt of {WARM_BLOCKS} full blocks sent twice to one worker is predicted to hit {again.predicted} "
        f"(the worker reused {again.reused} tokens): {why}",
    )


def _publishes(card: dict | None) -> bool:
    return (card or {}).get("runtime_config", {}).get("kv_event_publishing_enabled", True)


@pytest.fixture(scope="package")
def reuse_is_told(run: Run) -> None:
    """Raises NotOffered where the workers do not say how many tokens of a prompt they had cached."""
    version = run.worker_version()
    silent = not_offered(version)["reuse"]
    for spec in run.inventory.with_role("worker"):
        if (engine := run.inventory.runtime(spec.worker_runtime).engine) in silent:
            raise NotOffered(
                f"the {engine} of ai-dynamo {version} does not say how many tokens of a prompt it had cached "
                "(usage.prompt_tokens_details)"
            )


@pytest.fixture(scope="package")
def replays(run: Run, deployment: Deployment, traces: Traces) -> Replays:
    """Every kind of trace, sent once through the router."""
    size = traces.block_size
    before = events_applied(deployment)
    # what nobody needs again goes first: events that are lost among these change nothing else
    chosen: list[Trace] = [traces.unique(), traces.shorter_than_a_block(), *traces.all()]
    with listening(deployment) as seen:
        _one_event_each(deployment, traces)
        run.at("module_06.events_counted", None)
        done = {
            trace.name: replay(deployment, trace, size, expected_hits(trace, size), follow=True) for trace in chosen
        }
        _one_event_each(deployment, traces)
        published = seen.look() if seen else None
        unheard = deployment.unheard_by(seen.client) if seen else None
    after = events_applied(deployment)
    applied = {what: count - before.get(what, 0) for what, count in after.items() if count != before.get(what, 0)}
    return Replays(done, published, unheard, applied)


def _one_event_each(deployment: Deployment, traces: Traces) -> None:
    """By every worker: of what it publishes before and after, an event that is lost leaves a gap in the numbers."""
    index = Index(deployment)
    for worker in deployment.registered_workers():
        before = index.stored()
        send(deployment, traces.tokens(traces.block_size + 1), traces.block_size, pinned_to=worker.instance_id)
        index.wait_beyond(before)


@pytest.fixture(scope="package")
def control(run: Run, deployment: Deployment, traces: Traces) -> Iterator[ManagedDeployment | None]:
    """The same kind of deployment with a round-robin router and two workers, clean: what KV routing is held against.

    None beside a deployment that runs already.
    """
    if deployment.shared:
        yield None
        return
    with run.own_deployment("module_06.control", workers=2, router_mode="round-robin") as deployment:
        yield deployment


@pytest.fixture(scope="package")
def own(run: Run, traces: Traces) -> Iterator[ManagedDeployment]:
    """A KV-routed deployment with two workers, for checks that restart its parts; each leaves it serving."""
    with run.own_deployment("module_06.own", workers=2) as deployment:
        yield deployment
