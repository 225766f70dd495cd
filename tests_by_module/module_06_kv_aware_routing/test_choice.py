"""What the router makes of load, and of salts and seeds that must keep caches separate or shared."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from statistics import mean

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.served import require_all_served
from fixtures.clients import access
from fixtures.clients.kv_events import KvEvents
from fixtures.clients.turns import Turns
from fixtures.load.traces import Tokens, Traces
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_06_kv_aware_routing.routing import FOLLOWS_WITHIN_S, Routed, listening, send, workers_of

pytestmark = pytest.mark.needs("kv_router")

BLOCKS = 5
# of an answer where requests a second are bounded: the longer each takes, the more are under way
PACED_TOKENS = 100


def at_once(
    deployment: Deployment, prompts: Sequence[Tokens], size: int, *, concurrency: int, max_tokens: int
) -> list[Routed]:
    """All prompts, `concurrency` at a time. Raises NotOffered where answers end before so many may be sent."""
    pace = access.of(deployment.endpoint.url).pace
    tokens = max(max_tokens, PACED_TOKENS) if pace else max_tokens
    with Threads(concurrency) as pool:
        done = list(pool.map(lambda prompt: send(deployment, prompt, size, max_tokens=tokens), prompts))
    if pace:
        require_so_many_at_once(done, concurrency, pace)
    return done


def require_so_many_at_once(done: Sequence[Routed], concurrency: int, pace: Turns) -> None:
    """Fewer at once leave the choice to chance, or to one worker that still has nothing to do: nothing is said of it.

    Raises NotOffered.
    """
    times_s = [each.took_s for each in done if not each.error]
    took_s = mean(times_s or [0])
    if times_s and (under_way := pace.per_s * took_s) < concurrency:
        raise NotOffered(
            f"it needs {concurrency} requests at once, and dynamo_attached_load keeps {under_way:.1f} under way "
            f"({pace.per_s:g} a second, answers of {took_s:.2g} s); enough is {ceil(concurrency / took_s)}"
        )


def published_by(seen: KvEvents, workers: int, blocks: int) -> dict[int, tuple[int, ...]]:
    """Hashes of the blocks that each worker has stored, once so many workers have so many in common.

    Events come after answers. With fewer after some seconds, these: what that means is the check's to say.
    """

    def look() -> tuple[dict[int, tuple[int, ...]] | None, object]:
        found.clear()
        for event in seen.look():
            if event.kind == "stored":
                found[event.worker_id] = found.get(event.worker_id, ()) + event.blocks
        alike = len(found) >= workers and len(set.intersection(*map(set, found.values()))) >= blocks
        return (found if alike else None), f"{len(found)} of {workers} workers"

    found: dict[int, tuple[int, ...]] = {}
    with suppress(DeadlineExceeded):
        wait_until(look, Deadline(FOLLOWS_WITHIN_S, "events of every worker"))
    return found


def busiest(routed: Sequence[Routed], workers: int) -> tuple[float, dict[str, int]]:
    """Requests of the busiest worker in multiples of the fair share, and the requests of each."""
    counts = Counter(f"{worker:x}" for worker in workers_of(routed))
    return max(counts.values(), default=0) * workers / max(1, len(routed)), dict(counts)


@check(
    "M06-16",
    judged="32 for each worker, 4 for each at once (not covered where `dynamo_attached_load` allows fewer): the "
    "busiest one's share",
    evidence="requests by worker",
    by_hand="send unique prompts 8 at a time, count nvext.worker_id",
)
def test_unique_prompts_are_balanced(deployment: Deployment, traces: Traces, measure: Measure, evidence: Evidence):
    """Prompts with nothing in common are spread evenly over the workers."""
    workers = len(deployment.registered_workers())
    prompts = [traces.tokens(BLOCKS * traces.block_size + 1) for _ in range(32 * workers)]
    done = at_once(deployment, prompts, traces.block_size, concurrency=4 * workers, max_tokens=8)
    share, counts = busiest(done, workers)
    evidence.table("requests by worker", ["worker", "requests"], counts.items())
    require_all_served(done)
    measure("busiest_of_fair_share", share, n=len(done))
    measure.judge()


@check(
    "M06-17",
    judged="18 for each worker, 6 for each at once (not covered where `dynamo_attached_load` allows fewer): the "
    "busiest one's share; the hit rate stays high",
    evidence="requests by worker",
    by_hand="send one hot prefix 12 at a time, count nvext.worker_id",
)
@pytest.mark.usefixtures("reuse_is_told")
def test_hot_prefix_spills_over(deployment: Deployment, traces: Traces, measure: Measure, evidence: Evidence):
    """When more requests share a prefix than one worker should carry, other workers serve it, too."""
    workers = len(deployment.registered_workers())
    size = traces.block_size
    hot = traces.tokens(BLOCKS * size)
    first = send(deployment, hot, size)
    prompts = [hot + traces.tokens(size + 1) for _ in range(18 * workers)]
    done = at_once(deployment, prompts, size, concurrency=6 * workers, max_tokens=100)
    share, counts = busiest(done, workers)
    evidence.table("requests by worker", ["worker", "requests"], counts.items())
    require_all_served([first, *done])
    measure("busiest_of_fair_share", share, n=len(done))
    measure("hit_rate", 100 * sum(bool(each.reused) for each in done) / len(done), n=len(done))
    measure.judge()


@check(
    "M06-19",
    judged="a known prompt with two salts; without one it hits",
    by_hand="send a prompt, then again with nvext.cache_salt: kv_hit_rate is 0",
    causes=[6],
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=0.8.1,<1.4",
    shows="prompts with a cache salt are predicted to hit the cache of another",
    reason="The router does not heed the cache salt of a request.",
)
def test_salted_prompts_are_not_predicted_to_hit(deployment: Deployment, traces: Traces):
    """The router keeps prompts with different cache salts separate; without a salt they hit."""
    size = traces.block_size
    prompt = traces.tokens(BLOCKS * size + 1)
    first = send(deployment, prompt, size)
    salted = [send(deployment, prompt, size, pinned_to=first.worker, cache_salt=salt) for salt in ("one", "two")]
    plain = send(deployment, prompt, size, pinned_to=first.worker)
    require_all_served((first, *salted, plain))
    assert plain.predicted == BLOCKS, f"not even the prompt without a salt is predicted to hit: {plain.told}"
    hits = [each.told for each in salted if each.predicted]
    assert not hits, f"prompts with a cache salt are predicted to hit the cache of another: {hits[0]}"


@check(
    "M06-20",
    judged="the worker's own count of reused tokens",
    by_hand="the same, and usage.prompt_tokens_details.cached_tokens is 0",
    causes=[6],
)
@pytest.mark.needs("real_engine", role="worker")
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.4,<1.5",
    shows=r"a prompt with another salt reused somebody else's blocks",
    reason="Dynamo's worker of SGLang does not give the cache salt to the engine, so that others' blocks are reused",
    engine="sglang",
)
def test_salted_prompts_reuse_nothing_of_others(deployment: Deployment, traces: Traces):
    """A worker reuses blocks of the same cache salt and none of another salt."""
    size = traces.block_size
    prompt = traces.tokens(BLOCKS * size + 1)
    first = send(deployment, prompt, size, cache_salt="one")
    again, other = (send(deployment, prompt, size, pinned_to=first.worker, cache_salt=salt) for salt in ("one", "two"))
    require_all_served((first, again, other))
    assert again.reused, f"the same salt reuses nothing, so another proves nothing: {again.told}"
    assert not other.reused, f"a prompt with another salt reused somebody else's blocks: {other.told}"


@check(
    "M06-21",
    judged="one prompt on every worker, block hashes on the wire are equal",
    evidence="block hashes",
    by_hand="tr '\\0' '\\n' < /proc/PID/environ | grep PYTHONHASHSEED",
    causes=[5],
)
@pytest.mark.needs("nats_events")
@pytest.mark.needs("real_engine", role="worker")
def test_workers_hash_alike(deployment: Deployment, traces: Traces, evidence: Evidence):
    """Every worker computes the same block hashes for the same prompt."""
    size = traces.block_size
    prompt = traces.tokens(BLOCKS * size + 1)
    with listening(deployment) as seen:
        if seen is None:
            raise CouldNotLook("block hashes can be read only where events go over NATS (dynamo_event_plane)")
        for worker in deployment.registered_workers():
            done = send(deployment, prompt, size, pinned_to=worker.instance_id)
            assert not done.error, f"{worker.hex_id}: {done.error}"
        hashes = published_by(seen, len(deployment.registered_workers()), BLOCKS)
    evidence.table("block hashes", ["worker", "hashes"], [[f"{w:x}", [f"{b:x}" for b in h]] for w, h in hashes.items()])
    assert len(hashes) > 1, f"{len(hashes)} workers published what they stored: nothing to compare"
    # others' prompts are among the events of a deployment that is shared: what all workers have is this one's
    common = set.intersection(*(set(blocks) for blocks in hashes.values()))
    alike = len(common) >= BLOCKS if deployment.shared else len(set(hashes.values())) == 1
    if not alike:
        published = (f"{worker:x}: {', '.join(f'{b:x}' for b in blocks)}" for worker, blocks in hashes.items())
        Findings(published).judge("workers publish different block hashes for the same prompt")
