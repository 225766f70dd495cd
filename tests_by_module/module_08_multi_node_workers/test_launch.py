"""What workers on several nodes are started with, and what an engine over several nodes would be."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.probe import families
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.launch_lint import Launch, NodeFacts, lint, variables
from fixtures.product.deployments.multi_node_engine import EXECUTORS, Member, mistakes_in, plan
from fixtures.product.deployments.topology import Picture
from fixtures.run import Run

pytestmark = pytest.mark.needs("multi_node")

PORT = 29500


@check(
    "M08-07",
    judged="the environment of each worker's processes: addresses are the node's data address and not link-local; "
    "interfaces and devices exist and belong to the data link (`launch_rules.yaml`)",
    evidence="variables",
    by_hand="tr '\\0' '\\n' < /proc/PID/environ",
    causes=[69, 73, 77, 79],
)
def test_workers_are_started_for_the_data_link(
    deployment: Deployment,
    picture: Picture,
    inventory: Inventory,
    nodes: dict[str, Node],
    node_facts: dict[str, NodeFacts],
    evidence: Evidence,
):
    """Each worker's environment leads it only to the interfaces, addresses and devices of the data link."""
    workers = [(each, each.pid) for each in picture.of_kind("worker") if each.pid is not None]
    if len(workers) < len(deployment.registered_workers()):
        raise CouldNotLook("processes of registered workers are not found on the nodes, or belong to another user")
    names, rows, wrong = variables(), [], []
    for worker, pid in workers:
        runtime = inventory.runtime(inventory.node(worker.node).dynamo_runtime)
        for process in families(nodes[worker.node], [pid], names)[pid]:
            launch = Launch(
                worker.id, worker.node, runtime.engine, tuple(process["argv"]), process["environment"], nodes=1
            )
            rows += [[worker.id, worker.node, process["pid"], *pair] for pair in sorted(launch.env.items())]
            wrong += lint(launch, node_facts[worker.node])
    evidence.table("environment", ["worker", "node", "pid", "variable", "value"], rows)
    if not rows:
        raise CouldNotLook(f"no worker was started with any of {', '.join(names)}: there is nothing to look at")
    Findings(dict.fromkeys(wrong)).judge()


@pytest.mark.needs("runtime")
@check(
    "M08-08",
    judged="the plan from what is found on the nodes, by pipeline and by tensor, with and without Ray: ranks, "
    "master, world size, versions, arguments; each launch passes the rules, too",
    evidence="launches",
    by_hand="pytest tests_by_module --dry-run",
    causes=[73, 74, 77],
)
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("axis", ["pipeline", "tensor"])
def test_an_engine_over_all_nodes_can_be_launched(
    axis: str, executor: str, run: Run, engine_nodes: list[Member], evidence: Evidence
):
    """An engine over all nodes can be planned: one rank per device, one master on the data link, one version."""
    devices = sum(each.devices for each in engine_nodes)
    sizes = {"pipeline": len(engine_nodes), "tensor": devices // len(engine_nodes)}
    if axis == "tensor":
        sizes = {"pipeline": 1, "tensor": devices}
    planned = run.at("module_08.plan", plan(engine_nodes, **sizes, port=PORT, executor=executor))
    rows = [
        [rank.rank, launch.node, " ".join(launch.argv), " ".join(f"{k}={v}" for k, v in launch.env.items())]
        for rank in planned.ranks
        for launch in rank.launches
    ]
    evidence.table("launches", ["rank", "node", "command", "environment"], rows)
    wrong = mistakes_in(planned, [each.facts.name for each in engine_nodes])
    Findings(wrong).judge()
