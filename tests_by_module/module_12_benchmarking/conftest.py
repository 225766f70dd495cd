"""Fixtures of module 12: a warm deployment under a sweep of requests in flight, then of requests that arrive."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from fixtures.baseline.repeats import Target
from fixtures.basics.errors import NotMeasured
from fixtures.benchmark.knee import Knee
from fixtures.benchmark.sending import ClientStarved, Sender, Sent
from fixtures.benchmark.sizes import Sizes, sizes_of
from fixtures.benchmark.slo import named
from fixtures.cluster.inventory.model import Inventory
from fixtures.load.point import Point
from fixtures.load.refused import by_idle_workers
from fixtures.load.workloads import Part, Workload
from fixtures.product.deployments.deployment import Deployment, Equipment
from fixtures.run import Run
from tests_by_module.module_12_benchmarking.loads import (
    OVERLOAD,
    RATES,
    RECOVERS_AT,
    TAILS_UP_TO,
    Arriving,
    Loads,
    Swept,
    knee_of,
    overload_per_s,
    prefix_plans,
    send_each,
)

WARM_REQUESTS = 16  # for each worker
SIDE_BY_SIDE = 100


@pytest.fixture(scope="package")
def target(run: Run, deployment: Deployment, client: Equipment) -> Target:
    """The frontend, as the client's node reaches it."""
    nodes = tuple(each.node for each in run.equipment().values())
    url = deployment.load_url
    return Target(client, (url,), deployment.settings.model_name, nodes, {url: "frontend"})


@pytest.fixture(scope="package")
def loads(run: Run, deployment: Deployment, client: Equipment) -> Loads:
    """Those of the warm-up, of the sweep and of the open loop."""
    sending, url = run.at("module_12.client", client), run.at("module_12.url", deployment.load_url)
    return Loads(run, Sender(deployment, sending, url))


@pytest.fixture(scope="package")
def shapes(run: Run, deployment: Deployment, client: Equipment) -> Loads:
    """Loads of other shapes."""
    return Loads(run, Sender(deployment, client, run.at("module_12.url_of_shapes", deployment.load_url)))


@pytest.fixture(scope="package")
def sizes(profile: str) -> Sizes:
    """How long and how many requests are."""
    return sizes_of(profile)


@pytest.fixture(scope="package")
def seed(profile: str) -> int:
    """Of this form's loads in every night; a prompt of the other form would be found in the workers' caches."""
    return Random(f"module 12 {profile}").randrange(2**31)


@pytest.fixture(scope="package")
def side_by_side(sizes: Sizes) -> Part:
    """What AIPerf and our client both send: enough requests for p95, at a load far below the knee."""
    lengths = {"input_tokens": (sizes.input_tokens,), "output_tokens": sizes.output_tokens, "spread": sizes.spread}
    concurrency = sizes.concurrency[1]
    workload = Workload(**lengths, concurrency=(concurrency,), requests=SIDE_BY_SIDE)
    return Part(Point(workload="side by side", input_tokens=sizes.input_tokens, concurrency=concurrency), workload)


@pytest.fixture(scope="package")
def warm(seed: int, deployment: Deployment, loads: Loads, sizes: Sizes) -> Sent:
    """The first requests, which are no part of any number. Raises NotMeasured when a worker served none of them."""
    workers = [each.instance_id for each in deployment.registered_workers()]
    plan = sizes.at_once(2 * max(1, len(workers)), seed)
    sent = loads.send("warm-up", replace(plan, count=WARM_REQUESTS * max(1, len(workers))), measured=False)
    if idle := by_idle_workers({f"{worker:x}": sent.workers.get(worker, 0.0) for worker in workers}):
        raise NotMeasured(*idle)
    return sent


@pytest.fixture(scope="package")
def swept(seed: int, warm: Sent, loads: Loads, sizes: Sizes) -> Swept:
    """A closed loop at each concurrency, the lowest first; of that the moment of each token is kept."""
    plans = {
        f"{concurrency} at once": replace(sizes.at_once(concurrency, seed + 1 + number), keep_times=not number)
        for number, concurrency in enumerate(sizes.concurrency)
    }
    return send_each(loads, plans)


@pytest.fixture(scope="package")
def sweep(swept: Swept) -> Sequence[Sent]:
    """The loads at which the client had time to spare. Raises NotMeasured where they do not show the knee."""
    if swept.starved and not swept.has_knee:
        raise NotMeasured(f"{swept.starved}. The lower loads do not show where the knee lies")
    return swept.loads


@pytest.fixture(scope="package")
def prefixes(seed: int, warm: Sent, shapes: Loads, sizes: Sizes) -> tuple[Sent, Sent]:
    """Long prompts of their own, and such that share a head."""
    own, shared = prefix_plans(sizes, seed + 300)
    return shapes.send("prompts of their own", own), shapes.send("prompts that share a head", shared)


@pytest.fixture(scope="package")
def found_knee(sweep: Sequence[Sent]) -> Knee:
    """Raises BringUpFailed where the sweep shows none."""
    return knee_of(sweep)


@pytest.fixture(scope="package")
def arriving(
    seed: int, inventory: Inventory, sweep: Sequence[Sent], found_knee: Knee, loads: Loads, sizes: Sizes
) -> Arriving:
    """An open loop at each percentage of the knee's rate, and beyond what can be served."""
    level = inventory.cluster.dynamo_slo
    judged = named(level, inventory.path).fewest if level else 0

    def at(percent: int, name: str, number: int) -> Sent:
        rate_per_s = found_knee.at.requests_per_s * percent / 100
        # the rarest arrive for no longer than those that tails come from
        count = sizes.requests if percent >= RECOVERS_AT else round(sizes.requests * percent / TAILS_UP_TO)
        if percent == TAILS_UP_TO:
            count = max(count, judged)
        return loads.send(name, sizes.arriving(rate_per_s, seed + 100 + number, count))

    by_percent = {each: at(each, f"{each} % of the knee", number) for number, each in enumerate(RATES)}
    overload, most_per_s, starved = by_percent[RATES[-1]], max(each.requests_per_s for each in sweep), ""
    if rate_per_s := overload_per_s(overload.plan.rate_per_s or 0.0, most_per_s):
        plan = sizes.arriving(rate_per_s, seed + 100 + len(RATES) + 1)
        try:
            overload = loads.send(f"{100 * OVERLOAD:g} % of the most served", plan)
        except ClientStarved as error:  # the deployment had it, and recovers from it
            starved = str(error)
    recovered = at(RECOVERS_AT, f"{RECOVERS_AT} %, after the overload", len(RATES))
    return Arriving(by_percent, overload, recovered, starved)
