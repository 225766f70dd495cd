"""Follow a known number of requests through frontend, router and workers by what each of them counted."""

import uuid
from dataclasses import dataclass

from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.clients.inference import Answer, complete
from fixtures.clients.prometheus import Metrics
from fixtures.cluster.inventory.model import Inventory
from fixtures.product.deployments.deployment import Deployment

# a hop counts when it has finished with a request, which may be just after the client has its answer
COUNTED_WITHIN_S = 2


@dataclass(frozen=True)
class RequestPath:
    """`served_by` is the number of answers that named each worker; the others are differences of counters, None of a
    router that counts no requests."""

    sent: int
    answers: tuple[Answer, ...]
    served_by: dict[int, int]
    frontend: float
    router: float | None
    workers: dict[int, float]


def workers_on_the_way(inventory: Inventory) -> int:
    """Of one request: a worker that computes the prompt and one that decodes, where they are separate."""
    return 2 if inventory.with_role("prefill") else 1


def follow(deployment: Deployment, requests: int, workers_each: int) -> RequestPath:
    """Send `requests` different prompts one after the other and read every hop's counters before and after.

    A request passes `workers_each` workers: two where prefill and decode are disaggregated.
    """
    names = deployment.settings.dialect.metrics

    def hops(metrics: Metrics) -> tuple[float, float | None]:
        return (
            metrics.total_or_zero(names.frontend_requests, status="success"),
            metrics.total_or_zero(names.router_requests) if names.router_requests else None,
        )

    frontend_before, router_before = hops(deployment.frontend_metrics())
    workers_before = deployment.worker_requests()
    prompts = [f"follow this request: {uuid.uuid4()}" for _ in range(requests)]
    answers = tuple(complete(deployment.endpoint, prompt, max_tokens=2) for prompt in prompts)
    served_by: dict[int, int] = {}
    for answer in answers:
        for worker_id in answer.way_ids:
            served_by[worker_id] = served_by.get(worker_id, 0) + 1
    last: RequestPath | None = None

    def look() -> tuple[RequestPath | None, object]:
        nonlocal last
        frontend, router = hops(deployment.frontend_metrics())
        workers = {w: n - workers_before.get(w, 0) for w, n in deployment.worker_requests().items()}
        routed = None if router is None or router_before is None else router - router_before
        last = RequestPath(requests, answers, served_by, frontend - frontend_before, routed, workers)
        counted = min(last.frontend, sum(workers.values()) / workers_each, requests if routed is None else routed)
        return (last if counted >= requests else None), last

    try:
        return wait_until(look, Deadline(COUNTED_WITHIN_S, "every hop to have counted the requests"))
    except DeadlineExceeded:
        assert last is not None
        return last
