"""etcd goes away and comes back."""

import time
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, pause, wait_until
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.clients.inference import complete
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.readiness import wait_until_serving
from fixtures.run import Run

pytestmark = pytest.mark.needs("managed", why="breaks")

BACK_WITHIN_S = 30
# what Dynamo asks for unless it is told otherwise
DEFAULT_LEASE_TTL_S = 10
# A frontend's reconnections to etcd wait for one another, and its lease's may be the last of them, 10 s after the loss
# (M04-16). A lease is renewed when half of it is left: that half must be clearly longer.
LEASE_TTL_S = 26
# so long that a first reconnection, half a second after the loss, is refused; and a lease of that age is not fresh
DOWN_S, AGE_S = 2, 2
# under load, chance spares one of them now and then; it does not spare three at once
FRONTENDS = 3
ANSWERED_WITHIN_S = 2


def ask(deployment: Deployment, timeout_s: float = 10) -> str | None:
    """None when one more request is answered, else what came instead."""
    answer = complete(deployment.endpoint, f"while etcd is away: {uuid4()}", max_tokens=1, timeout_s=timeout_s)
    return None if answer.ok else answer.describe()


def lose_etcd(run: Run, deployment: ManagedDeployment, down_s: float, measure: Measure, evidence: Evidence) -> None:
    """SIGKILL etcd and start it again on its data after `down_s`: nothing is lost until a whole lease has passed.

    Raises AssertionError with what was lost, CouldNotLook when etcd was away for as long as the lease.
    """
    ttl_s = deployment.settings.granted_ttl_s

    def registered() -> set[int]:
        return {worker.instance_id for worker in deployment.registered_workers()}

    before, lost = registered(), time.monotonic()
    if not before:
        raise CouldNotLook("no worker is registered: nothing could be lost")
    deployment.etcd.kill()
    down = Deadline(down_s, "etcd to be started again")
    during = [ask(deployment, ANSWERED_WITHIN_S) for _ in range(3)]
    down.pause(down_s)
    run.at("module_04.restarting", deployment.etcd)
    deployment.etcd.start(Deadline(BACK_WITHIN_S, "etcd to be back"))
    outage_s = time.monotonic() - lost
    measure("etcd_outage_s", outage_s)
    evidence.text("while etcd was away", "\n".join(str(each or "answered") for each in during))
    assert not any(during), f"requests failed while etcd was away: {[each for each in during if each]}"
    if outage_s >= ttl_s:
        raise CouldNotLook(f"etcd was away for {outage_s:.1f} s, longer than the lease of {ttl_s} s: another case")

    def look() -> tuple[None, object]:
        after, ended = registered(), [each.name for each in deployment.services if not each.is_alive()]
        told = f"etcd was away for only {outage_s:.1f} s of a lease of {ttl_s} s"
        assert after == before, f"{told}: registrations were lost, before {sorted(before)}, after {sorted(after)}"
        assert not ended, f"{told}, and {time.monotonic() - lost:.1f} s after its loss these have ended: {ended}"
        return None, None

    # a lease that is not renewed after the return is gone by then, and so is the process that held it
    with suppress(DeadlineExceeded):
        wait_until(look, Deadline(ttl_s + 3, "a whole lease to pass since etcd is back"), every_s=0.2)
    late = ask(deployment)
    assert late is None, f"after etcd's return a request failed: {late}"


@check(
    "M04-09",
    judged="killed and started at once on its data, with a lease of 26 s or the inventory's when that is longer: "
    "requests go on, no process ends, the same registrations until a lease later",
    evidence="answers meanwhile, measurement",
    by_hand="kill -KILL etcd, start it again on its data directory",
    causes=[16, 25],
)
@pytest.mark.long_wait
def test_etcd_restarted_within_the_lease_loses_nothing(run: Run, measure: Measure, evidence: Evidence):
    """When etcd is killed and restarted within the lease, requests, registrations and processes continue."""
    ttl = max(LEASE_TTL_S, run.inventory.cluster.dynamo_lease_ttl_s)
    with run.own_deployment("module_04.restart", lease_ttl_s=ttl) as deployment:
        lose_etcd(run, deployment, 0, measure, evidence)


@pytest.fixture
def default_lease(run: Run) -> Iterator[ManagedDeployment]:
    """A deployment with the lease that Dynamo asks for unless it is told otherwise, no longer fresh.

    It has several frontends: where one's lease stands among its reconnections is chance, and decides whether it ends.
    """
    with run.own_deployment(
        "module_04.default-lease", frontends=FRONTENDS, lease_ttl_s=DEFAULT_LEASE_TTL_S, router_mode="kv"
    ) as deployment:
        pause(AGE_S, "the lease to age")
        yield deployment


@check(
    "M04-16",
    judged="killed and started 2 s later on its data, with Dynamo's default lease of 10 s: requests go on, no process "
    "ends, the same registrations until a lease later",
    evidence="answers meanwhile, measurement",
    by_hand="kill -KILL etcd, start it again on its data 2 s later; ps",
    causes=[16, 25],
)
@pytest.mark.known_defect(
    issue="dynamo#3493",
    versions=">=0.8.1,<1.7",
    shows=r"these have ended: \['default-lease-frontend",
    reason="A frontend ends after a 2 s loss of etcd with the default lease of 10 s. A lease of 26 s "
    "(ETCD_LEASE_TTL) outlasts it.",
)
@pytest.mark.long_wait
def test_default_lease_outlasts_a_short_loss_of_etcd(
    run: Run, default_lease: ManagedDeployment, measure: Measure, evidence: Evidence
):
    """With Dynamo's default lease, a 2 s loss of etcd ends no process and loses no registration."""
    lose_etcd(run, default_lease, DOWN_S, measure, evidence)


@check(
    "M04-10",
    judged="frontend and workers end, as this version is known to do; started again, all serves",
    evidence="when each ended, measurements",
    by_hand="kill -KILL etcd, wait longer than the lease, start all again",
    causes=[16],
)
@pytest.mark.long_wait
def test_etcd_away_for_longer_than_the_lease(run: Run, measure: Measure, evidence: Evidence):
    """After a loss of etcd longer than the lease, processes act as this version is known to; a restart repairs all."""
    with run.own_deployment("module_04.outage") as deployment:
        known = deployment.settings.dialect.after_etcd_outage_longer_than_lease
        assert known == "processes_exit", f"this check does not know the behaviour {known!r}"
        processes = [deployment.frontend, *deployment.workers]
        answered_for_s = 0.0
        deployment.etcd.kill()
        ttl_s = deployment.settings.granted_ttl_s
        away = Deadline(20 + 4 * ttl_s, "frontend and workers to end after the loss of etcd")
        ended: dict[str, float] = {}

        def look() -> tuple[bool | None, object]:
            nonlocal answered_for_s
            for process in processes:
                if not process.is_alive():
                    ended.setdefault(process.name, away.elapsed_s)
            if deployment.frontend.is_alive() and ask(deployment) is None:
                answered_for_s = away.elapsed_s
            return (True if len(ended) == len(processes) else None), f"ended so far: {ended}"

        try:
            wait_until(look, away, every_s=0.2)
        except DeadlineExceeded as error:
            raise AssertionError(f"expected all {len(processes)} processes to end: {error}") from None
        evidence.table("ended after the loss of etcd", ["process", "s"], ended.items())
        measure("answered_without_etcd_s", answered_for_s)
        measure("last_process_ended_s", max(ended.values()))
        back = Deadline(deployment.ready_within_s, "the deployment to serve again")
        run.at("module_04.restarting", deployment.etcd)
        deployment.etcd.start(back)
        for process in processes:
            process.launch()
        for worker in deployment.workers:
            deployment.wait_until_registered(worker, back)
        wait_until_serving(deployment, back)
        measure("back_after_restart_s", back.elapsed_s)
    measure.judge()
