"""Workers come and go on another node while requests are under way."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.faults.chart import fault_timeline
from fixtures.faults.timeline import hit, lost
from tests_by_module.module_08_multi_node_workers.history import Scaled
from tests_by_module.module_08_multi_node_workers.workers_by_node import by_worker, of_fair_share

pytestmark = [
    pytest.mark.needs("multi_node"),
    pytest.mark.needs("managed", why="breaks"),
    pytest.mark.long_wait(together=True),
]


@check(
    "M08-04",
    judged="20 requests a second to one worker; another joins on the second node: none lost, seconds from its "
    "registration to its first request, its share from then on",
    evidence="timeline, requests by worker",
    by_hand="start a worker on the other node under load",
    causes=[28],
)
def test_worker_that_joins_on_another_node_takes_its_share(scaled: Scaled, measure: Measure, evidence: Evidence):
    """A worker that joins on another node under load soon takes its share, and no request is lost."""
    joined, leaves = scaled.registered.at_s, scaled.signalled.at_s
    evidence.svg(
        "a worker joins and leaves",
        fault_timeline("a worker joins and leaves", scaled.load.requests, scaled.load.moments),
    )
    until_it_left = [request for request in scaled.load.requests if request.ended_at_s < leaves]
    first = min(request.sent_at_s for request in scaled.load.requests if scaled.came in request.worker_ids)
    served = by_worker(scaled.between(first, leaves))
    counts = {each: served[each] for each in (scaled.stayed, scaled.came)}
    evidence.table("requests once both serve", ["worker", "requests"], [[f"{w:x}", n] for w, n in counts.items()])
    measure("lost_requests", len(lost(until_it_left)), n=len(until_it_left))
    measure("joined_serves_after_s", max(0.0, first - joined))
    measure("joined_of_fair_share", of_fair_share(counts, scaled.came), n=sum(counts.values()))
    measure.judge()


@check(
    "M08-05",
    judged="SIGTERM to the worker that joined, with requests under way on it, the frontend having `--migration-limit "
    "1`: none lost, none that it had begun goes on elsewhere, seconds for which it is still given requests, "
    "it ends with 0",
    evidence="lost requests",
    by_hand="kill -TERM PID of one of two workers under load",
    causes=[21],
)
def test_worker_that_leaves_loses_nothing(scaled: Scaled, measure: Measure, evidence: Evidence):
    """A worker that leaves by SIGTERM under load finishes what it began and gets no new request."""
    leaves = scaled.signalled.at_s
    under_way = [each for each in hit(scaled.load.requests, leaves, leaves) if scaled.came in each.worker_ids]
    after = [request for request in scaled.load.requests if request.ended_at_s >= leaves]
    harmed = lost(after)
    evidence.table("lost requests", ["request"], [[str(request)] for request in harmed])
    if not under_way and not harmed and not scaled.broken_off:
        raise CouldNotLook("the worker had nothing under way when it was to leave: its leaving shows nothing")
    last = max((each.sent_at_s for each in scaled.load.requests if scaled.came in each.worker_ids), default=leaves)
    measure("lost_requests", len(harmed), n=len(after))
    measure("broken_off_requests", scaled.broken_off, n=len(after))
    measure("refused_requests", scaled.refused, n=len(after))
    measure("given_requests_until_s", max(0.0, last - scaled.arrived.at_s))
    measure("under_way_when_it_left", len(under_way))
    measure.judge()
    assert scaled.exit_status == 0, f"the worker ended with {scaled.exit_status} after SIGTERM"
