"""One engine over several nodes, for real: it serves, and what it serves is what one node alone would."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from fixtures.clients.inference import EXTRA_FIELDS, complete
from fixtures.deadline import Deadline, wait_until
from fixtures.deployments.deployment import Deployment
from fixtures.deployments.launches import Launch
from fixtures.deployments.parallel import Member, check, plan, vllm_command
from fixtures.nodes import Node
from fixtures.run import Run
from fixtures.services.base import Service, ServiceFailed

pytestmark = [
    pytest.mark.needs("multi_node"),
    pytest.mark.needs("managed"),
    pytest.mark.needs("real_engine", role="worker"),
]

# two ranks of vLLM on two CPU cores need 93 s; a large model from disk needs longer
SERVES_WITHIN_S, ENDS_WITHIN_S = 600, 60
PROMPT, TOKENS = "The capital of France is", 32


class Part(Service):
    """One launch of a plan, with what the deployment tells each of its processes."""

    kind = "worker"

    def __init__(self, name: str, node: Node, launch: Launch, shared: Mapping[str, str]) -> None:
        super().__init__(name, node)
        self.launched, self.shared = launch, shared

    def argv(self) -> list[str]:
        return list(self.launched.argv)

    def env(self) -> Mapping[str, str]:
        return {**self.shared, **self.launched.env}


@contextmanager
def spanning(
    run: Run, deployment: Deployment, members: list[Member], nodes: dict[str, Node], **sizes: int
) -> Iterator[int]:
    """The engine over all nodes as one more worker of the deployment: its instance id. Raises ServiceFailed."""
    equipment = run.equipment()[members[0].facts.name]
    command = vllm_command(equipment.runtime.python, equipment.model_path, deployment.settings.model_name)
    (port,) = equipment.node.free_ports(1)
    planned = plan(members, **sizes, command=command, port=port)
    assert not (wrong := check(planned, [each.facts.name for each in members])), "; ".join(wrong)
    there = {worker.instance_id for worker in deployment.registered_workers()}
    parts = [
        Part(f"rank-{rank.rank}", node, launch, deployment.settings.environment(node))
        for rank in planned.ranks
        for launch in rank.launches
        for node in [nodes[launch.node]]
    ]

    def look() -> tuple[int | None, object]:
        if dead := [part for part in parts if not part.is_alive()]:
            raise ServiceFailed(f"{dead[0].name} on {dead[0].node.name} ended; its log ends:\n{dead[0].log()[-3000:]}")
        came = {worker.instance_id for worker in deployment.registered_workers()} - there
        return (came.pop() if came else None), "it has not registered"

    try:
        for part in parts:
            part.launch()
        yield wait_until(look, Deadline(SERVES_WITHIN_S, f"{len(parts)} ranks to register one worker"))
    finally:
        for part in reversed(parts):
            if part.is_alive():
                part.stop(Deadline(ENDS_WITHIN_S, f"{part.name} to end after SIGTERM"))


def greedy(deployment: Deployment, worker: int) -> str:
    """What a worker makes of the prompt, without chance. AssertionError when it does not serve."""
    extra = EXTRA_FIELDS | {"backend_instance_id": worker}
    answer = complete(deployment.endpoint, PROMPT, max_tokens=TOKENS, temperature=0, nvext=extra, timeout_s=120)
    assert answer.ok, f"{worker:x}: {answer.describe()}"
    assert answer.worker_ids == {worker}, f"{worker:x} was asked, {answer.worker_ids} served"
    return answer.text


def judge(
    run: Run, deployment: Deployment, members: list[Member], nodes: dict[str, Node], evidence, **sizes: int
) -> None:
    alone = deployment.registered_workers()[0].instance_id
    expected = greedy(deployment, alone)
    with spanning(run, deployment, members, nodes, **sizes) as worker:
        told = greedy(deployment, worker)
    evidence.table("greedy answers", ["worker", "text"], [["one node", expected], ["over the nodes", told]])
    assert told == expected, f"over {len(members)} nodes the answer is {told!r}, on one it is {expected!r}"


@pytest.mark.check("M08-20", by_hand="dynamo.vllm --nnodes 2 --node-rank 0|1 --pipeline-parallel-size 2", causes=[74])
def test_pipeline_over_nodes_answers_as_one_node(run: Run, deployment: Deployment, engine_nodes, nodes, evidence):
    """An engine whose layers are spread over the nodes serves, with the tokens of one that has them all."""
    sizes = {"pipeline": len(engine_nodes), "tensor": engine_nodes[0].devices}
    judge(run, deployment, engine_nodes, nodes, evidence, **sizes)


@pytest.mark.check("M08-21", by_hand="dynamo.vllm --nnodes 2 --node-rank 0|1 --tensor-parallel-size 2", causes=[74])
def test_tensor_parallel_over_nodes_answers_as_one_node(
    run: Run, deployment: Deployment, engine_nodes, nodes, evidence
):
    """An engine whose every layer is spread over the nodes serves, with the tokens of one that has them whole."""
    sizes = {"pipeline": 1, "tensor": sum(each.devices for each in engine_nodes)}
    judge(run, deployment, engine_nodes, nodes, evidence, **sizes)
