"""Does it pay? The same workloads on the same nodes, with and without Dynamo."""

from datetime import UTC, datetime

import pytest

from fixtures.baseline.comparison import Comparison, compare
from fixtures.baseline.curves import HEADERS, comparison_curves, comparison_rows
from fixtures.baseline.record import RunSet, unfair
from fixtures.baseline.run_set import MeasuredSet
from fixtures.basics.check import check
from fixtures.basics.errors import BringUpFailed
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.load.workloads import profiles

FAIR_CHECK = "M10-09"
pytestmark = [pytest.mark.needs("managed", why="next_to"), pytest.mark.needs("real_engine"), pytest.mark.performance]


@pytest.fixture(scope="package")
def compared(baseline: RunSet, disaggregated_set: MeasuredSet) -> Comparison:
    """Raises BringUpFailed for two sets that must not be compared."""
    if wrong := unfair(baseline, disaggregated_set.runs):
        raise BringUpFailed(FAIR_CHECK, *wrong)
    return compare(baseline, disaggregated_set.runs)


@check(
    "M10-09",
    judged="hardware, versions, settings, model, hash of the requests, repeats, no failed request, age",
    evidence="conditions",
    by_hand="diff the conditions of two baseline files: hardware, versions, model, settings",
)
def test_baseline_and_dynamo_may_be_compared(
    baseline: RunSet, disaggregated_set: MeasuredSet, measure: Measure, evidence: Evidence
):
    """Baseline and Dynamo ran the same hardware, engine, model and requests, repeatedly, without a failed request."""
    sides = (baseline, disaggregated_set.runs)
    rows = [
        (side.deployment, " + ".join(node.kind for node in side.hardware), *map(str, (side.versions, side.settings)),
         str(side.model), len(side.runs))
        for side in sides
    ]  # fmt: skip
    evidence.table("conditions", ["deployment", "hardware", "versions", "settings", "model", "runs"], rows)
    days = (datetime.now(UTC) - baseline.measured_at).total_seconds() / 86400
    measure("baseline_age_days", days)
    wrong = unfair(*sides)
    Findings(wrong).judge()
    measure.judge()


@check(
    "M10-10",
    judged="every metric at every point and on average, with intervals that hold together; the ratios are recorded, "
    "a site sets its bounds",
    evidence="sentence, curves, table",
    by_hand="aiperf profile against both; compare the repeats' means with their intervals",
)
@pytest.mark.parametrize("workload", ["prefill-heavy", "decode-heavy", "mixed", "shared-prefix"])
def test_dynamo_against_the_baseline(
    workload: str, compared: Comparison, profile: str, measure: Measure, evidence: Evidence
):
    """The comparison says what is better, worse or no different, and from which prompt length and load on."""
    assert workload in profiles()[profile], f"the profile {profile} has no workload {workload}"
    evidence.note("in words", "\n".join(compared.summary(workload)))
    evidence.svg("curves", comparison_curves(compared, workload))
    rows = [row for row in comparison_rows(compared) if row[0].startswith(f"{workload},")]
    evidence.table("baseline against Dynamo", HEADERS, rows)
    inside = [each for each in compared.differences if each.point.workload == workload and not each.why_not]
    ratios = {
        name: [each.ratio for each in inside if each.metric == name] for name in ("output_tokens_per_s", "ttft_ms_p95")
    }
    throughput, ttft = ratios.values()
    measure("throughput_of_baseline", min(throughput, default=None), n=len(throughput))
    measure("ttft_p95_of_baseline", max(ttft, default=None), n=len(ttft))
    measure.judge()
