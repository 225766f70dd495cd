"""What is wrong with an engine's declared arguments, by the model that it is to serve. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence

from fixtures.basics.flags import flags
from fixtures.cluster.inventory.dtypes import served_kv_dtype
from fixtures.cluster.inventory.engine_settings import EngineSettings
from fixtures.fit.layout import SIZES, Layout, cannot
from fixtures.fit.plans import Fit

EXPERTS = "--enable-expert-parallel"


def declared_layout(args: Sequence[str]) -> Layout:
    """The ranks that an engine's arguments ask for."""
    told = flags(args)
    return Layout(**{name: int(told.get(flag, 1)) for name, flag in SIZES.items()}, expert=EXPERTS in args)


def declared_mistakes(counted: Fit, args: Sequence[str]) -> Iterator[str]:
    """Why vLLM refuses the declared ranks or length for this model, a sentence each."""
    yield from cannot(counted.model.config, counted.scheme, declared_layout(args))
    most = counted.model.config.max_position_embeddings
    if (longest := int(flags(args).get("--max-model-len", most))) > most:
        yield f"--max-model-len is {longest}, and {counted.model.name} was made for {most} tokens"


def other_kv(engines: Mapping[str, EngineSettings]) -> tuple[list[list[object]], list[str]]:
    """A row for the KV of each node's engine, and where they differ a sentence."""
    forms = {name: (served_kv_dtype({}, each.args), each.block_size) for name, each in engines.items()}
    rows: list[list[object]] = [[name, dtype, block or "its own"] for name, (dtype, block) in forms.items()]
    wrong = []
    if len({dtype for dtype, _ in forms.values()}) > 1:
        named = ", ".join(f"{dtype} on {name}" for name, (dtype, _) in forms.items())
        wrong.append(f"KV is kept in {named}: decode cannot read what prefill wrote (--kv-cache-dtype)")
    if len({block for _, block in forms.values()}) > 1:
        named = ", ".join(f"{block or 'its own'} on {name}" for name, (_, block) in forms.items())
        wrong.append(f"blocks have different numbers of tokens: {named} (block_size)")
    return rows, wrong
