"""The baseline: fair, steady enough to be compared with, and kept with its conditions."""

from statistics import mean, median, stdev

import pytest

from fixtures.baseline.figures import METRICS
from fixtures.baseline.record import LEAST_REPEATS, load, unfair
from fixtures.baseline.repeats import SEED, all_parts
from fixtures.baseline.run_set import MeasuredSet, path_of
from fixtures.baseline.utilization_chart import busy_timeline
from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.load.workloads import WORKLOADS
from fixtures.product.services.vllm_server import VllmServer
from fixtures.run import Run

pytestmark = [pytest.mark.needs("managed", why="next_to"), pytest.mark.needs("real_engine"), pytest.mark.performance]


@check(
    "M09-03",
    judged="requests by server over all workloads; every request completed",
    evidence="table",
    by_hand="a client that sends each request to the server with fewest in flight",
)
def test_requests_are_spread_fairly_and_none_is_lost(
    servers: list[VllmServer], measured: MeasuredSet, measure: Measure, evidence: Evidence
):
    """Both servers serve about the same number of requests, and every request is answered."""
    names = [server.name for server in servers]
    counts = {
        name: sum(run.replicas[name].requests for run in measured.runs.runs if name in run.replicas) for name in names
    }
    evidence.table(
        "requests by server", ["server", "node", "requests"], [(s.name, s.node.name, counts[s.name]) for s in servers]
    )
    total = sum(counts.values())
    measure("busiest_of_fair_share", max(counts.values()) * len(names) / total if total else None, n=total)
    Findings(measured.failed()).judge()
    measure.judge()


@check(
    "M09-04",
    judged="the slower server's median time of a token over the faster one's",
    evidence="table",
    by_hand="compare the servers' vllm:inter_token_latency_seconds",
)
def test_no_server_holds_the_other_back(
    servers: list[VllmServer], measured: MeasuredSet, measure: Measure, evidence: Evidence
):
    """A token takes the same time on both servers: a slow baseline would flatter what is compared with it."""
    itl = {
        server.name: [
            run.replicas[server.name].itl_ms_p50
            for run in measured.runs.runs
            if server.name in run.replicas and run.replicas[server.name].itl_ms_p50
        ]
        for server in servers
    }
    evidence.table(
        "time of a token",
        ["server", "runs", "median ITL, ms"],
        [(n, len(v), median(v) if v else "-") for n, v in itl.items()],
    )
    told = [median(values) for values in itl.values() if values]
    complete = len(told) == len(servers) and min(told) > 0
    runs = min(len(values) for values in itl.values())
    measure("slower_server_itl_ratio", max(told) / min(told) if complete else None, n=runs)
    measure.judge()


@check(
    "M09-05",
    judged="figures of each repeat; how busy each node is over time (GPUs by nvidia-smi, else CPUs): recorded",
    evidence="figures, curve",
    by_hand="aiperf profile with two --url; nvidia-smi dmon, or /proc/stat, on each node",
)
@pytest.mark.parametrize("workload", ["prefill-heavy", "decode-heavy", "mixed", "shared-prefix"])
def test_workload_is_measured(workload: str, measured: MeasuredSet, measure: Measure, evidence: Evidence):
    """Throughput, latencies and the load of each node are measured several times under each workload."""
    inside = [each for each in measured.measured if each.run.point.workload == workload]
    by_point = {
        point: [run.figures for run in runs]
        for point, runs in measured.runs.by_point().items()
        if point.workload == workload
    }
    rows = [
        (point, metric.label, metric.unit, *(f"{each[name]:.4g}" for each in figures if name in each))
        for point, figures in by_point.items()
        for name, metric in METRICS.items()
        if any(name in each for each in figures)
    ]
    evidence.table("figures", ["workload", "metric", "unit", *(f"run {n + 1}" for n in range(LEAST_REPEATS))], rows)
    busy = [{name: [(s.at_s, s.percent) for s in seen] for name, seen in each.busy.items()} for each in inside]
    evidence.svg("how busy the nodes are", busy_timeline(busy, f"{workload}: how busy each node is"))
    *_, figures = by_point.values()  # the longest prompts at the highest load
    throughput = [each["output_tokens_per_s"] for each in figures]
    measure("output_tokens_per_s", mean(throughput), n=len(figures), repeats=throughput)
    measure("throughput_spread_percent", 100 * stdev(throughput) / mean(throughput), n=len(figures))
    # the mean of the repeats' own: of the tails each has few samples, so nights are compared by the median
    ttft_p50, ttft_p95, latency_p95 = (
        [each[name] for each in figures] for name in ("ttft_ms_p50", "ttft_ms_p95", "latency_ms_p95")
    )
    measure("ttft_ms_p50", mean(ttft_p50), n=len(ttft_p50), repeats=ttft_p50)
    measure("ttft_ms_p95", mean(ttft_p95), n=len(ttft_p95), repeats=ttft_p95)
    measure("latency_ms_p95", mean(latency_p95), n=len(latency_p95), repeats=latency_p95)
    measure("utilization_percent", mean(each["utilization_percent"] for each in figures), n=len(figures))
    measure.judge()


@check(
    "M09-06",
    judged="what is on the disk is what was measured, of the workloads declared, repeated, no request failed",
    evidence="the file",
    by_hand="python -m json.tool reports/latest/baseline-*.json",
)
def test_baseline_is_kept_with_its_conditions(run: Run, measured: MeasuredSet, profile: str, evidence: Evidence):
    """The stored baseline is what was measured, repeated often enough, under the declared workloads."""
    path = path_of(run.report_dir, profile)
    kept = load(path)
    evidence.text(path.name, path.read_text(encoding="utf-8"))
    assert kept == measured.runs, f"{path.name} does not hold what was measured"
    declared = {part.point: part.sha256(SEED) for part in all_parts(profile)}
    found = {each.point: each.workload_sha256 for each in kept.runs}
    assert found == declared, f"{path.name} has other workloads than the profile {profile} of {WORKLOADS.name}"
    # against itself only what is wrong with it alone is left: too few repeats, failed requests, copies
    Findings(unfair(kept, kept)).judge()
