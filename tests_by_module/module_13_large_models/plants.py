"""Plants that prove the checks of module 13."""

from typing import Any

from fixtures.basics.deadline import Deadline
from fixtures.cluster.inventory.engine_settings import EngineSettings
from fixtures.cluster.inventory.machines import Machine, machines
from fixtures.cluster.inventory.model import Inventory, NodeSpec
from fixtures.cluster.nodes import Node
from fixtures.fit.guards import EngineProcess, Guarded, Raylet
from fixtures.plants.plant import Plant, point


class HeadsThatDoNotDivide(Plant):
    """The engine is declared to have three tensor ranks, for a model with four heads."""

    catches = {"M13-02": "attention heads are not a multiple of 3"}

    @point("module_13.settings")
    def more_ranks(self, settings: EngineSettings) -> EngineSettings:
        return settings.model_copy(update={"args": (*settings.args, "--tensor-parallel-size", "3")})


class ContextBeyondTheModels(Plant):
    """The engine is declared to take requests of twice as many tokens as the model was made for."""

    catches = {"M13-01": "was made for 8192 tokens of context, and 16384 are asked for"}

    @point("module_13.settings")
    def longer(self, settings: EngineSettings) -> EngineSettings:
        return settings.model_copy(update={"max_model_len": 16384})


class UncompiledOnGb10(Plant):
    """The node is said to be a DGX Spark, and its engine is declared with --enforce-eager."""

    catches = {"M13-02": "lost 55 % of the speed"}

    @point("module_13.machine")
    def spark(self, machine: Machine) -> Machine:
        return machines()["dgx-spark"]

    @point("module_13.settings")
    def eager(self, settings: EngineSettings) -> EngineSettings:
        return settings.model_copy(update={"args": (*settings.args, "--enforce-eager")})


class FivePercentTooLittleMemory(Plant):
    """An engine needs 5 % more memory than its node has available."""

    catches = {"M13-05": "of memory are available: end what else runs there"}

    @point("module_13.needed")
    def more(self, needed: float, available: int) -> float:
        return available / 0.95


class OrphanKeepsMemory(Plant):
    """An engine's process is reported that has lost its parent and keeps 2 GiB."""

    catches = {"M13-05": "has lost its parent and keeps 2.0 GiB: kill 4242"}
    nightly = True

    @point("module_13.guarded")
    def orphan(self, seen: Guarded) -> Guarded:
        process = EngineProcess(pid=4242, parent=1, parent_program="", name="VLLM::EngineCore", bytes=2 << 30)
        return seen.model_copy(update={"engines": [*seen.engines, process]})


class RayEndsWorkers(Plant):
    """Ray is reported to run with its memory monitor on."""

    catches = {"M13-05": "RAY_memory_monitor_refresh_ms unset"}
    nightly = True

    @point("module_13.guarded")
    def ray(self, seen: Guarded) -> Guarded:
        return seen.model_copy(update={"ray": [*seen.ray, Raylet(pid=4243, monitor=None)]})


class KvFormsDiffer(Plant):
    """The engine on one node keeps KV in 8 bits, the others in 16."""

    catches = {"M13-03": "decode cannot read what prefill wrote"}
    nightly = True
    inventory = "lab"

    @point("module_13.engine")
    def in_8_bits(self, settings: EngineSettings, node: NodeSpec) -> EngineSettings:
        if "frontend" in node.dynamo_roles:
            return settings
        return settings.model_copy(update={"args": (*settings.args, "--kv-cache-dtype", "fp8")})


class OfWeights(Plant):
    """The model of the declared deployment has weights, which the mocker does not read."""

    def declared(self, inventory: Inventory) -> Inventory:
        model = inventory.model(inventory.nodes[0].dynamo_model)
        weights = model.model_copy(update={"parameters": {**model.parameters, "weights_seed": 1}})
        return inventory.model_copy(update={"models": (weights,)})


class QuantizationThatIsNotThere(OfWeights):
    """A model's config.json declares weights of 8 bits, and its files hold 32."""

    catches = {"M13-04": "config.json declares fp8-block"}

    @point("module_13.config")
    def in_8_bits(self, config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}


class DamagedWeights(OfWeights):
    """The files of weights are damaged, by DAMAGE, in a copy of the model's folder."""

    DAMAGE = ""

    @point("module_13.folder")
    def damaged(self, folder: str, node: Node) -> str:
        copy = f"{node.workdir}/damaged-weights"
        deadline = Deadline(60, "a damaged copy of the model")
        node.run([node.python, "-c", COPIED + self.DAMAGE, folder, copy], deadline=deadline)
        return copy


COPIED = """
import pathlib, shutil, sys
source, target = map(pathlib.Path, sys.argv[1:])
shutil.copytree(source, target)
path = next(target.glob("*.safetensors"))
data = path.read_bytes()
"""


class WeightsOfAnotherShape(DamagedWeights):
    """One matrix of the files of weights is as large as it should be, and has another shape."""

    catches = {"M13-04": "has the shape 64 x 128, and by config.json it is 128 x 64"}
    DAMAGE = """
end = 8 + int.from_bytes(data[:8], "little")
at = data.index(b"[128, 64]", data.index(b"gate_proj"))
assert at < end
path.write_bytes(data[:at] + b"[64, 128]" + data[at + 9:])
"""


class WeightsCutOff(DamagedWeights):
    """The file of weights ends 1000 bytes too early."""

    catches = {"M13-04": "it is cut off"}
    nightly = True
    DAMAGE = "path.write_bytes(data[:-1000])"


NOT_PLANTED = {
    "M13-12": "A slow start is judged as in module 03, where `engine_starts_slowly` shows that it is noticed.",
    **dict.fromkeys(
        ("M13-20", "M13-21"),
        "Nothing here slows a GPU down. fixtures/tests/test_fit_roofline.py tests their judges.",
    ),
    "M13-14": "Every version that was run fails it without a plant: `rotary_cure_taken_away` is what it would find.",
}
