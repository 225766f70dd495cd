"""etcd's own health: a slow etcd loses leases."""

import statistics
import time
from collections.abc import Callable
from pathlib import PurePath

from fixtures.basics.check import check
from fixtures.basics.deadline import pause
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.percentiles import LEAST_N
from fixtures.clients import prometheus
from fixtures.clients.etcd import Etcd
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.topology import component_at
from fixtures.run import Run
from tests_by_module.module_04_service_discovery.etcd_settings import given, wrong_settings

KEY = "acceptance/health"
LEADER_CHANGES = "etcd_server_leader_changes_seen_total"
FSYNC = "etcd_disk_wal_fsync_duration_seconds"
COMMITTED = "etcd_server_proposals_committed_total"
WRITES = 50
ASKED = 100
# spread over the life of the shortest lease: a stall between two bursts of writes would not be seen
EVERY_S = 0.02


@check(
    "M04-11",
    judged="100 writes over two seconds (attached: reads, which wait for a majority as well), the disk's times of 1000 "
    "fsyncs, how many fsyncs a write has, changes of leader (attached: meanwhile, fsyncs where others write 50 times)",
    evidence="measurements",
    by_hand="curl ETCD/metrics | grep -E 'wal_fsync|leader_changes'",
    causes=[25],
)
def test_etcd_is_fast_enough_for_its_leases(etcd: Etcd, deployment: Deployment, measure: Measure):
    """etcd answers fast enough to keep every lease, writes what it confirms to disk, and its leader never changes."""
    before = metrics(etcd)
    if deployment.shared:
        # nothing is written into an etcd of others, and what it did before is not this run's matter
        times_ms = asked_ms(lambda: etcd.prefix(KEY))
        meanwhile = metrics(etcd).since(before)
        measure("read_ms_p50", statistics.median(times_ms), n=ASKED)
        measure("read_ms_max", max(times_ms), n=ASKED)
        measure("leader_changes_meanwhile", meanwhile.total(LEADER_CHANGES))
        fsync_s, fsyncs = metrics(etcd).quantile(FSYNC, 0.99)
        measure("wal_fsync_ms_p99_so_far", fsync_s * 1000, n=fsyncs)
        fsyncs_of = meanwhile if meanwhile.total(COMMITTED) >= WRITES else None  # others write
    else:
        times_ms = asked_ms(lambda: etcd.put(KEY, "1"))
        for _ in range(LEAST_N[99] - int(metrics(etcd).total(f"{FSYNC}_count"))):
            etcd.put(KEY, "1")
        etcd.delete(KEY)
        fsyncs_of = metrics(etcd)
        meanwhile = fsyncs_of.since(before)
        measure("put_ms_p50", statistics.median(times_ms), n=ASKED)
        measure("put_ms_max", max(times_ms), n=ASKED)
        measure("leader_changes", fsyncs_of.total(LEADER_CHANGES))
    if fsyncs_of:
        writes = int(meanwhile.total(COMMITTED))
        measure("fsyncs_a_write", meanwhile.total(f"{FSYNC}_count") / writes, n=writes)
        fsync_s, fsyncs = fsyncs_of.quantile(FSYNC, 0.99)
        if fsyncs >= LEAST_N[99]:
            measure("wal_fsync_ms_p99", fsync_s * 1000, n=fsyncs)
    measure.judge()


@check(
    "M04-28",
    judged="arguments, environment and configuration file of etcd's process on its node, against `etcd_settings.yaml`",
    evidence="settings",
    by_hand="tr '\\0' ' ' < /proc/$(pidof etcd)/cmdline; grep -z ETCD_ /proc/$(pidof etcd)/environ",
)
def test_etcd_keeps_what_it_confirms(run: Run, etcd: Etcd, deployment: Deployment, evidence: Evidence):
    """etcd runs with no setting that loses what it has confirmed or changes how long a lease is."""
    nodes = run.nodes()
    found = component_at("etcd", deployment.settings.etcd_url, run.inventory, nodes)
    if found.pid is None or "etcd" not in PurePath(found.argv[0] if found.argv else "").name:
        behind = f"behind {etcd.url} is {' '.join(found.argv[:1])}" if found.argv else "no process is seen"
        raise NotOffered(
            f"etcd's own process is not to be seen ({behind}): dynamo_roles names the node where it runs, and it takes "
            "the user that runs it there, or root"
        )
    settings = given(nodes[found.node], found.pid)
    evidence.text("settings", "\n".join(where for _, where in settings.values()) or "none")
    wrong = Findings()
    wrong.extend((f"etcd (process {found.pid}) has {each}" for each in wrong_settings(settings)), node=found.node)
    wrong.judge()


def asked_ms(ask: Callable[[], object]) -> list[float]:
    """How long each of some questions took."""
    times_ms = []
    for _ in range(ASKED):
        began = time.monotonic()
        ask()
        times_ms.append((time.monotonic() - began) * 1000)
        pause(EVERY_S, "the next one")
    return times_ms


def metrics(etcd: Etcd) -> prometheus.Metrics:
    return prometheus.parse(etcd.metrics(), f"{etcd.url}/metrics")
