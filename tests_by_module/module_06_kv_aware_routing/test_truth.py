"""The routing-truth triangle: events published and applied, hits predicted and reused, KV routing and its control."""

import math
from collections import Counter

import pytest

from fixtures.basics.bars import grouped_bars
from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.served import require_all_served
from fixtures.clients.kv_events import lost_events, where_lost
from fixtures.load.traces import round_robin_hits
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from tests_by_module.module_06_kv_aware_routing.routing import (
    HEADERS,
    Replay,
    Replays,
    disagreements,
    replay,
    who_lacks_events,
)

pytestmark = pytest.mark.needs("kv_router")

WITH_PREFIXES = ("shared-system-prompt", "conversations", "growing-prefix", "block-boundaries", "mooncake-format")
SERIES = ("predicted from the trace", "applied by the router", "reused by workers", "round-robin control")
WITHOUT = ("unique-prompts", "shorter-than-a-block")


@check(
    "M06-04",
    judged="over all traces: the numbers of each worker's messages have no gap, and events on the wire are those in "
    "the router, by kind; none refused",
    evidence="table",
    by_hand="nats sub 'namespace.NS.>'; curl FRONTEND/metrics | grep kv_cache_events_applied",
)
@pytest.mark.needs("nats_events")
def test_events_published_are_the_events_applied(deployment: Deployment, replays: Replays, evidence: Evidence):
    """No KV event is lost: the router applies every published event, applies no other, and refuses none."""
    if deployment.settings.dialect.metrics.kv_events_applied is None:
        raise NotOffered("the router of this version does not count the KV events that it applies")
    published = Counter(event.kind for event in replays.published or ())
    applied = {kind: count for (kind, status), count in replays.applied.items() if status == "ok"}
    refused = {f"{kind} {status}": count for (kind, status), count in replays.applied.items() if status != "ok"}
    evidence.table(
        "events",
        ["kind", "published", "applied"],
        [[kind, published[kind], applied.get(kind, 0)] for kind in sorted({*published, *applied})],
    )
    lost = Findings(lost_events(replays.published or ()))
    lost.judge(about=f"KV events were lost {where_lost(replays.unheard)}")
    assert published["stored"], "no KV event was published while the traces were sent: nothing to compare"
    if replays.unheard:
        raise CouldNotLook(
            f"{replays.unheard} messages were lost between NATS and the suite: it has not heard all that was published"
        )
    assert not refused, f"the router could not apply events: {refused}"
    assert applied == dict(published), (
        f"expected the router to apply what workers published, {dict(published)}, got {applied}: "
        f"{who_lacks_events(published.total(), sum(applied.values()))}"
    )


@check(
    "M06-05",
    judged="request by request, for each trace",
    evidence="table of requests",
    by_hand="compare kv_hit_rate with usage.prompt_tokens_details.cached_tokens",
    causes=[2, 9],
)
@pytest.mark.parametrize("name", [*WITH_PREFIXES, *WITHOUT])
@pytest.mark.usefixtures("reuse_is_told")
def test_workers_reuse_what_the_router_predicts(name: str, replays: Replays, evidence: Evidence):
    """For every request the worker reuses exactly the blocks that the router predicted on it."""
    done = replays.by_name[name]
    evidence.table(name, HEADERS, done.rows())
    require_all_served(done.routed)
    wrong = disagreements(done.routed, done.block_size)
    assert not wrong, f"of {len(done.routed)} requests {len(wrong)} reused other blocks than predicted: {wrong[0]}"


@check(
    "M06-06",
    judged="request by request, for each trace with prefixes in common",
    evidence="hit rates",
    by_hand="send a trace in order, add up cached_tokens",
    causes=[1, 2],
)
@pytest.mark.parametrize("name", WITH_PREFIXES)
@pytest.mark.usefixtures("reuse_is_told")
def test_prefixes_hit_as_computed_beforehand(name: str, replays: Replays, measure: Measure):
    """Every request hits exactly the blocks that the trace predicts: the router always takes the best worker."""
    done = replays.by_name[name]
    measure("hit_rate_expected", done.rate(done.expected_tokens), n=len(done.routed))
    measure("hit_rate_predicted", done.rate(done.predicted_tokens), n=len(done.routed))
    measure("hit_rate_reused", done.rate(done.reused), n=len(done.routed))
    wrong = [
        f"request {number}: {hit} blocks expected, {each.told}"
        for number, (hit, tokens, each) in enumerate(
            zip(done.expected, done.expected_tokens, done.routed, strict=True), 1
        )
        if (each.predicted, each.reused) != (hit, tokens)
    ]
    assert not wrong, f"{len(wrong)} of {len(done.routed)} requests did not hit as the trace says: {wrong[0]}"


@check(
    "M06-07",
    judged="unique prompts, and one that is shorter than a block again and again; every lookup took place",
    by_hand="send prompts that have no block in common: kv_hit_rate is 0",
    causes=[6],
)
@pytest.mark.parametrize("name", WITHOUT)
@pytest.mark.usefixtures("reuse_is_told")
def test_nothing_in_common_never_hits(name: str, replays: Replays):
    """Prompts without a common block, or shorter than one, are neither predicted to hit nor reused."""
    done = replays.by_name[name]
    looked = [each for each in done.routed if each.predicted is not None]
    assert len(looked) == len(done.routed), (
        f"expected a prediction for each of {len(done.routed)} prompts, got {len(looked)}"
    )
    hits = [each.told for each in looked if each.predicted or each.reused]
    assert not hits, f"{len(hits)} prompts with nothing in common hit the cache: {hits[0]}"


@check(
    "M06-08",
    judged="tokens saved beyond a round-robin control, of those promised by the traces; next to a deployment that "
    "runs already the control is computed",
    evidence="hit rates side by side, table and chart",
    by_hand="the same trace with --router-mode round-robin",
    causes=[1, 5, 9],
)
@pytest.mark.usefixtures("reuse_is_told")
def test_kv_routing_saves_what_round_robin_computes_again(
    replays: Replays, deployment: Deployment, control: ManagedDeployment | None, measure: Measure, evidence: Evidence
):
    """KV routing saves as many prompt tokens over round-robin as the traces predict."""
    rows, rates, saved, promised = [], {}, 0, 0
    workers = 2 if control else len(deployment.registered_workers())
    if workers < 2:
        raise NotOffered("with one worker round-robin saves as much: it needs two (dynamo_workers)")
    for name in WITH_PREFIXES:
        done = replays.by_name[name]
        size = done.block_size
        hits = round_robin_hits(done.trace, size, workers)
        beside = Replay(done.trace, size, tuple(hits), ())
        if control:
            beside = replay(control, done.trace, size, hits, follow=False)
            assert not beside.failures, f"the control failed: {beside.failures[0]}"
            assert beside.reused == beside.expected_tokens, (
                f"the control with round-robin reused {sum(beside.reused)} tokens of {name}, "
                f"two workers that take turns are to reuse {sum(beside.expected_tokens)}"
            )
        more = sum(done.reused) - sum(beside.expected_tokens)
        rates[name] = [done.rate(each) for each in (done.expected_tokens, done.predicted_tokens, done.reused)]
        rates[name].append(beside.rate(beside.expected_tokens))
        rows.append([name, len(done.routed), done.trace.prompt_tokens, *rates[name], more])
        saved += more
        promised += sum(done.expected_tokens) - sum(beside.expected_tokens)
    title = "hit rates in % of the prompt tokens"
    evidence.table(title, ["trace", "requests", "prompt tokens", *SERIES, "tokens saved"], rows)
    evidence.svg(title, grouped_bars(rates, SERIES, "%"))
    measure("tokens_saved_of_promised", 100 * saved / promised if promised else math.nan, n=len(rows))
    measure.judge()
