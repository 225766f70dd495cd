"""How many of the workers should prefill? The same workloads on the same nodes, divided in other ways."""

from statistics import mean

import pytest

from fixtures.baseline.comparison import compare
from fixtures.baseline.ranking import ranked_rows
from fixtures.baseline.record import RunSet, unfair
from fixtures.baseline.run_set import MeasuredSet
from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from tests_by_module.module_10_disaggregated_serving.prefill_decode import Division, Sides

pytestmark = [
    pytest.mark.needs("managed", why="next_to"),
    pytest.mark.needs("real_engine", "divisions"),
    pytest.mark.performance,
]


@check(
    "M10-17",
    judged="the declared division and each of `dynamo_divisions` against the baseline and each other, under the "
    "conditions of `M10-09`, with intervals that hold together; each worker's part of its type's prompt tokens",
    evidence="table, sentences",
    by_hand="start the same workers with another number of --disaggregation-mode prefill; aiperf profile against each",
)
@pytest.mark.parametrize("workload", ["prefill-heavy", "decode-heavy", "mixed", "shared-prefix"])
def test_best_division_of_the_workers_is_told(
    workload: str,
    baseline: RunSet,
    divisions: dict[str, Division | Exception],
    sides: Sides,
    disaggregated_set: MeasuredSet,
    profile: str,
    measure: Measure,
    evidence: Evidence,
):
    """The comparison says which division of the workers into prefill and decode is best, with all of them at work."""
    for found in divisions.values():
        if isinstance(found, Exception):
            raise found
    there = {name: found for name, found in divisions.items() if isinstance(found, Division)}
    declared = f"{len(sides.prefill)}+{len(sides.decode)}"
    sets = {"baseline": baseline, declared: disaggregated_set.runs}
    sets |= {name: found.runs[profile] for name, found in there.items()}
    Findings(wrong for runs in list(sets.values())[1:] for wrong in unfair(baseline, runs)).judge()
    evidence.table("by division, prefill first", ["workload", "metric", *sets, "best"], ranked_rows(sets, workload))
    for name, runs in list(sets.items())[1:]:
        evidence.note(f"{name} and the baseline", "\n".join(compare(baseline, runs).summary(workload)))
    shares = {
        f"{worker} of {name}": share for name, found in there.items() for worker, share in found.of_equal_share.items()
    }
    evidence.table(
        "who counted the prompts", ["worker", "of an equal share"], [(w, f"{s:.2f}") for w, s in shares.items()]
    )
    throughput = {
        name: [mean(run.figures["output_tokens_per_s"] for run in of_point)
               for point, of_point in runs.by_point().items() if point.workload == workload]
        for name, runs in sets.items()
    }  # fmt: skip
    others = max(mean(a / b for a, b in zip(throughput[name], throughput[declared], strict=True)) for name in there)
    measure("throughput_of_declared_division", others, n=len(throughput[declared]))
    measure("least_of_equal_share", min(shares.values()), n=sum(run.requests for run in disaggregated_set.runs.runs))
    measure.judge()
