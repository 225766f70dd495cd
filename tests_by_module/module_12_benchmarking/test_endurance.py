"""A load that goes on: what grows meanwhile, and what is left of it afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.knee import Knee
from fixtures.benchmark.sending import Sent, mean
from fixtures.benchmark.sizes import Sizes
from fixtures.benchmark.slope import of_processes
from fixtures.drift.chart import over_the_run
from fixtures.drift.sample import Sample
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_12_benchmarking.loads import Loads

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("quiet"),
    pytest.mark.performance,
    pytest.mark.endurance,
]
ROUNDS = 9
UNITS = {"memory": "MB", "descriptors": "descriptors", "threads": "threads"}


@dataclass(frozen=True)
class Endured:
    """The rounds of the load, a sample after each, and what was in use after each: leases in etcd, KV blocks."""

    rounds: Sequence[Sent]
    samples: Sequence[Sample]
    leases: Sequence[int]
    kv_blocks: Sequence[float]


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
    count = max(20, round(usual.requests_per_s * pytestconfig.getoption("--endurance") / ROUNDS))
    plan = sizes.at_once(usual.plan.concurrency or 1, seed + 500)
    taken, rounds, leases, blocks = len(run.history.samples), [], [], []
    for number in range(1, ROUNDS + 1):
        rounds.append(shapes.send(f"round {number}", replace(plan, seed=plan.seed + number, count=count)))
        run.history.take(f"endurance, round {number}")
        with deployment.etcd_client() as etcd:
            leases.append(len({key.lease_id for key in etcd.prefix("v1/") if key.lease_id}))
        name = deployment.settings.dialect.metrics.frontend_kv_blocks
        blocks.append(deployment.frontend_metrics().total_or_zero(name))
    return Endured(rounds, run.history.samples[taken:], leases, blocks)


@check(
    "M12-17",
    judged="after each of nine rounds of a load: memory, descriptors and threads of each process over the requests "
    "that it served, as a slope with its 95 % interval, of which the lower end is judged; leases, KV blocks in use, "
    "and TTFT of the last third over the first",
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
    evidence.table("growth", ["process", "node", "of", "unit", "by 1000 requests", "from", "to", "samples"], rows)
    evidence.svg("over the load", over_the_run(endured.samples))
    ttft = [mean(each.ttft_ms) or 0.0 for each in endured.rounds]
    header = ["load", "completed", "TTFT, ms", "leases", "KV blocks in use"]
    counts = [len(each.completed) for each in endured.rounds]
    names = [each.name for each in endured.rounds]
    evidence.table("rounds", header, zip(names, counts, ttft, endured.leases, endured.kv_blocks, strict=True))
    wrong = Findings()
    if lost := [str(each) for load in endured.rounds for each in load.requests if each not in load.completed]:
        wrong.add(f"{len(lost)} requests were not completed; {lost[0]}")
    if len(set(endured.leases)) > 1:
        wrong.add(f"the leases in etcd change while nothing joins or leaves: {', '.join(map(str, endured.leases))}")
    if endured.kv_blocks[-1]:
        wrong.add(f"{endured.kv_blocks[-1]:g} KV blocks are in use after the last request has ended")
    wrong.judge()
    least = {
        what: max((1000 * each.low for _, _, each in processes), default=None) for what, processes in found.items()
    }
    served = sum(counts)
    measure("memory_mb_a_1000_requests", least["memory"], n=served)
    measure("descriptors_a_1000_requests", least["descriptors"], n=served)
    measure("threads_a_1000_requests", least["threads"], n=served)
    third = ROUNDS // 3
    first, last = fmean(ttft[:third]), fmean(ttft[-third:])
    measure("ttft_drift_ratio", last / first if first else None, n=served)
    measure.judge()
