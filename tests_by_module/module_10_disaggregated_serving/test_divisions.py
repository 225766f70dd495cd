"""How many of the workers should prefill? The same workloads on the same nodes, divided in other ways."""

import pytest

from fixtures.baseline.ranking import ranking
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
    declared = f"{len(sides.prefill)}+{len(sides.decode)}"
    measured = {name: each for name, each in divisions.items() if isinstance(each, Division)}
    sets = {"baseline": baseline, declared: disaggregated_set.runs}
    sets |= {name: each.runs[profile] for name, each in measured.items()}
    Findings(wrong for runs in list(sets.values())[1:] for wrong in unfair(baseline, runs)).judge()
    ranked = ranking(sets)
    evidence.table("by division, prefill first", ["workload", "metric", *sets, "best"], ranked.rows(workload))
    for (one, other), compared in ranked.compared.items():
        evidence.note(f"{other} against {one}", "\n".join(compared.summary(workload)))
    for each in divisions.values():
        if isinstance(each, Exception):
            raise each
    shares = {f"{who} of {name}": part for name, each in measured.items() for who, part in each.of_equal_share.items()}
    rows = [(who, f"{part:.2f}") for who, part in shares.items()]
    evidence.table("who counted the prompts", ["worker", "of an equal share"], rows)
    ratios = {name: ranked.ratio("output_tokens_per_s", workload, declared, name) for name in measured}
    measure("best_other_of_declared", max(filter(None, ratios.values()), default=None), n=len(baseline.runs))
    requests = [sum(run.requests for runs in each.runs.values() for run in runs.runs) for each in measured.values()]
    measure("least_of_equal_share", min(shares.values()), n=min(requests))
    measure.judge()
