"""An engine's greedy answers against transformers on the model that the inventory declares."""

from dataclasses import dataclass, replace
from math import inf

from fixtures.answers.ask import answered, ask_all
from fixtures.answers.compare import Comparison, Tolerance, compare
from fixtures.answers.oracle import require_room
from fixtures.answers.prompts import prompt_set
from fixtures.answers.reference import reference
from fixtures.basics.deadline import Deadline
from fixtures.basics.require import require
from fixtures.cluster.inventory.dtypes import served_dtype
from fixtures.cluster.inventory.model import RuntimeSpec
from fixtures.product.deployments.deployment import Deployment, Equipment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run

TOKENS, LONGEST_BLOCKS = 24, 20
REFERENCE_WITHIN_S = 300
# what differs is measured here, and judged by the thresholds
NOTHING_TOO_MUCH = Tolerance(inf, inf)


@dataclass(frozen=True)
class Compared:
    """Each answer, one request at a time and then all at once, against the reference's; `dtype` of both."""

    dtype: str
    alone: list[Comparison]
    together: list[Comparison]

    @property
    def all(self) -> list[Comparison]:
        return self.alone + self.together


def judged(run: Run, deployment: ManagedDeployment, spec: RuntimeSpec) -> Compared | None:
    """None for the mocker, whose tokens are random, and for weights that are made up.

    Raises CouldNotLook for answers without tokens, and for a worker without a model card.
    """
    (worker,) = deployment.workers
    if spec.engine == "mocker" or worker.model.dummy_weights:
        return None
    # the declared model, whatever the worker was told to serve
    equipment = replace(run.equipment()[worker.node.name], runtime=worker.runtime)
    dtype = served_dtype(run.inventory.model(worker.node.spec.dynamo_model).parameters, spec.settings.args)
    return _compared(run, deployment, equipment, dtype)


def judged_beside(run: Run, deployment: Deployment, spec: RuntimeSpec) -> Compared:
    """Of what runs already, while it serves. Raises NotOffered where the reference finds no room, CouldNotLook."""
    equipment = run.equipment()[run.inventory.with_role("worker")[0].name]
    require_room(equipment)
    dtype = served_dtype(equipment.model_files(only_texts=True).config, spec.settings.args)
    return _compared(run, deployment, equipment, dtype)


def _compared(run: Run, deployment: Deployment, equipment: Equipment, dtype: str) -> Compared:
    registered = deployment.registered_workers()[0]
    card = require(registered.card, f"model card of worker {registered.hex_id}")
    size, context = card["kv_cache_block_size"], card["context_length"]
    longest = min(LONGEST_BLOCKS * size, context - TOKENS)
    prompts = prompt_set(deployment.tokenizer(), block_size=size, max_prompt_tokens=longest, nonce=run.run_id)
    expected = reference(
        equipment,
        prompts,
        max_tokens=TOKENS,
        dtype=dtype,
        deadline=Deadline(REFERENCE_WITHIN_S, "the reference's answers"),
        beside=deployment.shared,
    )
    rounds = []
    for at_once in (1, len(prompts)):
        answers = ask_all(deployment.endpoint, prompts, max_tokens=TOKENS, at_once=at_once)
        rounds.append(
            [
                compare(name, expected[name], answered(name, each, partly=True), NOTHING_TOO_MUCH)
                for name, each in answers.items()
            ]
        )
    return Compared(dtype, *rounds)
