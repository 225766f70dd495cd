"""Fixtures of module 12: a warm deployment under a sweep of requests in flight, then of requests that arrive."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from fixtures.baseline.repeats import Target
from fixtures.basics.errors import BringUpFailed
from fixtures.benchmark.knee import Knee, Loaded, knee
from fixtures.benchmark.sending import Sender, Sent
from fixtures.benchmark.sizes import Sizes, sizes_of
from fixtures.product.deployments.deployment import Deployment, Equipment
from fixtures.run import Run
from tests_by_module.module_12_benchmarking.loads import RATES, RECOVERS_AT, Arriving, Loads

WARM_CHECK, KNEE_CHECK = "M12-01", "M12-04"
WARM_REQUESTS = 16  # for each worker


@pytest.fixture(scope="package")
def target(run: Run, deployment: Deployment, client: Equipment) -> Target:
    """The frontend, as the client's node reaches it."""
    sending = run.at("module_12.client", client)
    nodes = tuple(each.node for each in run.equipment().values())
    url = run.at("module_12.url", deployment.load_url)
    return Target(sending, (url,), deployment.settings.model_name, nodes, {url: "frontend"})


@pytest.fixture(scope="package")
def loads(run: Run, deployment: Deployment, target: Target) -> Loads:
    return Loads(run, Sender(deployment, target.client, target.urls[0]))


@pytest.fixture(scope="package")
def sizes(profile: str) -> Sizes:
    """How long and how many requests are."""
    return sizes_of(profile)


@pytest.fixture(scope="package")
def warm(run: Run, deployment: Deployment, loads: Loads, sizes: Sizes) -> Sent:
    """The first requests, which are no part of any number. Raises BringUpFailed when a worker served none of them."""
    workers = len(deployment.registered_workers())
    plan = sizes.at_once(2 * max(1, workers), run.seed)
    sent = loads.send("warm-up", replace(plan, count=WARM_REQUESTS * max(1, workers)))
    idle = [f"{worker:x}" for worker, served in sent.workers.items() if served <= 0]
    if idle or not sent.workers:
        raise BringUpFailed(
            WARM_CHECK,
            f"worker {', '.join(idle) or '(none counts)'} served none of the {len(sent.requests)} requests of the "
            "warm-up: a measurement would be of the others alone",
        )
    return sent


@pytest.fixture(scope="package")
def sweep(run: Run, warm: Sent, loads: Loads, sizes: Sizes) -> Sequence[Sent]:
    """A closed loop at each concurrency, the lowest first."""
    return [
        loads.send(f"{concurrency} at once", sizes.at_once(concurrency, run.seed + 1 + number))
        for number, concurrency in enumerate(sizes.concurrency)
    ]


@pytest.fixture(scope="package")
def found_knee(sweep: Sequence[Sent]) -> Knee:
    """Raises BringUpFailed where the sweep shows none."""
    try:
        return knee([Loaded(each.plan.concurrency or 0, each.requests_per_s) for each in sweep])
    except ValueError as error:
        raise BringUpFailed(KNEE_CHECK, str(error)) from None


@pytest.fixture(scope="package")
def arriving(run: Run, found_knee: Knee, loads: Loads, sizes: Sizes) -> Arriving:
    """An open loop at each percentage of the knee's rate."""

    def at(percent: int, name: str, number: int) -> Sent:
        rate_per_s = found_knee.at.requests_per_s * percent / 100
        return loads.send(name, sizes.arriving(rate_per_s, run.seed + 100 + number))

    by_percent = {each: at(each, f"{each} % of the knee", number) for number, each in enumerate(RATES)}
    return Arriving(by_percent, at(RECOVERS_AT, f"{RECOVERS_AT} %, after the overload", len(RATES)))
