"""What is asked of the fit calculator here: the machine, the model and the engine, as declared and as found."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.flags import flags
from fixtures.cluster.inventory.engine_settings import EngineSettings
from fixtures.cluster.inventory.machines import Machine, machines
from fixtures.cluster.inventory.model import Inventory, NodeSpec
from fixtures.fit.budget import Engine, Model, budget
from fixtures.fit.layout import Layout
from fixtures.fit.loaded import Compared, compare, read_text
from fixtures.fit.machines import GIB, found, processors
from fixtures.fit.model_config import FitError, config_of
from fixtures.fit.models import SERVED, model
from fixtures.fit.plans import Fit, fit
from fixtures.fit.quantization import declared as scheme
from fixtures.fit.screen import blocked_lines, layout_lines, sum_lines
from fixtures.fit.tensors import tensors_of
from fixtures.product.deployments.ranks import Spread, spread_of
from fixtures.product.runtimes.model_files import ModelFiles
from fixtures.run import Run
from tests_by_module.module_13_large_models.over_nodes import Seen

# of a request that must fit, where the runtime does not say how long one may be
CONTEXT = 8192


@dataclass(frozen=True)
class Declared:
    """The nodes with workers, the machine that each of them is, and the engine that they run."""

    nodes: tuple[NodeSpec, ...]
    machine: Machine
    settings: EngineSettings

    def context(self, most: int) -> int:
        """Tokens of a request that must fit, of a model made for `most`."""
        return self.settings.max_model_len or min(CONTEXT, most)

    def needed_bytes(self, inventory: Inventory, node: NodeSpec) -> float:
        """Of the system's memory for the engines of a node; 0 where GPUs have memory of their own.

        With the mocker nothing is needed, unless a model is asked about.
        """
        runtime = inventory.runtime(node.worker_runtime)
        if runtime.engine == "mocker" and not inventory.cluster.dynamo_large_models:
            return 0
        if self.machine.has_gpu:
            if not self.machine.unified:
                return 0
            told = flags(self.settings.args)
            share = float(
                told.get("--gpu-memory-utilization") or self.settings.memory_share or self.machine.memory_share
            )
            # of its KV alone it may take more than what must be free when it starts
            least = float(told.get("--kv-cache-memory-bytes") or 0)
            return max(self.machine.memory_gib * share * GIB, least) * self.machine.gpus
        return (runtime.settings.memory_gb or 0) * 1e9 * len(node.worker_types)

    def counted(self, wanted: Model) -> Fit:
        """Raises FitError."""
        engine = Engine.of(self.settings, self.context(wanted.config.max_position_embeddings))
        return fit(wanted, self.machine, len(self.nodes), engine)


def declared(run: Run) -> Declared:
    """What the inventory declares, on the machines that the probes found. Raises CouldNotLook where they differ."""
    inventory, facts = run.inventory, run.facts()
    nodes = inventory.with_role("worker")
    spec = inventory.runtime(nodes[0].worker_runtime)
    settings = run.at("module_13.settings", spec.settings if spec.engine == "vllm" else EngineSettings())
    kinds = [_machine(node, facts[node.name], settings) for node in nodes]
    names = {f"{each.gpus} x {each.gpu}" for each in kinds}
    if len(names) > 1:
        raise CouldNotLook(f"an engine spans machines of one kind, and these are {' and '.join(sorted(names))}")
    least = min(kinds, key=lambda each: each.memory_gib)
    return Declared(nodes, run.at("module_13.machine", least), settings)


def _machine(node: NodeSpec, facts: Mapping[str, Any], settings: EngineSettings) -> Machine:
    """As its GPU was found, where it declares one; without as `dynamo_machine` says, and else its processors."""
    gpus = (facts.get("gpu") or {}).get("found") or []
    wanted = machines()[node.dynamo_machine] if node.dynamo_machine else None
    if gpus and "gpu" in node.dynamo_capabilities:
        try:
            there = found(facts)
        except FitError as error:
            raise NotOffered(f"{node.name}: {error}") from None
        if wanted and there.gpu != wanted.gpu:
            raise CouldNotLook(f"{node.name} is declared as {wanted.name}, and its GPU is {there.gpu} (dynamo_machine)")
        return there.model_copy(update={"gpus": len(node.dynamo_gpus) or there.gpus})
    if wanted:
        return wanted.model_copy(update={"gpus": len(node.dynamo_gpus) or wanted.gpus})
    return processors(facts, settings.memory_share)


def wanted(run: Run, name: str) -> Model:
    """The model of that name, or the one that the first worker serves. Raises FitError, RemoteError."""
    return model(name) if name != SERVED else served(run)


def named(run: Run, name: str) -> str:
    """The model of the inventory's of that name, or the one that the first worker serves."""
    return run.inventory.with_role("worker")[0].dynamo_model if name == SERVED else name


def spread_models(run: Run) -> tuple[str, ...]:
    """Names of the models that are served over the nodes."""
    return run.inventory.cluster.dynamo_spread_models or (named(run, SERVED),)


def served(run: Run) -> Model:
    """As its config.json on the node of the first worker says."""
    node = run.inventory.with_role("worker")[0]
    files = served_files(run)
    config = config_of(run.at("module_13.config", files.config), f"config.json on {node.name}")
    name = run.inventory.model(node.dynamo_model).served_name
    return Model(name, files.folder, config, tensors_of(config), "config.json")


def served_files(run: Run) -> ModelFiles:
    """The small files of the served model. Raises NotOffered where they are nowhere to be read, RemoteError."""
    if not run.inventory.cluster.dynamo_managed:
        return run.deployment().model_files()
    return run.equipment()[run.inventory.with_role("worker")[0].name].model_files(only_texts=True)


def arithmetic(counted: Fit) -> Iterator[str]:
    """The sum for one rank and every layout, on one screen."""
    yield from sum_lines(counted, counted.first)
    yield from () if counted.fits else blocked_lines(counted)
    yield from layout_lines(counted)


def compared_with_log(run: Run, declared: Declared, seen: Seen) -> list[Compared]:
    """What each rank's log says next to the prediction for its model and layout; the fullest rank counts."""
    node = run.inventory.with_role("worker")[0].name
    equipment = run.with_model(run.equipment()[node], seen.model)
    config = config_of(equipment.model_files(only_texts=True).config, f"config.json of {seen.model}")
    wanted = Model(seen.model, equipment.model.path, config, tensors_of(config), "config.json")
    spread = spread_of(seen.layout, len(declared.nodes), declared.machine.gpus) or Spread()
    engine = Engine.of(declared.settings, declared.context(config.max_position_embeddings))
    layout = Layout(spread.tensor, spread.pipeline)
    predicted = budget(wanted, scheme(config, engine.dtype), layout, declared.machine, engine)
    text = run.at("module_13.log", "\n".join(seen.logs.values()))
    return compare(predicted, read_text(text, f"the log of {seen.model}"))
