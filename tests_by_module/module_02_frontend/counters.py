"""What frontend and workers have counted, and what they have in hand.

The names are the same in all versions that count it; the dialect has those that a version lacks.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.dynamo_versions import Dialect
from fixtures.basics.errors import NotOffered
from fixtures.clients import prometheus
from fixtures.clients.prometheus import Metrics
from fixtures.product.deployments.deployment import NOT_QUIET, Deployment

FRONTEND = "dynamo_frontend_"
STARTED, REQUESTS = f"{FRONTEND}requests_started_total", f"{FRONTEND}requests_total"
CANCELLED, DISCONNECTED = f"{FRONTEND}model_cancellation_total", f"{FRONTEND}disconnected_clients"
INPUT_TOKENS, OUTPUT_TOKENS = f"{FRONTEND}input_sequence_tokens_sum", f"{FRONTEND}output_tokens_total"
OUTPUT_LENGTHS = f"{FRONTEND}output_sequence_tokens_sum"
DURATION, FIRST_TOKEN = f"{FRONTEND}request_duration_seconds", f"{FRONTEND}time_to_first_token_seconds"
BETWEEN_TOKENS = f"{FRONTEND}inter_token_latency_seconds"
DURATIONS, FIRST_TOKENS = f"{DURATION}_count", f"{FIRST_TOKEN}_count"
FRONTEND_IN_FLIGHT = f"{FRONTEND}inflight_requests"


@dataclass(frozen=True)
class Snapshot:
    """The counters of the frontend and of every registered worker, at one time."""

    frontend: Metrics
    workers: tuple[Metrics, ...]
    dialect: Dialect

    @property
    def in_flight(self) -> dict[str, float]:
        """Requests in hand, by who has them."""
        name, endpoint = self.dialect.metrics.worker_in_flight, self.dialect.worker_endpoint
        held = {"frontend": self.frontend.total(FRONTEND_IN_FLIGHT)}
        for metrics in self.workers:
            held[metrics.url] = metrics.total(name, dynamo_endpoint=endpoint)
        return held

    def counts(self, name: str) -> bool:
        """Whether frontends of this version count it."""
        return name not in self.dialect.metrics.frontend_lacks

    def count(self, name: str, **labels: str) -> float:
        """A counter of the frontend; one whose series has not begun is at 0."""
        return self.frontend.total_or_zero(name, **labels)

    @property
    def worker_requests(self) -> float:
        name, endpoint = self.dialect.metrics.worker_requests, self.dialect.worker_endpoint
        return sum(metrics.total_or_zero(name, dynamo_endpoint=endpoint) for metrics in self.workers)


def snapshot(deployment: Deployment) -> Snapshot:
    urls = [worker.system_url for worker in deployment.registered_workers() if worker.system_url]
    pages = tuple(prometheus.scrape(deployment.reach(f"{url}/metrics")) for url in urls)
    return Snapshot(deployment.frontend_metrics(), pages, deployment.settings.dialect)


def wait_for(deployment: Deployment, reached: Callable[[Snapshot], bool], within_s: float) -> Snapshot:
    """The first snapshot for which `reached` holds, or the last one at the deadline: the check judges it."""
    last: list[Snapshot] = []

    def look() -> tuple[Snapshot | None, object]:
        last[:] = [snapshot(deployment)]
        return (last[0] if reached(last[0]) else None), None

    try:
        return wait_until(look, Deadline(within_s, "the counters to settle"), every_s=0.1)
    except DeadlineExceeded:
        return last[0]


def idle(now: Snapshot) -> bool:
    return not any(now.in_flight.values())


def idle_at_first(deployment: Deployment, within_s: float) -> Snapshot:
    """A snapshot of an idle deployment; the last one at the deadline, unless others use it: then raises NotOffered."""
    first = wait_for(deployment, idle, within_s)
    if deployment.shared and not idle(first):
        raise NotOffered(NOT_QUIET)
    return first


def require_alone(deployment: Deployment, before: Snapshot, after: Snapshot, sent: int) -> None:
    """Raises NotOffered where the frontend was sent more than these requests, and they may be others'."""
    if deployment.shared and after.count(STARTED) - before.count(STARTED) > sent:
        raise NotOffered(NOT_QUIET)
