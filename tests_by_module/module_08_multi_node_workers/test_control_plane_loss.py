"""A frontend's node and etcd's node are lost under load, and come back."""

from collections.abc import Iterator
from typing import Any

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.faults import NicDown, PoweredOff
from fixtures.faults.timeline import require_none_lost
from fixtures.load.request import COMPLETED
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_08_multi_node_workers.losses import Loss, failed_as_known, lose, no_loss, places

pytestmark = [
    pytest.mark.needs("managed", "multi_node", "lab", why="breaks"),
    pytest.mark.usefixtures("mended_afterwards"),
    pytest.mark.long_wait(together=True),
]

# a lease is renewed when half of it is left: an outage of 2 s is shorter than that, whenever it begins
LEASE_TTL_S, SHORT_S = 6, 0.5
# a client that waits longer than that for a connection takes the frontend for dead
CONNECTS_WITHIN_S = 0.5
BEYOND_TTL_S = 3


@pytest.fixture(scope="module")
def frontend_lost(run: Run) -> Loss:
    """Two frontends, workers on the node of the second; the client goes to the first while it can."""
    where = places(run.inventory)
    with run.own_deployment("module_08.frontends", placed=where.two_frontends, lease_ttl_s=LEASE_TTL_S) as deployment:
        urls = [frontend.url for frontend in deployment.frontends]
        fault = PoweredOff(run.lab(), run.nodes()[where.two.name], where.one)
        client: dict[str, Any] = {"urls": urls, "spread": "failover", "connect_within_s": CONNECTS_WITHIN_S}
        return lose(run, deployment, "frontend_lost", fault, 2.0, **client)


@pytest.fixture(scope="module")
def etcd_elsewhere(run: Run) -> Iterator[ManagedDeployment]:
    """etcd alone on its node; its data link is cut, so that its disk stays as on a node that comes back."""
    with run.own_deployment(
        "module_08.etcd-elsewhere", placed=places(run.inventory).etcd_elsewhere, lease_ttl_s=LEASE_TTL_S
    ) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def etcd_lost(run: Run, etcd_elsewhere: ManagedDeployment) -> Loss:
    return lose(run, etcd_elsewhere, "etcd_lost", cut_off(run), SHORT_S)


@pytest.fixture(scope="module")
def etcd_lost_for_long(run: Run, etcd_elsewhere: ManagedDeployment) -> Loss:
    return lose(run, etcd_elsewhere, "etcd_lost_for_long", cut_off(run), LEASE_TTL_S + BEYOND_TTL_S)


def cut_off(run: Run) -> NicDown:
    where = places(run.inventory)
    return NicDown(run.lab(), where.one, "data", where.two)


@check(
    "M08-43",
    judged="the first one's node loses its power: each request sent from then on is served by the second, with what "
    "it takes to find out",
    evidence="timeline",
    by_hand="pull the plug of the first frontend's node; send to the second",
    causes=[28],
)
def test_client_fails_over_to_the_second_frontend(frontend_lost: Loss, measure: Measure, evidence: Evidence):
    """After a frontend's node is lost, the second frontend serves every request.

    Streams through the lost one are lost with it, and hang unless the client has a limit of its own: counted only.
    """
    loss = frontend_lost
    loss.show(evidence)
    effect = loss.moment("takes effect").at_s
    first = next(it.url for it in loss.requests if it.number == 0)
    before = [it for it in loss.lost if it.sent_at_s < effect]
    sent = [it for it in loss.requests if effect <= it.sent_at_s < loss.moment("heal").at_s]
    bad = [it for it in sent if it.outcome != COMPLETED]
    measure("streams_lost_with_the_frontend", len(before), n=len(loss.requests))
    assert sent, "no request was sent while the frontend was away"
    assert not bad, (
        f"{len(bad)} of {len(sent)} requests sent while the first frontend was away did not complete: {bad[0]}"
    )
    taken = [it for it in sent if not it.refused]
    assert not taken, (
        f"{len(taken)} of {len(sent)} requests were not refused by the lost frontend {first} before they were served: "
        f"{taken[0]}"
    )
    ttft_s = [require(it.ttft_s, f"first token of {it}") for it in sent]
    measure("failover_ttft_s", max(ttft_s), n=len(sent))
    measure.judge()


@check(
    "M08-44",
    judged="its node is on again and it is started: requests that go there are served there",
    evidence="measurement",
    by_hand="power on; start the frontend on the node again",
    causes=[18],
)
def test_frontend_that_is_back_serves(frontend_lost: Loss, measure: Measure):
    """After its node and frontend are started again, requests sent there are served there."""
    loss = frontend_lost
    back = loss.restarted or loss.moment("healed")
    first = next(it.url for it in loss.requests if it.number == 0)
    served = [it for it in loss.requests if it.sent_at_s >= back.at_s and it.url == first and it.outcome == COMPLETED]
    measure("return_s", served[0].sent_at_s - back.at_s if served else None)
    measure("served_again", len(served))
    measure.judge()


@check(
    "M08-45",
    judged="the data link of etcd's node is down: nothing lost, ended or registered again",
    evidence="timeline",
    by_hand="ip link set PORT down on etcd's node, up again within the lease",
    causes=[16, 25],
)
def test_etcd_lost_for_less_than_the_lease_is_not_noticed(etcd_lost: Loss, measure: Measure, evidence: Evidence):
    """Losing etcd's node for less than the lease costs no request and no registration."""
    loss = etcd_lost
    loss.show(evidence)
    no_loss(loss)
    measure("recovery_s", loss.recovery_s(loss.moment("injected")))
    measure.judge()


@check(
    "M08-46",
    judged="the data link of etcd's node is down for longer than the lease: no process ends, no request is lost",
    evidence="timeline, exit status",
    by_hand="ip link set PORT down on etcd's node for longer than the lease; ps",
    causes=[16],
)
@pytest.mark.known_defect(
    issue="dynamo#3493",
    versions=">=1.6,<1.7",
    shows=r"ended after the loss of etcd: \{('etcd-elsewhere-(frontend|worker)[-\d]*': 0(, )?)+\}",
    reason="Workers and frontends end when etcd is away for longer than the lease. A supervisor must restart them.",
)
def test_etcd_lost_for_longer_than_the_lease_ends_nothing(etcd_lost_for_long: Loss, evidence: Evidence):
    """Losing etcd's node for longer than the lease ends no process, also when etcd comes back.

    While it is away all is served: no process knows of it, since nothing answers. When it is back its leases run out.
    """
    loss = etcd_lost_for_long
    loss.show(evidence)
    assert not loss.ended, f"ended after the loss of etcd: {loss.ended}"
    require_none_lost(loss.requests)


@check(
    "M08-47",
    judged="etcd is back, all that ended is started again: all is served",
    evidence="measurement",
    by_hand="start frontends and workers again when etcd is back",
    causes=[16],
)
def test_restart_heals_the_loss_of_etcd(run: Run, etcd_lost_for_long: Loss, measure: Measure):
    """After etcd is back and what ended is restarted, as by a supervisor, every request is served."""
    loss = etcd_lost_for_long
    failed_as_known(run, loss)
    measure("hung_requests", len(loss.hung), n=len(loss.requests))
    measure("recovery_s", loss.recovery_s(loss.restarted or loss.moment("healed")))
    measure.judge()
