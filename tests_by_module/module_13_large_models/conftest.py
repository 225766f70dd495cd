"""Fixtures of module 13: each model that is asked about, counted on the machines of the workers' nodes."""

import pytest

from fixtures.basics.errors import BringUpFailed
from fixtures.fit.model_config import FitError
from fixtures.fit.plans import Fit
from fixtures.run import Run
from tests_by_module.module_13_large_models import sizing

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
