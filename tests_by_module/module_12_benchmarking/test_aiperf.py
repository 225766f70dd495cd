"""AIPerf, NVIDIA's own load client, sends the same requests and sees the same deployment."""

from collections.abc import Sequence
from math import nan
from statistics import median

import pytest

from fixtures.baseline.aiperf import PINNED, bodies, profile
from fixtures.baseline.repeats import Target
from fixtures.baseline.second_client import AIPERF, OURS, in_turns
from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.knee import Knee, Loaded, knee
from fixtures.benchmark.sending import Sent
from fixtures.benchmark.sizes import Sizes
from fixtures.benchmark.slo import named
from fixtures.cluster.inventory.model import Inventory
from fixtures.load.request import Request
from fixtures.load.workloads import Part
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_12_benchmarking.loads import TAILS_UP_TO, Arriving

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
]
TOLD = 5  # sentences on requests that are alike


@check(
    "M12-11",
    judged="both send the same load, one after the other, in the long form three times: every request completed with "
    "the tokens that were asked for; the frontend's counters against AIPerf's records; what AIPerf warns of; its TTFT, "
    "ITL and throughput over ours",
    evidence="figures of both",
    by_hand="aiperf profile --streaming --custom-dataset-type inputs-json --use-server-token-count",
)
def test_aiperf_sees_what_our_client_sees(
    run: Run,
    deployment: Deployment,
    warm: Sent,
    target: Target,
    side_by_side: Part,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf completes the same requests with the same tokens as our client, drops none, and is as fast."""
    tool, names = run.tool("aiperf", target.client.node), deployment.settings.dialect.metrics
    texts = deployment.model_files().texts
    options = run.at("module_12.aiperf_options", PINNED["options"])
    turns = in_turns(target, side_by_side, tool, texts, turns=sizes.turns, options=options, warm=True)
    wrong, pairs, rows = Findings(), [], []
    for ours in turns:
        before = deployment.frontend_metrics()
        theirs = next(turns)
        counted = deployment.frontend_metrics().since(before)
        requests, tokens = (
            counted.total_or_zero(name) for name in (names.frontend_requests, names.frontend_output_tokens)
        )
        asked, has = (sum(completion for _, completion in each.values()) for each in (theirs.asked, theirs.told))
        rows += [("requests", len(theirs.asked), len(theirs.told), requests), ("tokens", asked, has, tokens)]
        for sentence in [sentence for each in (ours, theirs) for sentence in each.wrong()][:TOLD]:
            wrong.add(sentence)
        if requests != len(theirs.asked):
            wrong.add(f"{AIPERF} was given {len(theirs.asked)} requests, and the frontend counted {requests:g}")
        if tokens != asked:
            wrong.add(f"{AIPERF} asked for {asked} tokens, and the frontend counted {tokens:g}")
        for name, count in theirs.warnings.items():
            if count:
                wrong.add(f"{AIPERF} warns of {count} of {len(theirs.asked)} requests: {name}")
        pairs.append((ours.figures, theirs.figures))
    figures = [(name, *(f"{of.get(name, nan):.4g}" for pair in pairs for of in pair)) for name in pairs[0][1]]
    evidence.table(f"{side_by_side.point}", ["figure", *[OURS, AIPERF] * len(pairs)], figures)
    evidence.table("requests and tokens", ["what", "asked", AIPERF, "frontend"], rows)
    wrong.judge()

    def of_ours(name: str) -> list[float]:
        return [theirs[name] / ours[name] for ours, theirs in pairs]

    ttft, itl, throughput = (of_ours(name) for name in ("ttft_ms_p50", "itl_ms_p50", "output_tokens_per_s"))
    count = len(theirs.told)
    measure("aiperf_ttft_p50_of_ours", median(ttft), n=count, repeats=ttft)
    measure("aiperf_itl_p50_of_ours", median(itl), n=count, repeats=itl)
    measure("aiperf_throughput_of_ours", median(throughput), n=count, repeats=throughput)
    measure.judge()


@check(
    "M12-12",
    judged="AIPerf at the knee of our sweep and at the concurrencies around it, every request completed: how many "
    "steps of the sweep lie between where its own throughput has the greatest power and where ours has it",
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
    seen, wrong = [], Findings()
    for number, concurrency in enumerate(concurrencies[max(0, place - 2) : place + 3]):
        plan = sizes.at_once(concurrency, seed + 200 + number)
        sent = bodies(plan, target.model_name)
        profiled = profile(target.client.node, tool, target.urls, target.model_name, plan, sent, texts)
        if len(profiled.tokens) != len(sent):
            wrong.add(
                f"{AIPERF} with {concurrency} at once: of {len(sent)} requests {len(profiled.tokens)} were completed"
            )
        seen.append(Loaded(concurrency, profiled.figures.get("requests_per_s", 0.0)))
    ours = {each.plan.concurrency: each.requests_per_s for each in sweep}
    rows = [(each.concurrency, each.requests_per_s, ours[each.concurrency]) for each in seen]
    evidence.table("requests per second", ["at once", AIPERF, "ours"], rows)
    wrong.judge()
    steps = concurrencies.index(knee(seen).at.concurrency) - place
    measure("aiperf_knee_steps_from_ours", steps, n=len(seen))
    measure.judge()


@check(
    "M12-18",
    judged="AIPerf's own Poisson load at 25, 50, 75, 100 and 125 % of the knee's rate: every request completed; at "
    "75 % its throughput, TTFT and ITL over ours, and how many percent of its requests keep dynamo_slo, less ours",
    evidence="table",
    by_hand="aiperf profile --request-rate R --arrival-pattern poisson --goodput LIMITS",
)
@pytest.mark.nightly
def test_aiperf_sees_the_same_of_requests_that_arrive(
    run: Run,
    seed: int,
    deployment: Deployment,
    inventory: Inventory,
    arriving: Arriving,
    target: Target,
    sizes: Sizes,
    measure: Measure,
    evidence: Evidence,
):
    """AIPerf's requests that arrive at a rate fare as ours do."""
    tool, texts = run.tool("aiperf", target.client.node), deployment.model_files().texts
    level = inventory.cluster.dynamo_slo
    slo = named(level, inventory.path) if level else None
    options = [*PINNED["options"], *([f"--goodput={slo.aiperf}"] if slo else [])]

    def goodput_percent(requests: Sequence[Request]) -> float:
        found = slo.goodput_percent(requests) if slo else None
        return nan if found is None else found

    wrong, rows, of_ours, less_ours = Findings(), [], {}, None
    for number, (percent, ours) in enumerate(arriving.by_percent.items()):
        plan = sizes.arriving(ours.plan.rate_per_s or 0, seed + 600 + number, ours.plan.count)
        sent = bodies(plan, target.model_name)
        theirs = profile(target.client.node, tool, target.urls, target.model_name, plan, sent, texts, options)
        if len(theirs.tokens) != len(sent):
            wrong.add(f"{AIPERF} at {ours.name}: of {len(sent)} requests {len(theirs.tokens)} were completed")
        figures = {
            "requests_per_s": (theirs.figures.get("requests_per_s", nan), ours.requests_per_s),
            "ttft_p50": (theirs.figures.get("ttft_ms_p50", nan), median(ours.ttft_ms or [nan])),
            "itl_p50": (theirs.figures.get("itl_ms_p50", nan), median(ours.itl_ms or [nan])),
        }
        good = (nan if theirs.good is None else 100 * theirs.good / len(sent), goodput_percent(ours.requests))
        rows.append((ours.name, *(value for pair in (*figures.values(), good) for value in pair)))
        if percent == TAILS_UP_TO:
            of_ours, less_ours = {name: a / b if b else nan for name, (a, b) in figures.items()}, good[0] - good[1]
    names = ("requests/s", "TTFT p50, ms", "ITL p50, ms", "good, %")
    evidence.table("requests that arrive", ["load", *(f"{n}, {who}" for n in names for who in (AIPERF, "ours"))], rows)
    count = len(arriving.by_percent[TAILS_UP_TO].completed)
    measure("aiperf_requests_per_s_of_ours", of_ours["requests_per_s"], n=count)
    measure("aiperf_ttft_p50_of_ours", of_ours["ttft_p50"], n=count)
    measure("aiperf_itl_p50_of_ours", of_ours["itl_p50"], n=count)
    if slo:
        measure("aiperf_goodput_less_ours", less_ours, n=count)
    else:
        evidence.note("no service level", "dynamo_slo is not set: goodput is not compared.")
    wrong.judge()
    measure.judge()
