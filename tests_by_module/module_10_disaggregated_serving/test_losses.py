"""A side is lost under load: what the client sees, and that it all comes back."""

from contextlib import suppress

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, pause, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.faults import Killed, in_place
from fixtures.faults.chart import fault_timeline
from fixtures.load.from_node import background_load
from fixtures.load.plan import LoadPlan
from fixtures.load.request import COMPLETED, HUNG
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run
from tests_by_module.module_10_disaggregated_serving.prefill_decode import OwnSides

pytestmark = [pytest.mark.needs("managed", why="breaks"), pytest.mark.needs("real_engine"), pytest.mark.destructive]

BEFORE, AFTER, LOST_FOR_S, SERVES_WITHIN_S = 8, 12, 5, 60


def ended_as_well(own_sides: OwnSides, lost: Worker) -> list[str]:
    """A few words on each worker that is not there any more, but for the one that the suite has killed."""
    gone = [each for each in (*own_sides.prefill, *own_sides.decode) if each is not lost and not each.is_alive()]
    return [f"{each.name} ended as well: {each.why()}" for each in gone]


@check(
    "M10-11",
    judged="SIGKILL to prefill, then to decode, under load: none hung, and none failed once it is back; what failed "
    "meanwhile is recorded; where there are others of its type, they go on; no other worker ends",
    evidence="timeline",
    by_hand="kill -9 -- -PGID of a worker under load; start it again",
)
@pytest.mark.known_defect(
    issue="sglang, not reported",
    versions=">=1.4,<1.5",
    shows=r"decode was killed, and \S*prefill\S* ended as well",
    reason="A prefill worker of SGLang 0.5.16 that writes to a decode worker when that dies ends by a segmentation "
    "fault in NIXL's transfer. A supervisor must restart both",
    engine="sglang",
    sometimes=True,
)
@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_requests_end_while_a_side_is_lost_and_it_comes_back(
    kind: str, run: Run, own_sides: OwnSides, client: Equipment, measure: Measure, evidence: Evidence
):
    """While one side is away requests fail or are served, none hangs; once it is back all are served."""
    deployment, (worker, *others) = own_sides.deployment, own_sides.both[kind]
    registered = own_sides.registered(worker)
    ready_s = worker.runtime.spec.settings.ready_within_s
    loading = LoadPlan(
        seed=run.seed + 11,
        prompt_tokens=(64, 256),
        output_tokens=(20, 40),
        within_s=60,
        concurrency=4,
        connect_within_s=5,
    )
    fault = run.at("module_10.fault", Killed(worker), name=f"{kind}_lost", deployment=deployment)
    with background_load(
        client.node, client.runtime, [deployment.frontend_url], deployment.settings.model_name, loading
    ) as sent:
        sent.wait_until_completed(BEFORE, Deadline(60, "a quiet beginning"))
        with in_place(fault, sent.mark, healed_within_s=ready_s):
            pause(LOST_FOR_S, "some time without it")
        own_sides.wait_until_back(worker, registered)
        back = sent.mark(f"{kind} is back")

        def served() -> tuple[int | None, object]:
            done = [r for r in sent.so_far() if r.sent_at_s >= back.at_s and r.outcome == COMPLETED]
            return len(done) >= AFTER or None, f"{len(done)} requests that were sent since are completed"

        with suppress(DeadlineExceeded):  # then no measurement is within its bounds
            wait_until(served, Deadline(SERVES_WITHIN_S, f"requests to be served with {worker.name} back"), every_s=0.5)
        load = sent.finish()
    killed = load.moments[0]
    evidence.svg("timeline", fault_timeline(f"{kind} is killed and comes back", load.requests, load.moments))
    meanwhile = [each for each in load.requests if each.ended_at_s >= killed.at_s and each.sent_at_s < back.at_s]
    failed = [each for each in meanwhile if each.outcome != COMPLETED]
    since = [each for each in load.requests if each.sent_at_s >= back.at_s]
    served_first = min((r for r in since if r.outcome == COMPLETED), key=lambda r: r.sent_at_s, default=None)
    # a frontend needs a moment to take in who has come: how long is measured for itself
    later = [r for r in since if served_first and r.sent_at_s >= served_first.sent_at_s]
    ends = [[outcome, count] for outcome, count in load.outcomes.items()]
    evidence.table("ends of requests", ["end", "requests"], ends)
    if failed:
        evidence.note("what a client saw first", str(failed[0]))
    Findings(f"{kind} was killed, and {each}" for each in ended_as_well(own_sides, worker)).judge()
    measure("hung_requests", load.outcomes[HUNG], n=len(load.requests))
    measure("failed_meanwhile_share", len(failed) / len(meanwhile) if meanwhile else None, n=len(meanwhile))
    if others:
        away = [each for each in meanwhile if killed.at_s < each.sent_at_s and each.ended_at_s < back.at_s]
        completed = sum(each.outcome == COMPLETED for each in away)
        measure("completed_by_others", completed, n=len(away))
    measure("serves_after_s", None if served_first is None else served_first.sent_at_s - back.at_s, n=len(since))
    measure("failed_once_served", sum(each.outcome != COMPLETED for each in later), n=len(later))
    measure.judge()
