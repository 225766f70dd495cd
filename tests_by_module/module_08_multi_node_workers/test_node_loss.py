"""Workers and nodes are lost under load, and come back: what the client sees, and for how long."""

from collections.abc import Iterator
from typing import Any

import pytest

from fixtures.basics.check import check
from fixtures.basics.dynamo_versions import dialect
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.clients.judge import PROMPT
from fixtures.faults import Fault, Killed, Partition, PoweredOff, SlowLink
from fixtures.faults.timeline import require_none_lost
from fixtures.load.request import COMPLETED
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run
from tests_by_module.module_08_multi_node_workers.losses import Loss, Places, failed_as_known, lose, no_loss, places

pytestmark = [
    pytest.mark.needs("managed", "multi_node", why="breaks"),
    pytest.mark.usefixtures("mended_afterwards"),
    pytest.mark.long_wait(together=True),
]

# an outage shorter than the lease must stay clear of half of it: a lease is renewed when half of it is left
CALM_LEASE_TTL_S, SHORT_S = 6, 1.0
STREAM_TIMEOUT_S = 2
# that which the bound on its recovery is for, whatever lease the inventory declares
KILLED_LEASE_TTL_S = 3
MIGRATION = ("--migration-limit", "1")
SLOW_MBIT_PER_S = 2
HANGS = pytest.mark.known_defect(
    issue="dynamo#7545",
    versions=">=1.6,<1.7",
    shows=r"(hung_requests|streams_end_after_loss_s) = \d",
    reason="A stream from a worker that falls silent never ends unless DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS is set.",
)


@pytest.fixture(scope="module")
def where(run: Run) -> Places:
    return places(run.inventory)


@pytest.fixture(scope="module")
def calm(run: Run, where: Places) -> Iterator[ManagedDeployment]:
    """For faults that nothing is to end of: one deployment for all of them."""
    with run.own_deployment("module_08.calm", placed=where.spread, lease_ttl_s=CALM_LEASE_TTL_S) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def short_partition(run: Run, calm: ManagedDeployment, where: Places) -> Loss:
    return lose(run, calm, "short_partition", partition(run, where), SHORT_S, victims=calm.workers[1:])


@pytest.fixture(scope="module")
def slow_link(run: Run, calm: ManagedDeployment, where: Places) -> Loss:
    fault = SlowLink(run.lab(), where.two, SLOW_MBIT_PER_S, where.one)
    return lose(run, calm, "slow_link", fault, SHORT_S, victims=calm.workers[1:])


@pytest.fixture(scope="module")
def nats_lost(run: Run, calm: ManagedDeployment) -> Loss:
    return lose(run, calm, "nats_lost", Killed(calm.nats), 2.0)


@pytest.fixture(scope="module")
def worker_killed(run: Run, where: Places) -> Loss:
    with run.own_deployment("module_08.killed", placed=where.spread, lease_ttl_s=KILLED_LEASE_TTL_S) as deployment:
        victim = deployment.workers[1]
        return lose(run, deployment, "worker_killed", Killed(victim), 1.0, victims=[victim])


@pytest.fixture(scope="module")
def migrated(run: Run, where: Places) -> Loss:
    changes: dict[str, Any] = {"frontend_args": MIGRATION, "lease_ttl_s": CALM_LEASE_TTL_S}
    with run.own_deployment("module_08.migrated", placed=where.spread, **changes) as deployment:
        victim = deployment.workers[1]
        return lose(run, deployment, "worker_killed_with_migration", Killed(victim), 1.0, victims=[victim])


def partition(run: Run, where: Places) -> Fault:
    return Partition(run.lab(), where.one, where.two)


def power_off(run: Run, where: Places) -> Fault:
    return PoweredOff(run.lab(), run.nodes()[where.two.name], where.one)


def cut_off(run: Run, where: Places, name: str, own: str, fault: Fault, beyond_s: float, **changes: Any) -> Loss:
    """Of a deployment of its own one worker's node is lost until `beyond_s` after the end of the lease."""
    with run.own_deployment(own, placed=where.spread, **changes) as deployment:
        hold_s = run.inventory.cluster.dynamo_lease_ttl_s + beyond_s
        return lose(run, deployment, name, fault, hold_s, victims=deployment.workers[1:])


@pytest.fixture(scope="module")
def long_partition(run: Run, where: Places) -> Loss:
    return cut_off(run, where, "long_partition", "module_08.partitioned", partition(run, where), 2.0)


def stream_timeout(run: Run) -> tuple[tuple[str, str], ...]:
    """What makes a frontend end a stream that is silent for so long."""
    return ((dialect(run.product_version()).environment.stream_timeout_s, str(STREAM_TIMEOUT_S)),)


@pytest.fixture(scope="module")
def long_partition_with_timeout(run: Run, where: Places) -> Loss:
    name, own = "long_partition_with_timeout", "module_08.partitioned-timed"
    return cut_off(run, where, name, own, partition(run, where), 2.0, extra_env=stream_timeout(run))


@pytest.fixture(scope="module")
def node_off(run: Run, where: Places) -> Loss:
    return cut_off(run, where, "node_off", "module_08.off", power_off(run, where), 1.0)


@pytest.fixture(scope="module")
def node_off_with_timeout(run: Run, where: Places) -> Loss:
    name, own = "node_off_with_timeout", "module_08.off-timed"
    return cut_off(run, where, name, own, power_off(run, where), 1.0, extra_env=stream_timeout(run))


def record_ends(loss: Loss, measure: Measure, evidence: Evidence) -> None:
    """Requests that hung, and when the last of the victims' streams ended. Raises CouldNotLook: they had none."""
    loss.show(evidence)
    measure("hung_requests", len(loss.hung), n=len(loss.requests))
    measure("streams_end_after_loss_s", loss.streams_end_s(), n=len(loss.on_victims()))


def all_end_by_the_stream_timeout(run: Run, loss: Loss, measure: Measure, evidence: Evidence) -> None:
    """Nothing hung, errors are known ones, and soon all was served again."""
    record_ends(loss, measure, evidence)
    measure("recovery_s", loss.recovery_s(loss.moment("injected")))
    failed_as_known(run, loss)
    measure.judge()


@check(
    "M08-30",
    judged="SIGKILL under load, no migration: its streams end at once with an error of this version "
    "(`expected_faults.yaml`), none hangs, every request is served again within the lease",
    evidence="timeline, lost requests",
    by_hand="kill -KILL -- -PGID of a worker under load",
    causes=[20, 22],
)
def test_killed_worker_costs_its_own_streams_alone(run: Run, worker_killed: Loss, measure: Measure, evidence: Evidence):
    """A killed worker's streams end at once with an error, none hangs, and soon every request is served."""
    loss = worker_killed
    loss.show(evidence)
    measure("hung_requests", len(loss.hung), n=len(loss.requests))
    measure("streams_end_after_kill_s", loss.streams_end_s(), n=len(loss.on_victims()))
    measure("recovery_s", loss.recovery_s(loss.moment("injected")))
    failed_as_known(run, loss)
    measure.judge()


@check(
    "M08-31",
    judged="from its start to its first token for the load",
    evidence="measurement",
    by_hand="start the worker again; curl FRONTEND/metrics | grep router_worker",
)
def test_worker_that_was_killed_serves_again(worker_killed: Loss, measure: Measure):
    """A worker that is started again after SIGKILL registers and serves."""
    measure("return_s", worker_killed.return_s(worker_killed.moment("heal")))
    measure.judge()


@check(
    "M08-32",
    judged="SIGKILL under load with `--migration-limit 1`: no request is lost; the longest gap of a stream",
    evidence="timeline",
    by_hand="frontend with --migration-limit 1; kill -KILL -- -PGID of a worker",
    causes=[22],
)
def test_killed_worker_costs_nothing_with_migration(migrated: Loss, measure: Measure, evidence: Evidence):
    """With --migration-limit 1, a killed worker's streams continue on another worker, and no request is lost."""
    migrated.show(evidence)
    on_it = migrated.on_victims()
    require_none_lost(migrated.requests)
    measure("longest_gap_ms", max(it.longest_gap_s or 0 for it in on_it) * 1000, n=len(on_it))
    measure.judge()


@check(
    "M08-48",
    judged="the prompt tokens that `usage` reports for streams of a killed worker that moved to another one, against "
    "the token ids that were sent",
    by_hand="frontend with --migration-limit 1; kill -KILL -- -PGID of a worker; usage of its streams",
    causes=[22],
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.6,<1.7",
    shows=r"usage reports \d+ prompt tokens, sent were",
    reason="What a stream has generated before it moves counts among its prompt's tokens as well.",
)
def test_a_stream_that_moves_counts_its_prompt_as_it_was_sent(migrated: Loss):
    """A stream that moves to another worker reports as many prompt tokens as were sent."""
    judged = [it.judged for it in migrated.on_victims() if it.judged and it.outcome == COMPLETED]
    if not judged:
        raise CouldNotLook("no stream of the killed worker came to its end: no usage to look at")
    Findings(f"{it.name}: {words}" for it in judged for _, rule, words in it.flaws if rule == PROMPT).judge()


@check(
    "M08-33",
    judged="streams pause and go on, nothing is lost, ends or registers again",
    evidence="timeline",
    by_hand="bridge link set dev PORT isolated on, off again within the lease",
    causes=[16],
)
@pytest.mark.needs("lab")
def test_partition_shorter_than_the_lease_loses_nothing(
    run: Run, short_partition: Loss, measure: Measure, evidence: Evidence
):
    """During a partition shorter than the lease, streams pause and continue, and no registration is lost."""
    loss = short_partition
    loss.show(evidence)
    on_it = loss.on_victims()
    no_loss(loss)
    healed = loss.moment("healed")
    measure("longest_gap_s", max(it.longest_gap_s or 0 for it in on_it), n=len(on_it))
    goes_on_at_s = [require(it.gap_at_s, f"gap in {it}") + require(it.longest_gap_s, f"gap in {it}") for it in on_it]
    measure("goes_on_after_heal_s", max(goes_on_at_s) - healed.at_s, n=len(on_it))
    measure.judge()


@check(
    "M08-34",
    judged="2 Mbit/s to and from a worker's node: nothing lost, as before when it is fast again",
    evidence="timeline",
    by_hand="tc qdisc add dev PORT root tbf rate 2mbit burst 16k latency 200ms",
)
@pytest.mark.needs("lab")
def test_slow_link_loses_nothing(run: Run, slow_link: Loss, measure: Measure, evidence: Evidence):
    """A worker behind a slow link answers late and loses no request."""
    loss = slow_link
    loss.show(evidence)
    loss.on_victims()
    no_loss(loss)
    measure("recovery_s", loss.recovery_s(loss.moment("healed")))
    measure.judge()


@check(
    "M08-35",
    judged="requests over tcp; SIGKILL and return of nats-server",
    evidence="timeline",
    by_hand="kill -KILL -- -PGID of nats-server under load, start it again",
    causes=[7],
)
def test_loss_of_nats_is_not_noticed(run: Run, nats_lost: Loss, measure: Measure, evidence: Evidence):
    """With requests over TCP, clients do not notice that NATS is lost and comes back."""
    nats_lost.show(evidence)
    no_loss(nats_lost)
    measure("recovery_s", nats_lost.recovery_s(nats_lost.moment("injected")))
    measure.judge()


@check(
    "M08-36",
    judged="partition for longer than the lease: requests without an end after 8 s; when the last of its streams ends",
    evidence="timeline, lost requests",
    by_hand="bridge link set dev PORT isolated on for longer than the lease",
    causes=[23, 29],
)
@pytest.mark.needs("lab")
@HANGS
def test_partition_longer_than_the_lease_hangs_nothing(
    run: Run, long_partition: Loss, measure: Measure, evidence: Evidence
):
    """Every request to a node that is partitioned for longer than the lease ends soon after the lease."""
    record_ends(long_partition, measure, evidence)
    measure.judge()


@check(
    "M08-37",
    judged="partition for longer than the lease with `DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS=2`: no request hangs, each "
    "ends in time, all is served again",
    evidence="timeline, lost requests",
    by_hand="the same with DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS=2",
    causes=[23, 29],
)
@pytest.mark.needs("lab")
def test_stream_timeout_ends_what_a_partition_would_hang(
    run: Run, long_partition_with_timeout: Loss, measure: Measure, evidence: Evidence
):
    """With the stream timeout set, every request to a partitioned node ends with an error that says so."""
    all_end_by_the_stream_timeout(run, long_partition_with_timeout, measure, evidence)


@check(
    "M08-38",
    judged="its process and its registration after the partition",
    evidence="exit status",
    by_hand="bridge link set dev PORT isolated off after the lease; ps",
    causes=[16, 17],
)
@pytest.mark.needs("lab")
@pytest.mark.known_defect(
    issue="dynamo#3493",
    versions=">=1.6,<1.7",
    shows=r"ended after the partition: \{('partitioned-worker-\d+': 0(, )?)+\}",
    reason="A worker ends when it learns after a partition that its lease is lost. A supervisor must restart it.",
)
def test_partitioned_worker_registers_again_by_itself(long_partition: Loss):
    """A worker that was partitioned for longer than its lease is back when the partition ends."""
    assert not long_partition.ended, f"ended after the partition: {long_partition.ended}"
    assert long_partition.came or long_partition.stayed >= long_partition.victims, (
        "after the partition the worker is registered neither as before nor again"
    )


@check(
    "M08-39",
    judged="the worker that ended is started again: from then to its first token",
    evidence="measurement",
    by_hand="start the worker again that ended at the end of the partition",
    causes=[16, 20],
)
@pytest.mark.needs("lab")
def test_partitioned_worker_that_is_started_again_serves(long_partition_with_timeout: Loss, measure: Measure):
    """A worker that ended after a partition serves again once it is restarted, as by a supervisor."""
    loss = long_partition_with_timeout
    measure("return_s", loss.return_s(loss.restarted or loss.moment("healed")))
    measure.judge()


@check(
    "M08-40",
    judged="a node loses its power: requests without an end after 8 s; when the last of its streams ends",
    evidence="timeline, lost requests",
    by_hand="pull the plug of a worker's node under load",
    causes=[23, 29],
)
@pytest.mark.needs("lab")
@HANGS
def test_node_without_power_hangs_nothing(run: Run, node_off: Loss, measure: Measure, evidence: Evidence):
    """Every request to a node that loses its power ends soon after the lease."""
    record_ends(node_off, measure, evidence)
    measure.judge()


@check(
    "M08-41",
    judged="a node loses its power with `DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS=2`: no request hangs, each ends in time, "
    "all is served again",
    evidence="timeline, lost requests",
    by_hand="the same with DYN_HTTP_BACKEND_STREAM_TIMEOUT_SECS=2",
    causes=[23, 29],
)
@pytest.mark.needs("lab")
def test_stream_timeout_ends_what_a_node_without_power_would_hang(
    run: Run, node_off_with_timeout: Loss, measure: Measure, evidence: Evidence
):
    """With the stream timeout set, every request to a node without power ends with an error that says so."""
    all_end_by_the_stream_timeout(run, node_off_with_timeout, measure, evidence)


@check(
    "M08-42",
    judged="its worker is started: from then to its first token",
    evidence="measurement",
    by_hand="power on; start the worker on the node again",
    causes=[20],
)
@pytest.mark.needs("lab")
def test_node_that_is_on_again_serves(node_off: Loss, measure: Measure):
    """After its node is on again and it is restarted, a worker serves."""
    measure("return_s", node_off.return_s(node_off.restarted or node_off.moment("healed")))
    measure.judge()
