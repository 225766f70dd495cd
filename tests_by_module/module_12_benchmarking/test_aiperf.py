"""AIPerf, NVIDIA's own load client, sends the same requests and sees the same deployment."""

from collections.abc import Sequence
from math import nan

import pytest

from fixtures.baseline.aiperf import PINNED, bodies, profile
from fixtures.baseline.repeats import Target
from fixtures.baseline.second_client import AIPERF, in_turns
from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.knee import Knee, Loaded, knee
from fixtures.benchmark.sending import Sent
from fixtures.benchmark.sizes import Sizes
from fixtures.load.workloads import Part
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
]
TOLD = 5  # sentences on requests that are alike


@check(
    "M12-11",
    judged="both send the same load, one after the other: every request completed with the tokens that were asked for; "
    "the frontend's counters against AIPerf's records; what AIPerf warns of; its TTFT, ITL and throughput over ours",
    evidence="figures of both",
    by_hand="aiperf profile --streaming --custom-dataset-type inputs-json --use-server-token-count",
)
def test_aiperf_sees_what_our_client_sees(
    run: Run,
    deployment: Deployment,
    warm: Sent,
    target: Target,
    side_by_side: Part,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf completes the same requests with the same tokens as our client, drops none, and is as fast."""
    tool, names = run.tool("aiperf", target.client.node), deployment.settings.dialect.metrics
    texts = deployment.model_files().texts
    options = run.at("module_12.aiperf_options", PINNED["options"])
    turns = in_turns(target, side_by_side, tool, texts, turns=1, options=options)
    ours, before = next(turns), deployment.frontend_metrics()
    theirs = next(turns)
    counted = deployment.frontend_metrics().since(before)
    figures = [(name, *(f"{each.figures.get(name, nan):.4g}" for each in (ours, theirs))) for name in theirs.figures]
    evidence.table(f"{side_by_side.point}", ["figure", ours.client, theirs.client], figures)
    requests = counted.total_or_zero(names.frontend_requests)
    tokens = counted.total_or_zero(names.frontend_output_tokens)
    asked = sum(completion for _, completion in theirs.asked.values())
    header = ["what", "asked", "AIPerf", "frontend"]
    has = sum(completion for _, completion in theirs.told.values())
    rows = [("requests", len(theirs.asked), len(theirs.told), requests), ("tokens", asked, has, tokens)]
    evidence.table("requests and tokens", header, rows)
    evidence.table("what AIPerf warns of", ["warning", "requests"], theirs.warnings.items())
    wrong = Findings([sentence for each in (ours, theirs) for sentence in each.wrong()][:TOLD])
    if requests != len(theirs.asked):
        wrong.add(f"{AIPERF} was given {len(theirs.asked)} requests, and the frontend counted {requests:g}")
    if tokens != asked:
        wrong.add(f"{AIPERF} asked for {asked} tokens, and the frontend counted {tokens:g}")
    for name, count in theirs.warnings.items():
        if count:
            wrong.add(f"{AIPERF} warns of {count} of {len(theirs.asked)} requests: {name}")
    wrong.judge()
    count = len(theirs.told)

    def ratio(name: str) -> float:
        return theirs.figures[name] / ours.figures[name]

    measure("aiperf_ttft_p50_of_ours", ratio("ttft_ms_p50"), n=count)
    measure("aiperf_itl_p50_of_ours", ratio("itl_ms_p50"), n=count)
    measure("aiperf_throughput_of_ours", ratio("output_tokens_per_s"), n=count)
    measure.judge()


@check(
    "M12-12",
    judged="AIPerf at the knee of our sweep and at the concurrencies around it: where its own throughput has the "
    "greatest power, over where ours has it",
    evidence="table",
    by_hand="aiperf profile --concurrency N, for several N",
)
@pytest.mark.nightly
def test_aiperf_finds_the_same_knee(
    run: Run,
    seed: int,
    deployment: Deployment,
    sweep: Sequence[Sent],
    found_knee: Knee,
    target: Target,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf's own sweep has its knee where ours has it."""
    tool, texts = run.tool("aiperf", target.client.node), deployment.model_files().texts
    concurrencies = [each.plan.concurrency or 0 for each in sweep]
    place = concurrencies.index(found_knee.at.concurrency)
    seen = []
    for number, concurrency in enumerate(concurrencies[max(0, place - 2) : place + 3]):
        plan = sizes.at_once(concurrency, seed + 200 + number)
        sent = bodies(plan, target.model_name)
        profiled = profile(target.client.node, tool, target.urls, target.model_name, plan, sent, texts)
        seen.append(Loaded(concurrency, profiled.figures["requests_per_s"]))
    ours = {each.plan.concurrency: each.requests_per_s for each in sweep}
    rows = [(each.concurrency, each.requests_per_s, ours[each.concurrency]) for each in seen]
    evidence.table("requests per second", ["at once", AIPERF, "ours"], rows)
    measure("aiperf_knee_of_ours", knee(seen).at.concurrency / found_knee.at.concurrency, n=len(seen))
    measure.judge()
