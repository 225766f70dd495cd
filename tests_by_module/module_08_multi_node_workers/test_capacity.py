"""The same model on nodes of different capacity."""

from dataclasses import replace

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.cluster.inventory.model import Inventory
from fixtures.faults.timeline import require_none_lost
from fixtures.load.plan import LoadPlan
from fixtures.product.deployments.placement import Placement
from fixtures.run import Run
from tests_by_module.module_08_multi_node_workers.workers_by_node import (
    by_worker,
    load_from_client,
    members,
    of_fair_share,
)

pytestmark = [
    pytest.mark.needs("multi_node"),
    pytest.mark.needs("managed", why="settings"),
    pytest.mark.long_wait(together=True),
]

# one request at a time, said as vLLM and the mocker are told: of six that are with each worker, five wait here
SMALL = {"worker_args": ("--max-num-seqs", "1")}
LOADS, REQUESTS = 12, 120


def share_of_small_node(
    run: Run, inventory: Inventory, spread: Placement, mode: str, number: int
) -> tuple[float | None, list]:
    """What the smaller one of two workers serves, in fair shares, and a row for each worker."""
    _, second = spread.workers
    placed = replace(spread, worker_settings={second: SMALL})
    plan = LoadPlan(
        seed=run.seed + number,
        prompt_tokens=(200, 300),
        output_tokens=(15, 30),
        within_s=30,
        concurrency=LOADS,
        count=REQUESTS,
    )
    name = f"module_08.capacity{number}"
    with run.own_deployment(name, placed=placed, router_mode=mode) as deployment:
        workers = members(deployment, inventory)
        with load_from_client(run, deployment, plan) as sent:
            load = sent.finish()
    require_none_lost(load.requests)
    served = by_worker(load.requests)
    counts = {each.instance_id: served[each.instance_id] for each in workers}
    small = next(each for each in workers if each.home == second)
    rows = [[mode, each.home, counts[each.instance_id], "smaller" if each is small else ""] for each in workers]
    return of_fair_share(counts, small.instance_id), rows


@pytest.fixture(scope="module")
def in_turns(run: Run, inventory: Inventory, spread: Placement) -> tuple[float | None, list]:
    """The control: a router that knows no load."""
    return share_of_small_node(run, inventory, spread, "round-robin", 10)


@check(
    "M08-06",
    judged="of two workers one takes one request at a time (`--max-num-seqs 1`), 12 are under way: its share under "
    "the routers kv and least-loaded, and under round-robin as the control",
    evidence="requests by node",
    by_hand="--max-num-seqs 1 on one node; count nvext.worker_id",
)
@pytest.mark.parametrize(("mode", "number"), [("kv", 11), ("least-loaded", 12)], ids=["kv", "least-loaded"])
def test_smaller_node_is_given_less(
    run: Run,
    inventory: Inventory,
    spread: Placement,
    in_turns: tuple[float | None, list],
    mode: str,
    number: int,
    measure: Measure,
    evidence: Evidence,
):
    """A router that tracks load sends the smaller node less; one that does not sends it an equal share."""
    control, others = in_turns
    share, rows = share_of_small_node(run, inventory, spread, mode, number)
    evidence.table("requests by node", ["router", "node", "requests", ""], [*others, *rows])
    measure("small_of_fair_share", share, n=REQUESTS)
    measure("small_of_fair_share_in_turns", control, n=REQUESTS)
    measure.judge()
