"""One engine over several nodes, for real: it serves, and what it serves is what one node alone would."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from fixtures.answers.ask import answered, ask
from fixtures.answers.compare import apart, first_difference
from fixtures.answers.prompts import Prompt
from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.merged import folded
from fixtures.clients.answer import Answer
from fixtures.cluster.inventory.dtypes import dtypes_of_workers
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.multi_node_engine import Member, mistakes_in, plan
from fixtures.product.deployments.ranks import RankWorker
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run
from tests_by_module.module_08_multi_node_workers.divided import Axis, divisible, layout_over

pytestmark = [
    pytest.mark.needs("multi_node"),
    pytest.mark.needs("managed", why="settings"),
    pytest.mark.needs("real_engine", role="worker"),
    pytest.mark.needs("weights"),
]

# two ranks of vLLM on two CPU cores need 93 s; a large model from disk needs longer
SERVES_WITHIN_S, ENDS_WITHIN_S = 600, 60
PROMPT, TOKENS = Prompt("a sentence", "The capital of France is", ()), 32


@contextmanager
def spanning(
    run: Run, deployment: ManagedDeployment, members: Sequence[Member], *, tensor: int, pipeline: int
) -> Iterator[int]:
    """The engine over all members as one more worker of the deployment: its instance id. Raises ServiceFailed."""
    equipment = [run.equipment()[each.facts.name] for each in members]
    workers = [
        RankWorker(f"rank-{rank}", each.node, each.runtime, deployment.settings, each.model)
        for rank, each in enumerate(equipment)
    ]
    (port,) = equipment[0].node.free_ports(1)
    alone = [replace(each, command=tuple(worker.argv())) for each, worker in zip(members, workers, strict=True)]
    planned = plan(alone, tensor=tensor, pipeline=pipeline, port=port)
    Findings(mistakes_in(planned, [each.facts.name for each in members])).judge()
    for worker, rank in zip(workers, planned.ranks, strict=True):
        worker.planned = rank.engine
    try:
        for worker in workers:
            deployment.stages.joining(worker).launch()
        deadline = Deadline(SERVES_WITHIN_S, f"{len(workers)} ranks to register as one worker")
        yield deployment.wait_until_registered(workers[0], deadline, workers[1:]).instance_id
    finally:
        with ExitStack() as ending:  # the last rank first, each whatever another's end raises
            for worker in workers:
                ending.callback(_stop, worker)


def _stop(worker: Worker) -> None:
    worker.stop(Deadline(ENDS_WITHIN_S, f"{worker.name} to end after SIGTERM"))


def greedy(deployment: Deployment, worker: int) -> Answer:
    """What a worker makes of the prompt, without chance. AssertionError when it does not serve."""
    answer = ask(deployment.endpoint, PROMPT, max_tokens=TOKENS, pinned_to=worker, timeout_s=120)
    assert answer.ok, f"worker {worker:x} does not answer: {answer.describe()}"
    assert answer.worker_ids == {worker}, (
        f"worker {worker:x} was asked, served by {', '.join(f'{each:x}' for each in answer.worker_ids) or 'nobody'}"
    )
    return answer


def judge(run: Run, there: Sequence[Member], axis: Axis, measure: Measure, evidence: Evidence) -> None:
    """Beside one worker on one node: what that one says is what is expected, but for rounding."""
    config = run.equipment()[there[0].facts.name].model_files(only_texts=True).config
    members = divisible(there, axis, config)
    if left_out := [each.facts.name for each in there[len(members) :]]:
        evidence.note(
            "nodes left out", f"vLLM divides this model over {len(members)} nodes, without {folded(left_out)}."
        )
    layout = layout_over(members, axis)
    with run.own_deployment("module_08.spanning") as deployment:
        (alone,) = deployment.registered_workers()
        expected = greedy(deployment, alone.instance_id)
        with spanning(run, deployment, members, tensor=layout.tensor, pipeline=layout.pipeline) as worker:
            told = greedy(deployment, worker)
    evidence.table("greedy answers", ["worker", "text"], [["one node", expected.text], ["over the nodes", told.text]])
    position, far = apart(answered("on one node", expected), answered("over the nodes", told))
    if dtypes_of_workers(run.inventory) == {"float32"}:
        bound = measure("logprob_distance", far, n=TOKENS)
    else:
        bound = measure("logprob_distance_in_16_bits", far, n=TOKENS)
    if bound.judgement == "fail":
        wrong = f"over {len(members)} nodes the answer is {told.text!r}, on one it is {expected.text!r}"
        where = f"{first_difference(position)}, log probabilities differ by {far:.2g}, expected {bound.threshold}"
        Findings([f"{wrong}: {where}"]).judge()
    measure.judge()


@check(
    "M08-20",
    judged="vLLM as one more worker over all nodes, or the most over which its layers can be divided: the greedy "
    "answer is that of a worker on one node, by how far log probabilities differ up to the first token that is another",
    evidence="measurement, both answers, nodes left out",
    by_hand="dynamo.vllm --nnodes 2 --node-rank 0|1 --pipeline-parallel-size 2",
    causes=[74],
)
def test_pipeline_over_nodes_answers_as_one_node(
    run: Run, engine_nodes: list[Member], measure: Measure, evidence: Evidence
):
    """A pipeline-parallel engine over the nodes serves the same tokens as an engine on one node."""
    judge(run, engine_nodes, "pipeline", measure, evidence)


@check(
    "M08-21",
    judged="vLLM with every layer spread over all nodes, or the most over which its heads can be divided: the greedy "
    "answer is that of a worker on one node, as there",
    evidence="measurement, both answers, nodes left out",
    by_hand="dynamo.vllm --nnodes 2 --node-rank 0|1 --tensor-parallel-size 2",
    causes=[74],
)
def test_tensor_parallel_over_nodes_answers_as_one_node(
    run: Run, engine_nodes: list[Member], measure: Measure, evidence: Evidence
):
    """A tensor-parallel engine over the nodes serves the same tokens as an engine on one node."""
    judge(run, engine_nodes, "tensor", measure, evidence)
