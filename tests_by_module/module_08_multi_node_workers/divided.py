"""Over how many nodes one engine of the served model can be spread, by tensor or by pipeline."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fixtures.basics.errors import NotOffered
from fixtures.fit.layout import Layout, cannot
from fixtures.fit.model_config import FitError, config_of
from fixtures.fit.quantization import declared
from fixtures.product.deployments.multi_node_engine import Member

Axis = Literal["tensor", "pipeline"]


def layout_over(members: Sequence[Member], axis: Axis) -> Layout:
    """Each layer on all devices, or a stage of layers on each node."""
    if axis == "tensor":
        return Layout(tensor=sum(each.devices for each in members))
    return Layout(tensor=members[0].devices, pipeline=len(members))


def divisible(members: Sequence[Member], axis: Axis, config: Mapping[str, Any]) -> Sequence[Member]:
    """The most of the first members over which vLLM divides the model of that config.json.

    Raises NotOffered where two are too many already.
    """
    why = ["there is one node"]
    for count in range(len(members), 1, -1):
        if not (why := _refusals(config, layout_over(members[:count], axis))):
            return members[:count]
    names = " and ".join(each.facts.name for each in members[:2])
    said = f"vLLM cannot divide this model by {axis} over {names}: {'; '.join(why)}"
    raise NotOffered(f"{said}; dynamo_model names another")


def _refusals(config: Mapping[str, Any], layout: Layout) -> list[str]:
    """Why vLLM refuses it; of an architecture that the calculator does not know, by its heads and layers alone."""
    try:
        model = config_of(config, "config.json")
        return list(cannot(model, declared(model), layout))
    except FitError:
        text = config.get("text_config") or config
        heads, layers = text.get("num_attention_heads", 0), text.get("num_hidden_layers", layout.pipeline)
        refusals = [f"{heads} attention heads are not a multiple of {layout.tensor}"] * bool(heads % layout.tensor)
        return refusals + [f"{layout.pipeline} stages for {layers} layers"] * (layout.pipeline > layers)
