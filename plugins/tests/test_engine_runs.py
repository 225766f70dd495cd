"""On two nodes of a lab, a short form of the modules that need an engine which computes; the long one is nightly."""

from pathlib import Path

import pytest

from fixtures.tests.module_source import checks_of
from plugins.tests.plant_run import ROOT, copy_of_the_suite, run_suite

# three pairs of engines start, each in 150 s on slow processors that others use as well
WITHIN_S = 1800
pytestmark = [pytest.mark.slow, pytest.mark.timeout(WITHIN_S)]

# an engine keeps its contract and is exact, two servers without Dynamo as well; disaggregated it is exact, too, prefill
# ran where it should and its KV came over the data link; NIXL moves bytes whole by the way that is declared
CHECKS = ("M03-01", "M03-02", "M03-11", "M09-01", "M09-02", "M10-01", "M10-02", "M10-06", "M10-07", "M11-01", "M11-06")


def test_an_engine_that_computes_is_accepted(tmp_path: Path) -> None:
    chosen = [check.node_id for check in checks_of(ROOT) if check.id in CHECKS]
    run = run_suite(copy_of_the_suite(tmp_path), *chosen, inventory="lab-vllm", within_s=WITHIN_S)
    outcomes = {check["id"]: check["outcome"] for check in run.record["checks"]}
    assert outcomes == dict.fromkeys(CHECKS, "passed"), run.output
    assert (run.exit_status, run.record["verdict"], run.record["tear_down_errors"]) == (0, "ACCEPTED", []), run.output
