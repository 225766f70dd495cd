"""etcd goes away and comes back."""

import time
from uuid import uuid4

import pytest

from fixtures.clients.inference import complete
from fixtures.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.deployments.deployment import READY_WITHIN_S, Deployment
from fixtures.outcomes import CouldNotLook
from fixtures.run import Run

pytestmark = pytest.mark.needs("managed")

BACK_WITHIN_S = 30
# a restarted etcd elects itself leader after one to two seconds: the lease must be clearly longer
LEASE_TTL_S = 6


def ask(deployment: Deployment) -> str | None:
    """None when one more request is answered, else what came instead."""
    answer = complete(deployment.endpoint, f"while etcd is away: {uuid4()}", max_tokens=1, timeout_s=10)
    return None if answer.ok else answer.describe()


@pytest.mark.check("M04-09", by_hand="kill -KILL etcd, start it again on its data directory", causes=[16, 25])
def test_etcd_restarted_within_the_lease_loses_nothing(run: Run, measure, evidence):
    """etcd killed and started again within the lease: requests go on, registrations and processes stay the same."""
    ttl = max(LEASE_TTL_S, run.inventory.cluster.dynamo_lease_ttl_s)
    with run.own_deployment("restart", lease_ttl_s=ttl) as deployment:
        before = {worker.instance_id for worker in deployment.registered_workers()}
        lost = time.monotonic()
        deployment.etcd.kill()
        during = [ask(deployment) for _ in range(3)]
        run.sabotage.restarting(deployment.etcd)
        deployment.etcd.start(Deadline(BACK_WITHIN_S, "etcd to be back"))
        outage_s = time.monotonic() - lost
        measure("etcd_outage_s", outage_s)
        if outage_s >= ttl:
            raise CouldNotLook(f"etcd was away for {outage_s:.1f} s, longer than the lease of {ttl} s: another case")
        # a lease that is not renewed after the return would be gone by then, and so would the process that held it
        settled = Deadline(ttl + 3, "a whole lease to pass since etcd is back")
        settled.pause(settled.remaining_s)
        after = {worker.instance_id for worker in deployment.registered_workers()}
        ended = [service.name for service in deployment.services if not service.is_alive()]
        late = ask(deployment)
    evidence.text("while etcd was away", "\n".join(str(each or "answered") for each in during))
    assert before, "no worker was registered before: nothing could be lost"
    assert not ended, f"these ended although etcd was away for only {outage_s:.1f} s of a lease of {ttl} s: {ended}"
    assert after == before, (
        f"registered before: {sorted(before)}, after etcd's return: {sorted(after)}: registrations were lost"
    )
    assert not any(during), f"requests failed while etcd was away: {[each for each in during if each]}"
    assert late is None, f"after etcd's return a request failed: {late}"


@pytest.mark.check("M04-10", by_hand="kill -KILL etcd, wait longer than the lease, start all again", causes=[16])
def test_etcd_away_for_longer_than_the_lease(run: Run, measure, evidence):
    """etcd away for longer than the lease: the processes do as their version is known to, and a restart heals all."""
    with run.own_deployment("outage") as deployment:
        known = deployment.settings.dialect.after_etcd_outage_longer_than_lease
        assert known == "processes_exit", f"this check does not know the behaviour {known!r}"
        processes = [deployment.frontend, *deployment.workers]
        answered_for_s = 0.0
        deployment.etcd.kill()
        away = Deadline(20 + 4 * deployment.settings.lease_ttl_s, "frontend and workers to end after the loss of etcd")
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
            raise AssertionError(f"{error}: a process that lost its lease goes on, unregistered") from None
        evidence.table("ended after the loss of etcd", ["process", "s"], ended.items())
        measure("answered_without_etcd_s", answered_for_s)
        measure("last_process_ended_s", max(ended.values()))
        back = Deadline(READY_WITHIN_S, "the deployment to serve again")
        run.sabotage.restarting(deployment.etcd)
        deployment.etcd.start(back)
        for process in processes:
            process.launch()
        for worker in deployment.workers:
            deployment.wait_until_registered(worker, back)
        deployment.wait_until_serving(back)
        measure("back_after_restart_s", back.elapsed_s)
    measure.judge()
