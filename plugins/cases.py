"""Cases that the inventory names: a check that asks for such an argument runs once for each of them."""

from collections.abc import Sequence
from itertools import cycle, product

import pytest

from fixtures.fit.models import SERVED
from fixtures.product.deployments.ranks import LAYOUTS, PREFILL_DECODE
from plugins.session import settings_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if (settings := settings_of(metafunc.config)) is None:
        return
    cluster = settings.inventory.cluster
    if "large_model" in metafunc.fixturenames:
        metafunc.parametrize("large_model", cluster.dynamo_large_models or (SERVED,), scope="package")
    if "spread_case" in metafunc.fixturenames:
        nixl = all("nixl" in node.dynamo_capabilities for node in settings.inventory.with_role("worker"))
        short, night = spread_cases(cluster.dynamo_spread_models or (SERVED,), nixl)
        cases = [pytest.param(each, id="-".join(each)) for each in short]
        cases += [pytest.param(each, id="-".join(each), marks=pytest.mark.nightly) for each in night]
        metafunc.parametrize("spread_case", cases, scope="package")


def spread_cases(models: Sequence[str], nixl: bool) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(model, layout) of the short form, each layout once with the models in turn; and all others, for the night."""
    layouts = (*LAYOUTS, *((PREFILL_DECODE,) if nixl else ()))
    short = list(zip(cycle(models), layouts, strict=False))
    return short, [each for each in product(models, layouts) if each not in short]
