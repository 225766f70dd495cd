"""Let a worker join and depart, and keep what etcd showed of it: history first, judged afterwards."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.clients.etcd import Event, Watch
from fixtures.product.deployments.deployment import READY_WITHIN_S
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.registry import RegisteredWorker, keys_of
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run

# how long a key may outlive its lease before one stops looking: far beyond the bound that judges it
LOOK_BEYOND_TTL_S = 10


@dataclass(frozen=True)
class Departure:
    """A worker from its registration to its end. Times in seconds since the signal; None: not seen while looking."""

    worker: RegisteredWorker
    lease_ttl_s: int
    keys: tuple[str, ...]
    events: tuple[Event, ...]
    key_gone_s: float | None

    def order(self, kind: str) -> list[str]:
        """Keys in the order of their first event of this kind."""
        return list(dict.fromkeys(event.key for event in self.events if event.kind == kind))


@contextmanager
def departing(
    run: Run, deployment: ManagedDeployment, number: signal.Signals
) -> Iterator[tuple[Worker, Callable[[], Departure]]]:
    """A worker that has joined and was sent `number`, and what tells the departure so far."""
    with deployment.etcd_client() as etcd, etcd.watch("v1/") as watch, run.joined_worker(deployment) as worker:
        registered = deployment.wait_until_registered(worker, Deadline(READY_WITHIN_S, f"{worker.name} to register"))
        lease = etcd.lease(registered.instance_id)
        keys = tuple(key.name for key in keys_of(etcd, deployment.settings.dialect, lease.id))
        worker.require_process().signal(number)
        signalled = time.monotonic()
        wait_for_delete(watch, registered.instance_key.name, lease.granted_ttl_s)

        def so_far() -> Departure:
            events = tuple(event for event in watch.events if event.key in keys)
            gone = [event.at for event in watch.of("delete", registered.instance_key.name)]
            return Departure(registered, lease.granted_ttl_s, keys, events, gone[0] - signalled if gone else None)

        yield worker, so_far


def wait_for_delete(watch: Watch, key: str, lease_ttl_s: int) -> None:
    """Return when the key is gone, or when it has outlived its lease by so much that looking on tells nothing."""
    deadline = Deadline(lease_ttl_s + LOOK_BEYOND_TTL_S, f"{key} to go")
    try:
        wait_until(lambda: (watch.of("delete", key) or None, "still there"), deadline, every_s=0.02)
    except DeadlineExceeded:
        return  # the departure tells that the key was not seen to go, and its check judges that
