"""Engines that compute against each other, under the same load."""

import pytest

from fixtures.baseline.curves import comparison_rows
from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from tests_by_module.module_03_workers_and_backends.engine_speed import (
    WORKLOAD,
    Speed,
    compared,
    speed_rows,
    start_rows,
)

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("real_engine", "side_by_side"),
    pytest.mark.performance,
]


@check(
    "M03-24",
    judged="each engine alone, behind a frontend, under the same requests (engine_speed.yaml), repeated: TTFT, ITL and "
    "throughput with intervals, seconds to serve, memory; that no request failed is judged, the rest recorded",
    evidence="figures of each engine, differences, start and memory",
    by_hand="aiperf profile --concurrency 64 against each engine; nvidia-smi --query-compute-apps=pid,used_memory",
)
def test_engines_are_measured_under_the_same_load(speeds: list[Speed], measure: Measure, evidence: Evidence):
    """Engines that compute are measured under the same load, and compared with intervals."""
    names = [each.name for each in speeds]
    evidence.table("engines under the same load", ["requests at once", "metric", *names], speed_rows(speeds))
    evidence.table("start and memory", ["what was seen", *names], start_rows(speeds))
    pairs = compared(speeds)
    for (one, other), comparison in pairs.items():
        evidence.note(f"{other} against {one}", "\n".join(comparison.summary(WORKLOAD)))
        headers = ["load", "metric", one, other, "difference", "interval", "what is shown", "runs"]
        evidence.table(f"{other} against {one}, by metric", headers, [row[:-1] for row in comparison_rows(comparison)])
    Findings(wrong for each in speeds for wrong in each.failed()).judge()
    ratios = {
        metric: [
            each.ratio
            for (one, _), comparison in pairs.items()
            for each in comparison.differences
            if one == names[0] and each.metric == metric and not each.why_not
        ]
        for metric in ("output_tokens_per_s", "ttft_ms_p50")
    }
    throughput, ttft = ratios.values()
    measure("throughput_of_first", min(throughput, default=None), n=len(throughput))
    measure("ttft_p50_of_first", max(ttft, default=None), n=len(ttft))
    measure.judge()
