"""A load that goes on: what grows meanwhile, and what is left of it afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.errors import NotMeasured, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.knee import Knee
from fixtures.benchmark.sending import Sent, mean
from fixtures.benchmark.sizes import Sizes
from fixtures.benchmark.slope import highest_low, of_processes, slope
from fixtures.drift.chart import numbers, over_the_run
from fixtures.drift.judges import unseen_processes
from fixtures.drift.sample import Sample
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_12_benchmarking.loads import FREED_WITHIN_S, Loads

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
    pytest.mark.endurance,
]
ROUNDS = 9
UNITS = {"memory": "MB", "descriptors": "descriptors", "threads": "threads"}
KV_ROUTER = "kv"
NO_KV_ROUTER = (
    "KV blocks in use are not shown where dynamo_router_mode is {}: a KV router counts them. All else was judged"
)


@dataclass(frozen=True)
class Endured:
    """The rounds of the load, a sample after each, and what was in use after each: leases in etcd, KV blocks.

    `no_kv_blocks`: why there are none of the last."""

    rounds: Sequence[Sent]
    samples: Sequence[Sample]
    leases: Sequence[int]
    kv_blocks: Sequence[float]
    no_kv_blocks: str = ""


@pytest.fixture(scope="package")
def endured(
    pytestconfig: pytest.Config,
    run: Run,
    seed: int,
    deployment: Deployment,
    sweep: Sequence[Sent],
    found_knee: Knee,
    shapes: Loads,
    sizes: Sizes,
) -> Endured:
    """Rounds of the greatest load below the knee, together as long as --endurance says."""
    below = [each for each in sweep if (each.plan.concurrency or 0) < found_knee.at.concurrency]
    usual = below[-1] if below else sweep[0]
    count = max(sizes.round_requests, round(usual.requests_per_s * pytestconfig.getoption("--endurance") / ROUNDS))
    plan = sizes.at_once(usual.plan.concurrency or 1, seed + 500)
    taken, rounds, leases, blocks = len(run.history.samples), [], [], []
    without = why_no_kv_blocks(deployment)
    for number in range(1, ROUNDS + 1):
        rounds.append(shapes.send(f"round {number}", replace(plan, seed=plan.seed + number, count=count)))
        run.history.take(f"endurance, round {number}")
        with deployment.etcd_client() as etcd:
            leases.append(len({key.lease_id for key in etcd.prefix("v1/") if key.lease_id}))
        if not without:
            blocks.append(kv_blocks_left(deployment))
    return Endured(rounds, run.history.samples[taken:], leases, blocks, without)


def why_no_kv_blocks(deployment: Deployment) -> str:
    """Empty where the frontend shows them, or has to: then they are looked for."""
    settings = deployment.settings
    shown = settings.router_mode == KV_ROUTER or deployment.frontend_metrics().series(
        settings.dialect.metrics.frontend_kv_blocks
    )
    return "" if shown else NO_KV_ROUTER.format(settings.router_mode)


def kv_blocks_left(deployment: Deployment, within_s: float = FREED_WITHIN_S) -> float:
    """How many are in use: 0 as soon as all are free, else those that are not after so many seconds."""
    gauge, used = deployment.settings.dialect.metrics.frontend_kv_blocks, 0.0

    def look() -> tuple[float | None, object]:
        nonlocal used
        used = deployment.frontend_metrics().total(gauge)
        return (None if used else used), f"{used:g} in use"

    try:
        return wait_until(look, Deadline(within_s, "the KV blocks of a round to be free"))
    except DeadlineExceeded:
        return used


@check(
    "M12-17",
    judged="after each of nine rounds of a load: memory, descriptors and threads of each process over the requests "
    "that it served, as a slope with its 95 % interval, of which the lower end is judged; one that is not known to "
    "within its bound is not covered. Leases, which stay as they are, KV blocks in use, of which none are left 5 s "
    "after any round, and TTFT and ITL of the last third over the first, with their slopes",
    evidence="chart, tables of slopes and rounds",
    by_hand="grep -E 'VmRSS|Threads' /proc/PID/status under a load, for hours",
)
def test_nothing_grows_under_a_load_that_goes_on(endured: Endured, measure: Measure, evidence: Evidence):
    """Under a load that goes on nothing grows, and nothing is left in use between its rounds."""
    found = {what: of_processes(endured.samples, what) for what in UNITS}
    rows = [
        (name, node, what, UNITS[what], 1000 * each.by, 1000 * each.low, 1000 * each.high, each.points)
        for what, processes in found.items()
        for name, node, each in processes
    ]
    ttft = [mean(each.ttft_ms) or 0.0 for each in endured.rounds]
    itl = [mean(each.itl_ms) or 0.0 for each in endured.rounds]
    counts = [len(each.completed) for each in endured.rounds]
    served = list(accumulate(counts))
    others: dict[str, tuple[str, Sequence[float]]] = {
        "TTFT": ("ms", ttft),
        "ITL": ("ms", itl),
        "leases": ("leases", endured.leases),
    }
    if endured.kv_blocks:
        others["KV in use"] = ("blocks", endured.kv_blocks)
    for what, (unit, seen) in others.items():
        line = slope(list(zip(served, seen, strict=True)))
        rows.append(("the deployment", "", what, unit, 1000 * line.by, 1000 * line.low, 1000 * line.high, line.points))
    evidence.table("growth", ["process", "node", "of", "unit", "by 1000 requests", "from", "to", "samples"], rows)
    evidence.svg("over the load", over_the_run(endured.samples))
    evidence.table("over the load", *numbers(endured.samples))
    header = ["load", "completed", *(f"{what}, {unit}" for what, (unit, _) in others.items())]
    names = [each.name for each in endured.rounds]
    evidence.table("rounds", header, zip(names, counts, *(seen for _, seen in others.values()), strict=True))
    wrong = Findings()
    if lost := [str(each) for load in endured.rounds for each in load.requests if each not in load.completed]:
        wrong.add(f"{len(lost)} requests were not completed; {lost[0]}")
    if not all(endured.leases):
        wrong.add("no key in etcd has a lease: that of each worker should be there")
    if unseen := {name: why for each in endured.samples for name, why in unseen_processes(each).items()}:
        wrong.extend(f"{name} was not seen: {why}" for name, why in unseen.items())
    if len(set(endured.leases)) > 1:
        wrong.add(f"the leases in etcd change while nothing joins or leaves: {', '.join(map(str, endured.leases))}")
    if left := [f"{used:g} after {name}" for name, used in zip(names, endured.kv_blocks, strict=False) if used]:
        wrong.add(f"KV blocks are in use when all requests of a round have ended: {', '.join(left)}")
    wrong.judge()
    least = {what: highest_low([each for _, _, each in processes]) for what, processes in found.items()}
    by_1000 = {what: None if low is None else 1000 * low for what, low in least.items()}
    bounds = {
        "memory": measure("memory_mb_a_1000_requests", by_1000["memory"], n=served[-1]),
        "descriptors": measure("descriptors_a_1000_requests", by_1000["descriptors"], n=served[-1]),
        "threads": measure("threads_a_1000_requests", by_1000["threads"], n=served[-1]),
    }
    measure("ttft_drift_ratio", drift(ttft), n=served[-1])
    measure("itl_drift_ratio", drift(itl), n=served[-1])
    measure.judge()
    unknown = [
        f"the {what} of {name} on {node} change by {1000 * each.low:.3g} to {1000 * each.high:.3g} with 1000 requests"
        for what, processes in found.items()
        for name, node, each in processes
        if (bound := bounds[what].threshold) and bound.max is not None and each.too_wide(bound.max / 1000)
    ]
    if unknown:
        more = f", and {len(unknown) - 1} more" * (len(unknown) > 1)
        raise NotMeasured(f"{unknown[0]}{more}: known less exactly than to the bound; a longer --endurance shows more")
    if endured.no_kv_blocks:
        raise NotOffered(endured.no_kv_blocks)


def drift(found: Sequence[float]) -> float | None:
    """The last third of them over the first."""
    third = len(found) // 3
    first, last = fmean(found[:third]), fmean(found[-third:])
    return last / first if first else None
