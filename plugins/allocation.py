"""Nodes of a Slurm allocation: what is wrong with it is told before one of them is touched."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

import pytest

from fixtures.times.estimate import clock
from fixtures.times.settings import LEAST_JOB_S

if TYPE_CHECKING:
    from fixtures.cluster.inventory.allocation import Allocation
    from fixtures.cluster.inventory.model import Inventory

ALLOCATION: pytest.StashKey[Allocation] = pytest.StashKey()
KEPT = "--keep: what a run leaves on nodes of a Slurm allocation ends with it; leave --keep out"
MORE = "ask for more (--time), or select fewer checks"


def require(config: pytest.Config, inventory: Inventory) -> None:
    """Raises pytest.UsageError with all that is wrong."""
    specs = [spec for spec in inventory.nodes if spec.ansible_connection == "slurm"]
    if not specs:
        return
    from fixtures.cluster.inventory.allocation import NoAllocation, allocation, wrong_with

    try:
        found = config.stash[ALLOCATION] = allocation()
    except NoAllocation as error:
        raise pytest.UsageError(f"{inventory.path}: {error}") from None
    wrong = [f"{inventory.path}: {text}" for text in wrong_with(found, specs)]
    if config.getoption("keep"):
        wrong.append(KEPT)
    if (left_s := found.remaining_s) is not None and left_s < LEAST_JOB_S:
        wrong.append(
            f"{_ends(found, left_s)}, and a run that brings anything up and takes it down again takes "
            f"{clock(LEAST_JOB_S)} min: {MORE}"
        )
    if wrong:
        raise pytest.UsageError("\n".join(wrong))


def require_time(config: pytest.Config, earlier_s: Sequence[float]) -> None:
    """Raises pytest.UsageError when the job ends before such runs did."""
    found = config.stash.get(ALLOCATION, None)
    if found is None or (left_s := found.remaining_s) is None or not earlier_s or left_s >= median(earlier_s):
        return
    raise pytest.UsageError(
        f"{_ends(found, left_s)}, and these checks took {clock(median(earlier_s))} min in earlier runs on this "
        f"inventory: {MORE}"
    )


def _ends(found: Allocation, left_s: float) -> str:
    before = f" (SIGTERM, {clock(found.signal_s)} min before its time limit)" if found.signal_s else ""
    return f"the Slurm job {found.job} ends in {clock(left_s)} min{before}"
