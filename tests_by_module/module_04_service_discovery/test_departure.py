"""How workers join and leave, and how soon etcd and the frontend know."""

import signal
from uuid import uuid4

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.served import require_all_served
from fixtures.clients.inference import complete
from fixtures.product.deployments.deployment import READY_WITHIN_S
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_04_service_discovery.departures import Departure, departing

pytestmark = pytest.mark.needs("managed", why="breaks")

SERVES_WITHIN_S = 15
REQUESTS_AT_ONCE = 8


@check(
    "M04-03",
    judged="watched from before the worker starts: card before instance on arrival, instance before card, in "
    "separate revisions, after SIGTERM",
    evidence="events with times and revisions",
    by_hand="etcdctl watch --prefix v1/",
    causes=[21],
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=0.8.1,<1.4",
    shows="or in one revision as by an expired lease",
    reason="After SIGTERM a worker's instance and its model card go in one revision, as by an expired lease.",
)
def test_events_come_in_order(departure_by_sigterm: tuple[Departure, int | None], evidence: Evidence):
    """A model card is written before its instance and deleted after it."""
    departure, _ = departure_by_sigterm
    begin = departure.events[0].at if departure.events else 0.0
    evidence.table(
        "events",
        ["s", "event", "key", "revision"],
        [[round(e.at - begin, 3), e.kind, e.key, e.revision] for e in departure.events],
    )
    instance, card = departure.worker.instance_key.name, departure.worker.card_key and departure.worker.card_key.name
    puts, deletes = departure.order("put"), departure.order("delete")
    assert card in puts, f"no model card was written; written were {puts}"
    assert puts.index(card) < puts.index(instance), f"the instance was written before its model card: {puts}"
    assert set(deletes) == set(departure.keys), f"not all of {departure.keys} were deleted: {deletes}"
    revision = {event.key: event.revision for event in departure.events if event.kind == "delete"}
    assert revision[instance] < revision[card], (
        "the instance was not deleted before its model card, but after it, or in one revision as by an expired lease: "
        f"{revision}"
    )


@check(
    "M04-04",
    judged="seconds from the signal to the key's deletion; the process ends with 0",
    evidence="measurement",
    by_hand="kill -TERM PID; etcdctl watch --prefix v1/instances/",
    causes=[21],
)
def test_worker_leaves_at_once_on_sigterm(departure_by_sigterm: tuple[Departure, int | None], measure: Measure):
    """After SIGTERM a worker's key is deleted at once, long before its lease expires, and it exits with 0."""
    departure, exit_status = departure_by_sigterm
    measure("key_gone_after_sigterm_s", departure.key_gone_s)
    measure.judge()
    assert exit_status == 0, f"expected exit status 0 of the worker after SIGTERM, got {exit_status}"


@check(
    "M04-05",
    judged="seconds beyond the TTL until the key is deleted",
    evidence="measurements",
    by_hand="kill -KILL -- -PGID; etcdctl lease timetolive LEASE",
    causes=[20, 21, 22],
)
def test_killed_worker_is_gone_within_its_lease(run: Run, managed: ManagedDeployment, measure: Measure):
    """After SIGKILL a worker's keys disappear when its lease expires, and not later."""
    with departing(run, managed, signal.SIGKILL) as (_, so_far):
        departure = so_far()
    gone = departure.key_gone_s
    measure("key_gone_after_sigkill_s", gone)
    measure("key_gone_beyond_ttl_s", None if gone is None else gone - departure.lease_ttl_s)
    measure.judge()


@check(
    "M04-06",
    judged="SIGSTOP beyond the TTL: the key goes, requests go to others; SIGCONT: it ends or registers again",
    evidence="measurements, what it did",
    by_hand="kill -STOP -- -PGID; sleep TTL; kill -CONT -- -PGID",
    causes=[16, 17],
)
def test_zombie_worker_does_not_serve(run: Run, managed: ManagedDeployment, measure: Measure, evidence: Evidence):
    """A worker that was stopped for longer than its lease gets no request; continued, it exits or registers again."""
    with departing(run, managed, signal.SIGSTOP) as (worker, so_far):
        departure = so_far()
        gone = departure.key_gone_s
        measure("key_gone_beyond_ttl_s", None if gone is None else gone - departure.lease_ttl_s)
        measure.judge()  # a worker that is still registered is none yet that should get no request
        answers = [
            complete(managed.endpoint, f"not to the zombie: {uuid4()}", max_tokens=1, timeout_s=10) for _ in range(6)
        ]
        process = worker.require_process()
        process.signal(signal.SIGCONT)
        continued = Deadline(max(SERVES_WITHIN_S, worker.ends_within_s), "the worker to end or to register again")

        def resolved() -> tuple[str | None, object]:
            if not process.is_alive():
                return f"it ended with {process.exit_status()}", None
            ids = {each.instance_id for each in managed.registered_workers()}
            mine = next((e for e in managed.registered_workers() if e.system_url == worker.system_url), None)
            return (f"it registered again as {mine.hex_id}" if mine else None), f"alive, registered are {len(ids)}"

        try:
            how = wait_until(resolved, continued)
        except DeadlineExceeded as error:
            how = None
            evidence.text("zombie", str(error))
        measure("zombie_resolved_s", continued.elapsed_s if how else None)
    evidence.text("after SIGCONT", how or "it kept running without a registration")
    require_all_served(answers, "while the worker was stopped")
    zombie = departure.worker
    assert zombie.instance_id not in {w for a in answers for w in a.worker_ids}, (
        f"worker {zombie.hex_id}, stopped for longer than its lease, served a request"
    )
    measure.judge()


@check(
    "M04-07",
    judged="it registers, and an answer names it within 15 s of load; no request fails",
    evidence="requests by worker",
    by_hand="start one more worker; curl FRONTEND/metrics | grep router_worker",
)
def test_joining_worker_serves(run: Run, managed: ManagedDeployment, evidence: Evidence):
    """A worker that joins a running deployment registers and receives requests."""
    with run.joined_worker(managed) as worker:
        registered = managed.wait_until_registered(worker, Deadline(READY_WITHIN_S, f"{worker.name} to register"))
        counts: dict[int, int] = {}
        failures: list[str] = []

        def ask(_: int) -> None:
            answer = complete(managed.endpoint, f"load for the joining worker: {uuid4()} " * 20, max_tokens=16)
            if not answer.ok:
                failures.append(answer.describe())
            for worker_id in answer.worker_ids:
                counts[worker_id] = counts.get(worker_id, 0) + 1

        def look() -> tuple[bool | None, object]:
            with Threads(REQUESTS_AT_ONCE) as pool:
                list(pool.map(ask, range(REQUESTS_AT_ONCE)))
            return (True if counts.get(registered.instance_id) or failures else None), counts

        try:
            wait_until(look, Deadline(SERVES_WITHIN_S, f"the joined worker {registered.hex_id} to serve a request"))
        except DeadlineExceeded as error:
            raise AssertionError(str(error)) from None
    evidence.table("requests served", ["worker", "requests"], [[f"{w:x}", n] for w, n in counts.items()])
    assert not failures, f"{len(failures)} requests failed while a worker joined: {failures[0]}"
