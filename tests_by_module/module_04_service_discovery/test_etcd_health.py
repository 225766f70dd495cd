"""etcd's own health: a slow etcd loses leases."""

import statistics
import time

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import pause
from fixtures.basics.measure import Measure
from fixtures.clients import prometheus
from fixtures.clients.etcd import Etcd
from fixtures.product.deployments.deployment import Deployment

PUTS = 100
# spread over the life of the shortest lease: a stall between two bursts of writes would not be seen
EVERY_S = 0.02


@check(
    "M04-11",
    judged="100 writes over two seconds, the disk's fsync times, changes of leader",
    evidence="measurements",
    by_hand="curl ETCD/metrics | grep -E 'wal_fsync|leader_changes'",
    causes=[25],
)
@pytest.mark.needs("managed", why="breaks")
def test_etcd_is_fast_enough_for_its_leases(etcd: Etcd, deployment: Deployment, measure: Measure):
    """etcd answers and writes to disk fast enough to keep every lease, and its leader never changes."""
    times_ms = []
    for number in range(PUTS):
        began = time.monotonic()
        etcd.put("acceptance/health", str(number))
        times_ms.append((time.monotonic() - began) * 1000)
        pause(EVERY_S, "the next write")
    etcd.delete("acceptance/health")
    metrics = prometheus.parse(etcd.metrics(), f"{etcd.url}/metrics")
    fsync_s, fsyncs = metrics.quantile("etcd_disk_wal_fsync_duration_seconds", 0.99)
    measure("put_ms_p50", statistics.median(times_ms), n=PUTS)
    measure("put_ms_max", max(times_ms), n=PUTS)
    measure("wal_fsync_ms_p99", fsync_s * 1000, n=fsyncs)
    measure("leader_changes", metrics.total("etcd_server_leader_changes_seen_total"))
    measure.judge()
