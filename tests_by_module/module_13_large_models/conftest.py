"""Fixtures of module 13: models counted on the machines of the workers' nodes, and engines over these nodes."""

import json

import pytest

from fixtures.basics.errors import BlockedByHardware, BringUpFailed, NotOffered
from fixtures.fit.model_config import FitError
from fixtures.fit.plans import Fit
from fixtures.product.deployments.ranks import REPLICAS
from fixtures.run import Run
from tests_by_module.module_13_large_models import sizing
from tests_by_module.module_13_large_models.engines import Engines
from tests_by_module.module_13_large_models.over_nodes import Seen

SIZE_CHECK = "M13-01"


@pytest.fixture(scope="package")
def declared(run: Run) -> sizing.Declared:
    return sizing.declared(run)


@pytest.fixture(scope="package")
def counted(large_model: str, run: Run, declared: sizing.Declared) -> Fit:
    """The model on these nodes. Raises BringUpFailed where it cannot be computed."""
    try:
        return declared.counted(sizing.wanted(run, large_model))
    except FitError as error:
        raise BringUpFailed(SIZE_CHECK, str(error)) from None


@pytest.fixture(scope="package")
def engines(run: Run, declared: sizing.Declared) -> Engines:
    return Engines(run, declared.machine.gpus)


@pytest.fixture(scope="package")
def seen(spread_case: tuple[str, str], run: Run, engines: Engines) -> Seen:
    """One engine of that model in that layout, started, asked and ended. Raises BringUpFailed."""
    model, layout = spread_case
    return engines.seen(sizing.named(run, model), layout)


@pytest.fixture(scope="package")
def uncured(run: Run, declared: sizing.Declared, engines: Engines) -> Seen:
    """A model with latent attention on one node, with all of vLLM's own operators. Raises NotOffered."""
    if declared.machine.has_gpu:
        raise BlockedByHardware("it is about vLLM's operators for processors, and these nodes compute on GPUs")
    for name in sizing.spread_models(run):
        if run.inventory.model(name).parameters.get("kv_lora_rank"):
            with_all = ("--compilation-config", json.dumps({"custom_ops": ["all"]}))
            return engines.seen(name, "one-node", "uncured", worker_args=with_all)
    raise NotOffered("dynamo_spread_models names no model with latent attention (kv_lora_rank)")


@pytest.fixture(scope="package")
def side_by_side(run: Run, engines: Engines) -> dict[str, Seen]:
    """The first of the declared models: one engine, one on each node, and one over all nodes in both ways."""
    model = sizing.spread_models(run)[0]
    return {layout: engines.seen(model, layout) for layout in ("one-node", REPLICAS, "tensor", "pipeline")}


@pytest.fixture(scope="package")
def twice(run: Run, engines: Engines) -> list[Seen]:
    """The first of the declared models on one node, and started again after its end."""
    model = sizing.spread_models(run)[0]
    return [engines.seen(model, "one-node"), engines.seen(model, "one-node", "again")]
