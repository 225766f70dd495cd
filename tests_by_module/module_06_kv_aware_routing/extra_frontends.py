"""What checks put beside a deployment that serves: more frontends for its workers, and load that lasts."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf

from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.parallel import in_parallel
from fixtures.clients import prometheus
from fixtures.clients.inference import InferenceEndpoint
from fixtures.load.from_here import LEFT, run_load
from fixtures.load.plan import PlannedRequest
from fixtures.load.traces import Traces
from fixtures.product.deployments.deployment import NOT_QUIET, READY_WITHIN_S, Deployment
from fixtures.product.deployments.managed import ManagedDeployment, kill
from fixtures.product.services.dynamo import Frontend
from fixtures.run import Run
from tests_by_module.module_06_kv_aware_routing.routing import send

# a stream of the mocker goes on for half a minute, longer than anything that is looked at meanwhile
MANY_TOKENS, WITHIN_S = 3000, 60
UNDER_WAY_WITHIN_S = 10


@contextmanager
def more_frontends(
    run: Run, deployment: ManagedDeployment, traces: Traces, arguments: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, str]]:
    """Frontends with these arguments for the deployment's workers, serving, by name: where they are reached."""
    beside, there = deployment.frontend, {}
    for name, given in arguments.items():
        like = deployment.settings.but(frontend_args=tuple(given), dialect=beside.settings.dialect)
        settings = deployment.stages.settings("frontend", like)
        there[name] = Frontend(f"{deployment.prefix}frontend-{name}", beside.node, beside.runtime, settings)
    urls = {name: each.node.reach(each.url) for name, each in there.items()}
    worker = deployment.registered_workers()[0].instance_id

    def serve(name: str) -> None:
        deadline = Deadline(READY_WITHIN_S, f"the frontend {name} to serve")
        there[name].start(deadline)

        def look() -> tuple[bool | None, object]:
            answer = send(deployment, traces.tokens(8), traces.block_size, pinned_to=worker, url=urls[name])
            return (None if answer.error else True), answer.error

        wait_until(look, deadline)

    try:
        in_parallel(serve, list(there))
        yield urls
    finally:
        in_parallel(kill, list(there.values()))


@contextmanager
def kept_busy(
    deployment: Deployment, traces: Traces, url: str, streams: int, blocks: int, workers: Sequence[int]
) -> Iterator[None]:
    """While inside, each of `workers` generates `streams` answers to prompts of `blocks` blocks, sent through `url`.

    Raises CouldNotLook when they are not under way, or have ended before the block has; NotOffered where others have
    loaded them.
    """
    left = threading.Event()
    requests = [
        PlannedRequest(
            number,
            traces.tokens(blocks * traces.block_size + 1),
            MANY_TOKENS,
            pinned_to=worker,
        )
        for number, worker in enumerate(each for each in workers for _ in range(streams))
    ]
    endpoint = InferenceEndpoint(url, deployment.settings.model_name)

    def wait(least: int, most: float, what: str) -> None:
        """Until each worker has so many requests in flight."""

        def look() -> tuple[bool | None, object]:
            now = _in_flight(deployment, workers)
            return (True if all(least <= each <= most for each in now.values()) else None), f"{now} in flight"

        try:
            wait_until(look, Deadline(UNDER_WAY_WITHIN_S, what))
        except DeadlineExceeded as error:
            raise CouldNotLook(f"could not create the load: {error}") from None

    # a load that was there before has been left, and its workers may not have heard of it yet
    try:
        wait(0, 0, "workers to be idle before they are loaded")
    except CouldNotLook as error:
        raise NotOffered(NOT_QUIET) if deployment.shared else error from None
    with Threads(1) as pool:
        many = len(requests)
        leave_when = partial(left.wait, 0.1)
        load = pool.submit(run_load, endpoint, requests, concurrency=many, within_s=WITHIN_S, leave_when=leave_when)
        try:
            wait(streams, inf, f"{many} streams to be under way")
            yield
        finally:
            left.set()
        ended = [record.describe() for record in load.result() if record.outcome != LEFT]
        if ended:
            raise CouldNotLook(f"the load did not last: {len(ended)} of {many} streams ended, {ended[0]}")


def _in_flight(deployment: Deployment, workers: Sequence[int]) -> dict[int, float]:
    dialect = deployment.settings.dialect
    name = dialect.metrics.worker_in_flight
    urls = {each.instance_id: each.system_url for each in deployment.registered_workers()}
    return {
        worker: prometheus.scrape(deployment.reach(f"{urls[worker]}/metrics"), only=name).total_or_zero(
            name, dynamo_endpoint=dialect.worker_endpoint
        )
        for worker in workers
    }
