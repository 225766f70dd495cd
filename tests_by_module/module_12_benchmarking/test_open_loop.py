"""Requests that arrive whether or not the deployment keeps up: tails up to 75 % of the knee, overload, and recovery."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import NotMeasured, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.percentiles import LEAST_N, percentile
from fixtures.benchmark.accounts import less_exact, wrong_with_each
from fixtures.benchmark.chart import distributions
from fixtures.benchmark.knee import Knee
from fixtures.benchmark.sending import mean
from fixtures.benchmark.slo import named, profiles
from fixtures.cluster.inventory.model import Inventory
from fixtures.load.formulas import values
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_12_benchmarking.loads import RECOVERS_AT, TAILS_UP_TO, Arriving

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
]
TTFT, LATENCY = "ttft_from_due_ms", "latency_from_due_ms"


@check(
    "M12-08",
    judged="a Poisson load at 25, 50, 75, 100 and 125 % of the knee's rate: requests and tokens accounted for "
    "as in the sweep, and at how many of them the client is less exact than `fixtures calibrate` says; at 75 % "
    "neither half is twice as fast as the other; TTFT and latency from when a request was due, p95 and (of 1000 "
    "requests) p99 at 75 %: recorded",
    evidence="distributions, table",
    by_hand="aiperf profile --request-rate R --arrival-pattern poisson",
)
def test_tails_are_measured_below_the_knee(
    deployment: Deployment, found_knee: Knee, arriving: Arriving, evidence: Evidence, measure: Measure
):
    """Every request that arrives is answered, and its latency counts from when it was due."""
    wrong, rows = Findings(wrong_with_each(arriving.loads, deployment.settings.dialect.metrics)), []
    wrong.extend(arriving.unsteady)
    for each in arriving.loads:
        tails = [each.tail(name, percent) for name in (TTFT, LATENCY) for percent in (50, 95, 99)]
        rows.append((each.name, each.plan.rate_per_s, each.requests_per_s, mean(each.itl_ms), *tails))
    header = [
        "load",
        "arriving/s",
        "completed/s",
        "ITL, ms",
        "TTFT p50, ms",
        "p95",
        "p99",
        "latency p50, ms",
        "p95",
        "p99",
    ]
    evidence.svg("TTFT and latency", distributions(arriving.loads[:-1]))
    evidence.table("arriving requests", header, [[("too few" if v is None else v) for v in row] for row in rows])
    at, of = arriving.by_percent[TAILS_UP_TO], f"the knee at {found_knee.at.concurrency}"
    count = len(at.completed)
    beyond = less_exact((each.less_exact for each in arriving.loads), "load", evidence)
    measure("loads_beyond_stated_error", beyond, n=len(arriving.loads))
    measure("ttft_ms_p95", at.tail(TTFT, 95), n=count, of=of)
    measure("latency_ms_p95", at.tail(LATENCY, 95), n=count, of=of)
    measure("itl_ms_mean", mean(at.itl_ms), n=count, of=of)
    if count >= LEAST_N[99] or measure.is_bounded("ttft_ms_p99"):
        measure("ttft_ms_p99", percentile(values(at.requests, TTFT), 99), n=count, of=of)
    if count >= LEAST_N[99] or measure.is_bounded("latency_ms_p99"):
        measure("latency_ms_p99", percentile(values(at.requests, LATENCY), 99), n=count, of=of)
    wrong.judge()
    measure.judge()


@check(
    "M12-09",
    judged="the mean TTFT at 50 % of the knee's rate after an overload has drained, over that before it; no request "
    "failed meanwhile. The overload is 125 % of the knee's rate; where that is less than 110 % of the most that the "
    "sweep has seen served, it is 125 % of that. Where no requests queued in it, and TTFT after it is in bounds, "
    "nothing was recovered from, and the check is not covered",
    evidence="table",
    by_hand="the same load again, after too much of it",
)
def test_overload_leaves_nothing_behind(arriving: Arriving, evidence: Evidence, measure: Measure):
    """After more than it can serve, the deployment serves as before."""
    before, over, after = arriving.by_percent[RECOVERS_AT], arriving.overload, arriving.recovered
    rows = [(each.name, len(each.completed), mean(each.ttft_ms), mean(each.itl_ms)) for each in (before, over, after)]
    evidence.table("before, during and after", ["load", "completed", "TTFT, ms", "ITL, ms"], rows)
    lost = [str(each) for each in over.requests if each not in over.completed]
    Findings(lost[:3]).judge(f"{len(lost)} requests of the overload")
    first, during, last = (mean(each.ttft_ms) for each in (before, over, after))
    queued = measure("ttft_in_overload_ratio", during / first if first and during else None, n=len(over.completed))
    slower = measure("ttft_after_overload_ratio", last / first if first and last else None, n=len(after.completed))
    if queued.value is not None and queued.judgement == "fail" and slower.judgement != "fail":
        raise NotMeasured(
            f"{over.name} was no overload: its mean TTFT is {queued.value:.2g} times that before it, and "
            f"{queued.threshold} shows that requests queued{arriving.starved and f'; {arriving.starved}'}"
        )
    measure.judge()


@check(
    "M12-10",
    judged="at each rate the share of all requests sent that keep both limits of each named service level; of the "
    "level that dynamo_slo names, at 75 % of the knee, where that load is steady (M12-08), judged against what that "
    "level asks for",
    evidence="table of goodput",
    by_hand='aiperf profile --goodput "time_to_first_token:200 inter_token_latency:50"',
)
def test_goodput_keeps_the_service_level(
    inventory: Inventory, arriving: Arriving, evidence: Evidence, measure: Measure
):
    """Up to 75 % of the knee as many requests as the service level asks for keep it."""
    levels = profiles(inventory.path)
    loads = arriving.by_percent
    rows = [
        (name, f"{slo.ttft_ms:g}", f"{slo.tpot_ms:g}", *(slo.goodput_percent(each.requests) for each in loads.values()))
        for name, slo in levels.items()
    ]
    header = ["service level", "TTFT, ms", "TPOT, ms", *(f"% kept at {percent} %" for percent in loads)]
    evidence.table("goodput", header, rows)
    chosen = inventory.cluster.dynamo_slo
    if chosen is None:
        raise NotOffered("dynamo_slo is not set: goodput is reported for each level, and none is judged")
    Findings(arriving.unsteady).judge()
    slo, at = named(chosen, inventory.path), loads[TAILS_UP_TO]
    if len(at.requests) < slo.fewest:
        raise NotMeasured(f"a level of {slo.percent:g} % takes {slo.fewest} requests, and {len(at.requests)} were sent")
    goodput = slo.goodput_percent(at.requests)
    measure("goodput_percent", goodput, n=len(at.requests))
    measure("goodput_beyond_asked", None if goodput is None else goodput - slo.percent, n=len(at.requests))
    measure.judge()
