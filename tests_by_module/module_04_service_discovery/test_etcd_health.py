"""etcd's own health: a slow etcd loses leases."""

import statistics
import time
from collections.abc import Callable

from fixtures.basics.check import check
from fixtures.basics.deadline import pause
from fixtures.basics.measure import Measure
from fixtures.clients import prometheus
from fixtures.clients.etcd import Etcd
from fixtures.product.deployments.deployment import Deployment

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
    judged="100 writes over two seconds (attached: reads, which wait for a majority as well), the disk's fsync times, "
    "how many fsyncs a write has, changes of leader (attached: meanwhile, fsyncs where others write 50 times)",
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
        measure("wal_fsync_ms_p99", fsync_s * 1000, n=fsyncs)
    measure.judge()


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
