"""AIPerf sends the other shapes of load as well: long prompts, shared heads, a trace on its schedule, cancellations."""

from dataclasses import replace
from itertools import product
from math import isnan, log, nan
from statistics import median

import pytest

from fixtures.baseline.aiperf import PINNED, Profiled, bodies, profile
from fixtures.baseline.repeats import Target
from fixtures.baseline.second_client import AIPERF, Bodies
from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.accounts import wrong_with_each
from fixtures.benchmark.sending import Sent
from fixtures.benchmark.sizes import Sizes
from fixtures.load.plan import LoadPlan
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_12_benchmarking.loads import (
    FREED_WITHIN_S,
    LEAST_SHARED,
    LEAVERS,
    NEVER_WANTED_TOKENS,
    Loads,
    prefix_plans,
    trace_of,
    until_free,
)

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
    pytest.mark.nightly,
]
# in prompts and answers of the sweep
PROMPT_LENGTHS, ANSWER_LENGTHS = (1, 4, 8), (1, 4)
# few enough tokens to be over by then, and few enough requests at once to wait for no place
CANCELLED_AFTER_S, SHORT_TOKENS, AT_ONCE = 0.5, 4, 8


class Shapes:
    """Sends plans with AIPerf."""

    def __init__(self, run: Run, deployment: Deployment, target: Target) -> None:
        self.tool, self.target = run.tool("aiperf", target.client.node), target
        self.texts = deployment.model_files().texts

    def bodies(self, plan: LoadPlan) -> Bodies:
        return bodies(plan, self.target.model_name)

    def send(self, plan: LoadPlan, *more: str, sent: Bodies | None = None) -> Profiled:
        """The plan's requests, or those that are `sent` in their place."""
        target, options = self.target, [*PINNED["options"], *more]
        sent = sent or self.bodies(plan)
        return profile(target.client.node, self.tool, target.urls, target.model_name, plan, sent, self.texts, options)


@pytest.fixture(scope="package")
def by_aiperf(run: Run, deployment: Deployment, target: Target) -> Shapes:
    return Shapes(run, deployment, target)


def otherwise(name: str, plan: LoadPlan, found: Profiled) -> list[str]:
    """A sentence on each request that was not completed with the prompt and the tokens that were asked for."""
    asked = {each.number: (len(each.prompt), each.max_tokens) for each in plan.requests()}
    return [
        f"{AIPERF}, {name}, request {number}: asked for {tokens} tokens (prompt, answer), "
        f"the server counted {found.tokens.get(number, 'nothing')}"
        for number, tokens in asked.items()
        if found.tokens.get(number) != tokens
    ]


@check(
    "M12-20",
    judged="AIPerf sends prompts of 8 times the length, and such that share one of two heads: every request completed "
    "with its own tokens; its TTFT of both over ours",
    evidence="table",
    by_hand="aiperf profile --prompt-prefix-pool-size 2 --prompt-prefix-length 384",
)
def test_aiperf_sees_the_same_of_long_prompts_and_shared_heads(
    seed: int,
    prefixes: tuple[Sent, Sent],
    by_aiperf: Shapes,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf's first tokens of long prompts, alone and with shared heads, come when ours come."""
    wrong, rows, ratios = Findings(), [], []
    for ours, plan in zip(prefixes, prefix_plans(sizes, seed + 800), strict=True):
        found = by_aiperf.send(plan)
        wrong.extend(otherwise(ours.name, plan, found)[:3])
        told_ms, own_ms = found.figures.get("ttft_ms_p50"), median(ours.ttft_ms) if ours.ttft_ms else None
        rows.append((ours.name, len(found.tokens), told_ms, own_ms))
        ratios.append(told_ms / own_ms if told_ms and own_ms else None)
    evidence.table("long prompts", ["load", "completed", f"TTFT p50 of {AIPERF}, ms", "ours"], rows)
    wrong.judge()
    measure("aiperf_ttft_of_own_prompts", ratios[0], n=len(prefixes[0].completed))
    measure("aiperf_ttft_of_shared_heads", ratios[1], n=len(prefixes[1].completed))
    measure.judge()


@check(
    "M12-21",
    judged="AIPerf replays a trace of 24 requests on its schedule: every request completed with its own tokens, and "
    "how late each was sent",
    evidence="table",
    by_hand="aiperf profile --custom-dataset-type mooncake_trace --fixed-schedule --input-file TRACE",
)
def test_aiperf_replays_a_trace_on_its_schedule(
    run: Run,
    seed: int,
    deployment: Deployment,
    warm: Sent,
    by_aiperf: Shapes,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf sends each request of a trace when the trace has it."""
    plan, _ = trace_of(deployment, sizes, seed + 810, run.run_id)
    found = by_aiperf.send(plan)
    Findings(otherwise("the trace", plan, found)[:3]).judge()
    due_s = {number: at for number, (at, _, _) in enumerate(plan.trace)}
    sent_s = {int(it["metadata"]["conversation_id"]): it["metadata"]["request_start_ns"] / 1e9 for it in found.records}
    begin_s = min(sent_s[number] - due_s[number] for number in due_s)
    late_ms = {number: 1000 * (sent_s[number] - begin_s - due_s[number]) for number in due_s}
    evidence.table("the trace", ["request", "due at s", "late, ms"], [(n, due_s[n], late_ms[n]) for n in due_s])
    measure("aiperf_sent_late_ms", max(late_ms.values()), n=len(late_ms))
    measure.judge()


@check(
    "M12-22",
    judged="AIPerf cancels each request 0.5 s after it has sent it, 8 at once: 16 of 4 tokens are completed before "
    "that, 16 of 2000 tokens are cancelled, and the workers' gauges of requests in flight are 0 within 5 s",
    evidence="table",
    by_hand="aiperf profile --request-cancellation-rate 100 --request-cancellation-delay 0.5",
)
def test_what_aiperf_cancels_is_freed(
    seed: int,
    deployment: Deployment,
    warm: Sent,
    by_aiperf: Shapes,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """Requests that AIPerf cancels are not computed on."""
    # where it has cancelled all, AIPerf ends with an error: so every other request is over before that
    long = (NEVER_WANTED_TOKENS, NEVER_WANTED_TOKENS)
    plan = replace(sizes.at_once(AT_ONCE, seed + 820), count=LEAVERS, output_tokens=long)
    sent = by_aiperf.bodies(plan)
    short = {number for number in sent if number % 2}
    for number in short:
        sent[number]["max_tokens"] = SHORT_TOKENS
    cancels = ("--request-cancellation-rate=100", f"--request-cancellation-delay={CANCELLED_AFTER_S}")
    found = by_aiperf.send(plan, *cancels, sent=sent)
    freed = Deadline(FREED_WITHIN_S, "the workers to have nothing in flight")
    until_free(deployment, freed)
    header = ["sent", "cancelled", "completed", "the workers were free after, s"]
    evidence.table("cancelled", header, [(len(sent), found.failed, len(found.tokens), freed.elapsed_s)])
    assert set(found.tokens) == short, (
        f"requests {sorted(short)} are so short that they are completed, and {sorted(found.tokens)} were"
    )
    measure("aiperf_cancelled", found.failed, n=len(sent))
    measure.judge()


@check(
    "M12-23",
    judged="prompts of 1, 4 and 8 times the length, each with answers of 1 and 4 times: every request completed with "
    "its own tokens, by AIPerf and by us; the TTFT and ITL of AIPerf over ours that are furthest from 1",
    evidence="table",
    by_hand="aiperf profile --isl 512 --osl 64, for several lengths",
)
def test_aiperf_sees_the_same_at_every_length(
    seed: int,
    deployment: Deployment,
    warm: Sent,
    shapes: Loads,
    by_aiperf: Shapes,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf and our client see the same of short and long prompts, with short and long answers."""
    wrong, rows, off = Findings(), [], {"ttft_ms_p50": 1.0, "itl_ms_p50": 1.0}
    for number, (prompt, answer) in enumerate(product(PROMPT_LENGTHS, ANSWER_LENGTHS)):
        tokens = prompt * sizes.input_tokens, answer * sizes.output_tokens
        name = f"{tokens[0]} tokens in, {tokens[1]} out"
        plan = replace(
            sizes.at_once(sizes.concurrency[1], seed + 830 + 2 * number, LEAST_SHARED),
            prompt_tokens=(tokens[0], tokens[0]),
            output_tokens=(tokens[1], tokens[1]),
        )
        ours = shapes.send(name, plan)
        wrong.extend(wrong_with_each([ours], deployment.settings.dialect.metrics))
        again = replace(plan, seed=plan.seed + 1)
        theirs = by_aiperf.send(again)
        wrong.extend(otherwise(name, again, theirs)[:3])
        own = {"ttft_ms_p50": median(ours.ttft_ms or [nan]), "itl_ms_p50": median(ours.itl_ms or [nan])}
        told = {figure: theirs.figures.get(figure, nan) for figure in own}
        rows.append((name, *(value for figure in own for value in (told[figure], own[figure])), ours.tokens_per_s))
        off = {figure: furthest(off[figure], told[figure] / own[figure]) for figure in own}
    header = ["load", f"TTFT p50 of {AIPERF}, ms", "ours", f"ITL p50 of {AIPERF}, ms", "ours", "tokens/s, ours"]
    evidence.table("lengths", header, rows)
    wrong.judge()
    measure("aiperf_ttft_p50_of_ours", off["ttft_ms_p50"], n=len(rows))
    measure("aiperf_itl_p50_of_ours", off["itl_ms_p50"], n=len(rows))
    measure.judge()


def furthest(*ratios: float) -> float:
    """The one that is furthest from 1, as a factor; NaN where one is none."""
    return next((each for each in ratios if isnan(each)), max(ratios, key=lambda each: abs(log(each))))
