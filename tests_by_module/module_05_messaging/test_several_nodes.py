"""NATS between nodes: it is reached from each, and what workers of other nodes publish reaches the router."""

from urllib.parse import urlsplit

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.clients.answer import addressed_to
from fixtures.clients.inference import Answer, complete
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes.addresses import with_port
from fixtures.product.deployments.deployment import READY_WITHIN_S, Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.services.control_plane import NATS_PORT
from fixtures.run import Run
from tests_by_module.module_05_messaging.events import (
    PUBLISHED_WITHIN_S,
    kv_events,
    unique_prompt,
)

pytestmark = pytest.mark.needs("multi_node")

CONNECT_WITHIN_S, SERVES_WITHIN_S = 10, 15
# NATS speaks first
GREETING = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as nats:
    said = nats.recv(64)
sys.exit(not said.startswith(b"INFO ") and f"it says {said!r}")
"""


@check(
    "M05-24",
    judged="its greeting, at the data address of NATS's node, from each node",
    evidence="greetings",
    by_hand="on each node: nc NATS PORT",
    causes=[27],
)
def test_nats_is_reached_from_every_node(run: Run, inventory: Inventory, deployment: Deployment, evidence: Evidence):
    """NATS answers every node at the data address of the node that has the role nats."""
    port = urlsplit(deployment.settings.nats_url).port or NATS_PORT
    addresses = [spec.dynamo_data_address for spec in inventory.with_role("nats")]
    assert addresses, "no node has the role nats: nothing to reach"
    wrong = []
    for node in run.nodes().values():
        for address in addresses:
            argv = [node.python, "-I", "-S", "-c", GREETING, address, str(port)]
            done = node.run(argv, deadline=Deadline(CONNECT_WITHIN_S, f"NATS from {node.name}"), expect=None)
            if done.rc:
                wrong.append(f"{node.name} does not reach NATS at {with_port(address, port)} ({done.last_words})")
    asked = len(run.nodes()) * len(addresses)
    evidence.text("greetings", f"{asked - len(wrong)} of {asked}")
    Findings(wrong).judge()


def told_by_a_worker_on(name: str, run: Run, deployment: ManagedDeployment) -> tuple[int, float]:
    """Blocks that a worker which joined there published as stored, and the router's hit rate for the same prompt."""
    with (
        deployment.nats_client() as client,
        client.capture(">") as messages,
        run.joined_worker(deployment, on=name) as worker,
    ):
        registers = Deadline(READY_WITHIN_S, f"{worker.name} to register")
        worker_id = deployment.wait_until_registered(worker, registers).instance_id
        prompt, by_name = unique_prompt(20), addressed_to(worker_id)

        def ask() -> Answer:
            return complete(deployment.endpoint, prompt, max_tokens=2, nvext=by_name, timeout_s=5)

        def served() -> tuple[bool | None, object]:
            answer = ask()
            return answer.ok or None, answer.describe()

        def known() -> tuple[float | None, object]:
            return ask().kv_hit_rate or None, "no hit"

        wait_until(served, Deadline(SERVES_WITHIN_S, f"the worker joined on {name} to answer"))
        try:
            rate = wait_until(known, Deadline(PUBLISHED_WITHIN_S, "the prompt to be a hit"))
        except DeadlineExceeded:
            rate = 0.0  # which is judged
        events = kv_events(client, messages, deployment.subject("kv-events"))
    return sum(len(each.blocks) for each in events if each.worker_id == worker_id and each.kind == "stored"), rate


@check(
    "M05-25",
    judged="a worker joins on a node without the frontend: what it stored is published, and its prompt is a hit",
    evidence="measurements",
    by_hand="a worker on another node; nats sub '>'; send it a prompt twice",
    causes=[1, 14],
)
@pytest.mark.needs("managed", "nats_events", why="breaks")
def test_kv_events_of_other_nodes_reach_the_router(
    run: Run, managed: ManagedDeployment, inventory: Inventory, measure: Measure, evidence: Evidence
):
    """KV events of a worker on another node are published, and the router soon predicts a hit."""
    told = {name: told_by_a_worker_on(name, run, managed) for name in inventory.require_away_from_frontend()}
    evidence.table("by node", ["node", "blocks published", "hit rate"], [[name, *each] for name, each in told.items()])
    measure("published_blocks", min(blocks for blocks, _ in told.values()), n=len(told))
    measure("kv_hit_rate_again", min(rate for _, rate in told.values()), n=len(told))
    measure.judge()
