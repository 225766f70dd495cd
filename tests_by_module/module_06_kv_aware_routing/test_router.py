"""The router is the one that was declared, its index is fed, and all workers speak of the same blocks."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.clients import prometheus
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.load.traces import Traces
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.topology import Picture
from tests_by_module.module_06_kv_aware_routing.hashing import hashing_of
from tests_by_module.module_06_kv_aware_routing.routing import send


@check(
    "M06-01",
    judged="declared kv, no model card brings another mode, an answer reports a hit rate; the others are blocked by it",
    by_hand="curl FRONTEND/v1/completions: nvext.timing.kv_hit_rate",
    causes=[15],
)
@pytest.mark.needs("kv_router")
@pytest.mark.smoke
def test_router_is_in_kv_mode(kv_router: Traces):
    """The declared mode is kv, no worker's model card replaces it, and the router predicts hits for a request."""


@check(
    "M06-02",
    judged="the same prompt twice to one worker: all full blocks predicted; the others are blocked by it",
    by_hand="send a long prompt twice: kv_hit_rate > 0",
    causes=[1, 2, 3, 9],
)
@pytest.mark.needs("kv_router")
def test_router_knows_what_a_worker_has_just_stored(traces: Traces):
    """A prompt sent again to the worker that served it is predicted to hit all its full blocks."""


@check(
    "M06-03",
    judged="model cards and the router's gauge are equal, each worker answers when asked by name; the others are "
    "blocked by it",
    evidence="table",
    by_hand="etcdctl get --prefix v1/mdc/ | grep kv_cache_block_size",
    causes=[3, 4, 10],
)
@pytest.mark.needs("kv_router")
def test_all_workers_have_the_routers_block_size(deployment: Deployment, traces: Traces, evidence: Evidence):
    """Every worker registers the block size that the router uses, and receives requests."""
    workers = deployment.registered_workers()
    sizes = {worker.hex_id: (worker.card or {}).get("kv_cache_block_size") for worker in workers}
    metric = deployment.settings.dialect.metrics.kv_block_size
    reckoned = prometheus.scrape(f"{deployment.reach(deployment.frontend_url)}/metrics", only=metric)
    routers = reckoned.series(metric, model=deployment.settings.model_name)
    assert routers, f"the frontend reports no {metric} of {deployment.settings.model_name}"
    answers = {
        w.hex_id: send(deployment, traces.tokens(100), traces.block_size, pinned_to=w.instance_id) for w in workers
    }
    evidence.table(
        "block sizes",
        ["worker", "block size", "the router's", "asked by name"],
        [[name, size, routers[0], answers[name].told] for name, size in sizes.items()],
    )
    assert set(sizes.values()) == {routers[0]}, (
        f"the router reckons with a block size of {routers[0]:g}, the workers register {sizes}"
    )
    refused = {name: answer.error for name, answer in answers.items() if answer.error}
    assert not refused, f"requests that name these workers fail: {refused}"


@check(
    "M06-22",
    judged="`PYTHONHASHSEED` and the hash algorithm of every worker and of its children, from `/proc/PID`, are "
    "equal; a real engine's seed is set",
    evidence="table",
    by_hand="tr '\\0' '\\n' < /proc/PID/environ | grep PYTHONHASHSEED",
    causes=[5],
)
@pytest.mark.needs("worker_port")
def test_workers_hash_with_one_seed(
    deployment: Deployment, picture: Picture, nodes: dict[str, Node], inventory: Inventory, evidence: Evidence
):
    """All workers were started with the same hash seed and algorithm; an engine that needs a seed has one."""
    variable = deployment.settings.dialect.hashing.seed_variable
    workers = hashing_of(deployment, picture, nodes, inventory)
    evidence.table(
        "hashing",
        ["worker", "node", "pid", variable, "algorithm"],
        [[each.worker, each.node, each.pid, each.seed, each.algorithm] for each in workers],
    )
    seeds, algorithms = ({each.worker: getattr(each, what) for each in workers} for what in ("seed", "algorithm"))
    assert len(set(seeds.values())) == 1, (
        f"workers hash with different seeds: {variable} is {seeds}; set the same for all"
    )
    assert len(set(algorithms.values())) == 1, f"workers hash with different algorithms: {algorithms}"
    random = [each.worker for each in workers if each.is_random]
    assert not random, f"{variable} is unset on workers {', '.join(random)}: their hash seeds are random; set it to 0"
