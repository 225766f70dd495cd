"""What Dynamo publishes over NATS while a known load runs."""

from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.dynamo_versions import dialect
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.clients.kv_events import KvEvent, lost_events, where_lost
from fixtures.clients.kv_events import kv_events as listening
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import (
    PUBLISHED_WITHIN_S,
    STORED_HEADERS,
    Asked,
    Published,
    ask,
    block_sizes,
    blocks_filled,
    blocks_stored,
    chains,
    kv_events,
    misnumbered,
    unique_prompt,
    unmatched,
    wait_for_blocks,
)

# of a frontend that is told of a worker when the worker is in etcd already
ANSWERS_WITHIN_S = 5
# these come with every load; the others of a version depend on the number of frontends and their router
ALWAYS = ("kv-events", "kv_metrics", "forward-pass-metrics")
SMALL_CACHE_BLOCKS = 48
# a message each: of so many, one that is lost in 20 is missed
SHORT_REQUESTS = 40


def until_each_has_answered(deployment: Deployment, workers: int) -> None:
    """Requests shorter than a block, until so many workers have had one. Raises DeadlineExceeded."""
    seen: set[int] = set()

    def look() -> tuple[bool | None, object]:
        seen.add(ask(deployment, "ready?", max_tokens=1).worker_id)
        return len(seen) >= workers or None, f"{len(seen)} of {workers} workers"

    wait_until(look, Deadline(ANSWERS_WITHIN_S, "each worker to answer"))


@check(
    "M05-07",
    judged="everything captured under a known load: the version's topics are there, nothing else is",
    evidence="table of subjects",
    by_hand="nats sub '>'",
    causes=[1, 12],
)
@pytest.mark.smoke
def test_subjects_are_those_of_the_version_and_plane(deployment: Deployment, published: Published, evidence: Evidence):
    """On the event plane nats, a load appears on this version's subjects and no others; on zmq, on none."""
    settings = deployment.settings
    known = {deployment.subject(topic): topic for topic in settings.dialect.events.subjects}
    counts = Counter(each.subject for each in published.messages)
    sizes = Counter({subject: 0 for subject in counts})
    for each in published.messages:
        sizes[each.subject] += len(each.data)
    requests = settings.dialect.events.request_subject.partition("-")[0].format(
        namespace=settings.namespace,
        component=settings.dialect.worker_component["aggregated"],
        endpoint=settings.dialect.worker_endpoint,
    )
    mine = {s for s in counts if settings.namespace in s.split(".") or s.startswith(requests)}
    rows = [[known.get(s, "request" if s.startswith(requests) else "other"), s, counts[s], sizes[s]] for s in counts]
    rows += [[topic, subject, 0, 0] for subject, topic in known.items() if subject not in counts]
    evidence.table("subjects", ["topic", "subject", "messages", "bytes"], sorted(rows))
    on_nats = settings.event_plane == "nats"
    expected = {subject for subject, topic in known.items() if on_nats and topic in ALWAYS}
    allowed = {s for s in mine if (on_nats and s in known) or (settings.request_plane == "nats" and s not in known)}
    wrong = [f"nothing was published as {known[s]} on {s}" for s in sorted(expected - mine)]
    wrong += [f"unknown to this version on this plane: {s} ({counts[s]} messages)" for s in sorted(mine - allowed)]
    Findings(wrong).judge()


@check(
    "M05-08",
    judged="no stream names the deployment's namespace after the load",
    evidence="table of streams",
    by_hand="curl MONITOR/jsz?streams=true",
    causes=[11],
)
def test_nothing_of_dynamo_is_kept_in_jetstream(deployment: Deployment, published: Published, evidence: Evidence):
    """A version without durable KV events leaves no stream in JetStream."""
    namespace = deployment.settings.namespace
    assert published.asked, "no load: nothing could have been kept"
    with deployment.nats_client() as client:
        streams = client.streams()
    evidence.table("streams", ["stream", "subjects", "messages"], [
        [each.config.name, " ".join(each.config.subjects or []), each.state.messages] for each in streams
    ])  # fmt: skip
    names = {namespace.lower(), namespace.lower().replace("_", "-")}
    mine = [each for each in streams if any(n in f"{each.config.name} {each.config.subjects}".lower() for n in names)]
    kept = Findings(f"{each.config.name} ({each.state.messages} messages, {each.state.bytes} bytes)" for each in mine)
    kept.judge("this deployment has a stream in JetStream, and this version consumes none")


@check(
    "M05-09",
    judged="each request's stored blocks form one chain as long as its tokens fill",
    evidence="table by request",
    by_hand="nats sub 'namespace.*.component.*.endpoint.*.kv-events'",
    causes=[1, 3, 14],
)
@pytest.mark.needs("nats_events")
def test_kv_events_match_the_prompts(deployment: Deployment, published: Published, evidence: Evidence):
    """Each request's blocks are published as stored, as many as its tokens fill, in one chain."""
    rows, wrong = unmatched(published.asked, published.events, published.block_sizes)
    evidence.table("stored", STORED_HEADERS, rows)
    Findings(wrong).judge()


@check(
    "M05-10",
    judged="each publisher's sequence under 40 short requests: none missing, none twice, in order; what is missing was "
    "lost before NATS or after it, by NATS's own count",
    by_hand="nats sub 'namespace.*.component.*.endpoint.*.kv-events'; curl MONITOR/connz",
    causes=[7, 14],
)
@pytest.mark.needs("nats_events")
def test_kv_events_are_numbered_without_gaps(deployment: Deployment):
    """Each publisher numbers its messages without gaps: none was lost and none came twice."""
    nats_url, subject = deployment.reach(deployment.settings.nats_url), deployment.subject("kv-events")
    with listening(nats_url, subject) as seen:
        # one after the other: what a worker stores at once it publishes in one message
        asked = [ask(deployment, unique_prompt(8), max_tokens=1) for _ in range(SHORT_REQUESTS)]
        blocks = blocks_filled(asked, block_sizes(deployment))
        events = wait_for_blocks(seen.look, blocks)
        where = where_lost(deployment.unheard_by(seen.client))
    lost = Findings(lost_events(events))
    lost.judge(about=f"KV events were lost {where}")
    wrong = misnumbered(events)
    Findings(wrong).judge()
    missing = blocks - blocks_stored(events)
    assert missing <= 0, f"KV events were lost {where}: those of {missing} of {blocks} blocks, the last of a worker"


class SmallCaches(NamedTuple):
    twice: list[Asked]
    first: list[KvEvent]  # of these requests
    events: list[KvEvent]  # of these and of the requests that filled the caches
    block_sizes: list[int]


@pytest.fixture(scope="module")
def small_caches(run: Run) -> SmallCaches:
    """Two workers with small caches, asked in turn: each of the first two prompts twice, so once on each worker.

    Raises NotOffered.
    """
    dialect(run.product_version()).require_workers_named_in("round-robin")
    settings: dict[str, Any] = {
        "router_mode": "round-robin",
        "event_plane": "nats",
        "worker_args": ("--num-gpu-blocks-override", str(SMALL_CACHE_BLOCKS), "--speedup-ratio", "1000"),
    }
    with run.own_deployment("module_05.caches", workers=2, **settings) as deployment:
        workers = deployment.registered_workers()
        sizes = [require(each.card, f"model card of worker {each.hex_id}")["kv_cache_block_size"] for each in workers]
        with suppress(DeadlineExceeded):  # workers with other blocks than the rest are never asked: the check says so
            until_each_has_answered(deployment, len(sizes))
        subject = deployment.subject("kv-events")
        with deployment.nats_client() as client, client.capture(subject) as messages:
            heard = partial(kv_events, client, messages, subject)
            twice = [ask(deployment, prompt) for prompt in (unique_prompt(20), unique_prompt(30)) for _ in range(2)]
            blocks = sum((each.tokens - 1) // max(sizes) for each in twice)
            first = wait_for_blocks(heard, blocks)
            asked = [ask(deployment, unique_prompt(40), max_tokens=2) for _ in range(10)]
            blocks += sum((each.tokens - 1) // max(sizes) for each in asked)
            return SmallCaches(twice, first, wait_for_blocks(heard, blocks), sizes)


class OfBoth(NamedTuple):
    """Each prompt asked of one worker and of another, the KV events meanwhile, and the workers' block sizes."""

    pairs: list[tuple[Asked, Asked]]
    events: list[KvEvent]
    block_sizes: list[int]

    def prefixes(self, one: Asked, other: Asked) -> list[set[tuple[int, ...]]]:
        """The chains that begin with so many blocks as the prompt fills, of the one worker and of the other."""
        whole = one.answer.counted("prompt_tokens") // max(self.block_sizes)
        return [
            {tuple(chain[:whole]) for chain in chains(self.events, each.worker_id) if len(chain) >= whole}
            for each in (one, other)
        ]


@pytest.fixture(scope="module")
def of_both(request: pytest.FixtureRequest, deployment: Deployment) -> OfBoth:
    """Asked in turn of workers of its own; or by name of those that run already. Raises NotOffered."""
    if not deployment.shared:
        twice, events, _, own_sizes = request.getfixturevalue("small_caches")
        return OfBoth([(twice[0], twice[1]), (twice[2], twice[3])], events, own_sizes)
    if deployment.settings.event_plane != "nats":
        raise NotOffered("events do not go over NATS: DYN_EVENT_PLANE=nats of frontend and workers puts them there")
    sizes = block_sizes(deployment)
    if len(sizes) < 2:
        raise NotOffered("it needs two workers, and one is registered")
    named, subject = list(sizes)[:2], deployment.subject("kv-events")
    with deployment.nats_client() as client, client.capture(subject) as messages:
        asked = [[ask(deployment, prompt, of=each) for each in named] for prompt in map(unique_prompt, (20, 30))]
        pairs = [(one, other) for one, other in asked]
        if any([one.worker_id, other.worker_id] != named for one, other in pairs):
            raise NotOffered("the router does not send requests to the worker that they name")

        def look() -> tuple[OfBoth | None, object]:
            found = OfBoth(pairs, kv_events(client, messages, subject), [sizes[each] for each in named])
            return (found if all(all(found.prefixes(*pair)) for pair in pairs) else None), "not all chains yet"

        with suppress(DeadlineExceeded):  # the check says what is not there
            return wait_until(look, Deadline(PUBLISHED_WITHIN_S, "the workers' KV events"))
        return OfBoth(pairs, kv_events(client, messages, subject), [sizes[each] for each in named])


@check(
    "M05-11",
    judged="one prompt asked of both: the chains published for it begin alike",
    evidence="the hashes",
    by_hand="ask both workers the same; compare block_hash in their KV events",
    causes=[4, 5],
)
def test_the_same_prefix_has_the_same_hashes_on_two_workers(of_both: OfBoth, evidence: Evidence):
    """Two workers publish the same block hashes for the same prompt, so that a router can match them."""
    wrong = Findings()
    for one, other in of_both.pairs:
        assert one.worker_id != other.worker_id, (
            f"asked in turn, one worker answered both times; the workers' block sizes are {of_both.block_sizes}"
        )
        prefixes = of_both.prefixes(one, other)
        size = max(of_both.block_sizes)
        whole = one.answer.counted("prompt_tokens") // size
        evidence.text(f"{whole} blocks", "\n".join(str(each) for each in prefixes))
        if not all(prefixes):
            wrong.add(f"no chain of {whole} blocks of {size} was published by both workers")
        elif not prefixes[0] & prefixes[1]:
            wrong.add(f"the hashes of {whole} equal blocks differ between the workers")
    wrong.judge()


@check(
    "M05-12",
    judged="caches of 48 blocks: removed > 0, only what was stored, never more held than fits",
    evidence="measurements",
    by_hand="--num-gpu-blocks-override 48; nats sub '>'; look for removed",
    causes=[7, 21],
)
@pytest.mark.needs("managed", why="settings")
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.3,<1.4",
    shows="most_blocks_held_by_events = 56 blocks",
    reason="By its events a mocker whose cache has 48 blocks holds 56.",
    engine="mocker",
)
def test_what_a_full_cache_drops_is_published_as_removed(small_caches: SmallCaches, measure: Measure):
    """A worker whose cache is full publishes the blocks that it drops, and never holds more than fits."""
    _, _, events, _ = small_caches
    held: dict[int, set[int]] = {}
    removed, strange, most = 0, 0, 0
    for event in _in_order(events):
        mine = held.setdefault(event.worker_id, set())
        if event.kind == "stored":
            mine |= set(event.blocks)
        elif event.kind == "removed":
            removed += len(event.blocks)
            strange += len(set(event.blocks) - mine)
            mine -= set(event.blocks)
        most = max(most, len(mine))
    measure("removed_blocks", removed)
    measure("removed_and_never_stored_blocks", strange)
    measure("most_blocks_held_by_events", most)
    measure.judge()


def _in_order(events: list[KvEvent]) -> list[KvEvent]:
    return sorted(events, key=lambda event: (event.worker_id, event.event_id))
