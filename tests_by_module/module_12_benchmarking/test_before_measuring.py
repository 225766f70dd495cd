"""What a measurement stands on: every worker is measured, and the client has time to measure."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.benchmark.accounts import less_exact
from fixtures.benchmark.sending import Sent
from tests_by_module.module_12_benchmarking.loads import Swept

# no figure of these is compared with another run's, so they need no nodes for themselves
pytestmark = [pytest.mark.needs("managed", why="next_to"), pytest.mark.needs("quiet")]


@pytest.mark.smoke
@check(
    "M12-01",
    judged="each worker's own counter of requests over 16 requests for each worker, before anything is measured; where "
    "one stood idle there is no number at all, and the run is INCOMPLETE",
    evidence="table of workers",
    by_hand="curl WORKER/metrics before and after a few requests",
)
def test_every_worker_serves_before_the_measurement(warm: Sent, evidence: Evidence, measure: Measure):
    """Every worker has served requests before the measurement begins."""
    evidence.table("the warm-up", ["worker", "requests"], [(f"{worker:x}", n) for worker, n in warm.workers.items()])
    measure("least_served", min(warm.workers.values()), n=len(warm.workers))
    measure.judge()


@check(
    "M12-02",
    judged="at each point of the sweep the client's share of its core, how late it sent and read, and whether it "
    "waited for a processor; at how many points its numbers are less exact than `fixtures calibrate` says. A load at "
    "which the client is the bottleneck fails the check and ends the sweep; where the lower loads do not show the "
    "knee, there is no number at all",
    evidence="table",
    by_hand="top -p PID of the client",
)
def test_client_is_not_the_bottleneck(swept: Swept, evidence: Evidence, measure: Measure):
    """The client that measures has processor time to spare at every load."""
    costs = {each.name: each.client for each in swept.loads}
    rows = [(name, it.cpu_share_max, it.late_ms_p99, it.lag_ms_p99, it.waited_share) for name, it in costs.items()]
    header = ["load", "share of its core, at most", "late, ms p99", "lag, ms p99", "waited for a processor"]
    evidence.table("the client", header, rows)
    Findings(filter(None, [swept.starved])).judge()
    beyond = less_exact((each.less_exact for each in swept.loads), "load", evidence)
    measure("loads_beyond_stated_error", beyond, n=len(costs))
    measure("client_cpu_percent", max(100 * it.cpu_share_max for it in costs.values()), n=len(costs))
    measure.judge()
