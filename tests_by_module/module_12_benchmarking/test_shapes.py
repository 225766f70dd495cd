"""Other shapes of load: prompts that share a head, a trace that is replayed, and clients that leave."""

from dataclasses import replace
from typing import Any

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.accounts import wrong_with_each
from fixtures.benchmark.sending import Sent, mean
from fixtures.benchmark.sizes import Sizes
from fixtures.load.plan import LoadPlan
from fixtures.load.request import LEFT, Request
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_12_benchmarking.loads import (
    FREED_WITHIN_S,
    LEAVERS,
    LONG,
    NEVER_WANTED_TOKENS,
    Loads,
    promised_percent,
    trace_of,
    until_free,
)

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
]
LEAVES_AFTER = 3  # chunks


def cached(request: Request) -> int:
    """Tokens of its prompt that the server says it had."""
    return int(_details(request).get("cached_tokens") or 0)


def require_cached_is_told(*loads: Sent) -> None:
    """Raises NotOffered where no answer says how many tokens of its prompt were cached."""
    if all(_details(request).get("cached_tokens") is None for each in loads for request in each.completed):
        raise NotOffered(
            "no answer has usage.prompt_tokens_details.cached_tokens: this engine and version of dynamo_runtime do not "
            "say how many tokens of a prompt were cached"
        )


def _details(request: Request) -> dict[str, Any]:
    return (request.usage or {}).get("prompt_tokens_details") or {}


@check(
    "M12-13",
    judged="prompts that share one of two heads of 75 % of their length, against as many of the same length that share "
    "nothing: all completed and accounted for; the share of prompt tokens that usage reports as cached, over what is "
    "cached where each worker computes each head once, and TTFT",
    evidence="table",
    by_hand="aiperf profile --num-prefix-prompts 2 --prefix-prompt-length 384",
)
def test_shared_prefixes_are_computed_once(
    deployment: Deployment, prefixes: tuple[Sent, Sent], sizes: Sizes, measure: Measure, evidence: Evidence
):
    """Of prompts that share a head, the head is computed once."""
    alone, together = prefixes
    length = LONG * sizes.input_tokens
    rows = [
        (each.name, len(each.completed), mean(each.ttft_ms), sum(map(cached, each.completed)), length)
        for each in (alone, together)
    ]
    evidence.table("shared prefixes", ["load", "completed", "TTFT, ms", "cached tokens", "tokens of a prompt"], rows)
    dialect = deployment.settings.dialect
    Findings(wrong_with_each([alone, together], dialect.metrics)).judge()
    require_cached_is_told(alone, together)
    components = [each.component for each in deployment.registered_workers()]
    computing = components.count(dialect.worker_component["prefill"]) or len(components)
    promised = promised_percent(len(together.completed), computing)
    shares = [100 * sum(map(cached, each.completed)) / (length * len(each.completed)) for each in (alone, together)]
    measure("cached_percent", shares[1], n=len(together.completed))
    measure("cached_of_promised", shares[1] / promised, n=len(together.completed))
    measure("cached_percent_of_own", shares[0], n=len(alone.completed))
    first, other = mean(together.ttft_ms), mean(alone.ttft_ms)
    measure("ttft_shared_of_own", first / other if first and other else None, n=len(together.completed))
    measure.judge()


@check(
    "M12-14",
    judged="24 requests of a trace in Mooncake's format, four times as fast as it has them, each when it is due: all "
    "completed with the prompts' own tokens, how late they were sent, and the cached tokens over those that the "
    "trace's hash ids promise",
    evidence="table",
    by_hand="aiperf profile --custom-dataset-type mooncake_trace --fixed-schedule --input-file TRACE",
)
@pytest.mark.needs("kv_router")
def test_trace_is_replayed_on_its_schedule(
    run: Run,
    seed: int,
    deployment: Deployment,
    warm: Sent,
    shapes: Loads,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """A trace is replayed when it says, and what its requests share is found in the workers' caches."""
    plan, promised = trace_of(deployment, sizes, seed, run.run_id)
    sent = shapes.send("trace", plan)
    late_ms = [1000 * (each.sent_at_s - each.due_at_s) for each in sent.requests]
    rows = [
        (each.number, each.due_at_s, late, len(prompt), (each.usage or {}).get("prompt_tokens"), cached(each), hit)
        for each, late, (_, prompt, _), hit in zip(sent.requests, late_ms, plan.trace, promised, strict=True)
    ]
    header = ["request", "due at s", "late, ms", "prompt tokens", "usage", "cached", "promised"]
    evidence.table("the trace", header, rows)
    wrong = Findings(wrong_with_each([sent], deployment.settings.dialect.metrics))
    off = [row for row in rows if row[3] != row[4]]
    wrong.extend(f"request {row[0]} has a prompt of {row[3]} tokens, and usage has {row[4]}" for row in off[:3])
    wrong.judge()
    measure("sent_late_ms", max(late_ms), n=len(late_ms))
    measure.judge()
    require_cached_is_told(sent)
    measure("cached_of_promised", sum(map(cached, sent.completed)) / sum(promised), n=len(sent.completed))
    measure.judge()


@check(
    "M12-15",
    judged="32 clients ask for 2000 tokens and leave after three chunks: how long after the last one the frontend has "
    "counted all as ended; the workers' gauges of requests in flight are 0 within 5 s, and a request after it waits no "
    "longer for its first token than one before",
    evidence="table",
    by_hand="aiperf profile --request-cancellation-rate 100; curl WORKER/metrics | grep inflight",
)
def test_cancelled_requests_are_freed(
    seed: int, deployment: Deployment, warm: Sent, shapes: Loads, sizes: Sizes, measure: Measure, evidence: Evidence
):
    """What clients have left is not computed on: its places are free for others at once."""
    one = sizes.at_once(1, seed + 320)
    before = shapes.send("before", one)
    gone = LoadPlan(
        seed=seed + 321,
        prompt_tokens=one.prompt_tokens,
        output_tokens=(NEVER_WANTED_TOKENS, NEVER_WANTED_TOKENS),
        within_s=sizes.within_s,
        concurrency=LEAVERS,
        count=LEAVERS,
        leave_after_chunks=LEAVES_AFTER,
    )
    left = shapes.send("clients that leave", gone)
    after = shapes.send("right after", replace(one, seed=seed + 322))
    stayed = [str(each) for each in left.requests if each.outcome != LEFT]
    Findings(stayed[:3]).judge(f"{len(stayed)} of {LEAVERS} clients could not leave")
    # what goes on of the others is counted with these, so that only their own ends are judged
    Findings(
        [str(each) for load in (before, after) for each in load.requests if each not in load.completed][:3]
    ).judge()
    until_free(deployment, Deadline(FREED_WITHIN_S, "the workers to have nothing in flight"))
    rows = [(each.name, len(each.requests), mean(each.ttft_ms)) for each in (before, left, after)]
    evidence.table("before and after", ["load", "requests", "TTFT, ms"], rows)
    measure("ended_after_leaving_s", left.counted_after_s, n=LEAVERS)
    first, last = mean(before.ttft_ms), mean(after.ttft_ms)
    measure("ttft_after_leaving_ratio", last / first if first and last else None, n=len(after.completed))
    measure.judge()
