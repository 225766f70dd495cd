"""Fixtures of module 03: every declared engine, one after the other, each in a deployment of its own."""

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

import pytest

from fixtures.basics.deadline import DeadlineExceeded
from fixtures.basics.errors import BringUpFailed, CouldNotLook, ProcessEnded
from fixtures.cluster.inventory.model import Inventory, RuntimeSpec
from fixtures.cluster.probes.capabilities import computing
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.runtimes.provision import ProvisioningFailed
from fixtures.product.services.base import ServiceFailed
from fixtures.run import Run
from tests_by_module.module_03_workers_and_backends.engine_run import Column, be_refused, end, look, look_at_running
from tests_by_module.module_03_workers_and_backends.engine_speed import Speed, speed_of
from tests_by_module.module_03_workers_and_backends.oracle import Compared, judged, judged_beside
from tests_by_module.module_03_workers_and_backends.peer_stalls import Watch

SERVES_CHECK = "M03-01"


@pytest.fixture(scope="package")
def columns(run: Run, inventory: Inventory) -> list[Column]:
    """The engines in the order of the inventory, or that of a deployment that runs already.

    Raises BringUpFailed for one that never serves, or fails later.
    """
    if not inventory.cluster.dynamo_managed:
        spec = inventory.runtime(inventory.with_role("worker")[0].dynamo_runtime)
        return [look_at_running(run.deployment(), spec, run.seed, run.run_id)]
    seen = []
    for spec in inventory.engines:
        began, before = time.monotonic(), len(run.lives)
        with Doing(spec, "brought up") as doing:
            with own(run, spec) as deployment:
                doing.what = "asked"
                column = look(deployment, spec, run.seed, run.run_id)
                try:
                    column.compared = judged(run, deployment, spec)
                except CouldNotLook as error:  # the others of its checks do not need it
                    column.compared = error
                doing.what = "ended"
                end(column, deployment, run.seed)
            doing.what = "brought up again"
            refused_by_engine(run, column)
        column.took_s = time.monotonic() - began
        column.starts_s = sum((life.up_s or life.start_s) - life.start_s for life in run.lives[before:])
        seen.append(column)
    return seen


@pytest.fixture(scope="package")
def speeds(run: Run, inventory: Inventory, client: Equipment) -> list[Speed]:
    """Of each engine that computes, alone on its node. Raises BringUpFailed for one that never serves, or fails."""
    seen = []
    for spec in computing(inventory):
        with Doing(spec, "brought up") as doing, own(run, spec, "_load") as deployment:
            doing.what = "measured"
            seen.append(speed_of(deployment, spec, client))
    return seen


@dataclass
class Doing:
    """What is being done with an engine: where it fails, `M03-01` says so. Raises BringUpFailed."""

    spec: RuntimeSpec
    what: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        begin = f"{self.spec.name} fails while it is {self.what}"
        if isinstance(error, ProcessEnded):
            raise BringUpFailed(SERVES_CHECK, f"{begin}: {error.reason}", causes=error.causes) from error
        if isinstance(error, ServiceFailed | DeadlineExceeded | ProvisioningFailed):
            raise BringUpFailed(SERVES_CHECK, f"{begin}: {error}") from None


def own(run: Run, spec: RuntimeSpec, why: str = "") -> AbstractContextManager[ManagedDeployment]:
    """A deployment of one engine."""
    letters = re.sub(r"\W", "_", spec.name)
    return run.own_deployment(f"module_03.engine_{letters}{why}", runtime=spec.name)


def refused_by_engine(run: Run, column: Column) -> None:
    """What may end the engine, in a deployment of its own: all else is known of it by then."""
    if not column.wrong_requests(by_engine=True):
        return
    try:
        with own(run, column.runtime, "_refuses") as deployment:
            be_refused(column, deployment, by_engine=True)
    except ProcessEnded as error:
        column.ended_by_refusals = error


@pytest.fixture(scope="package", autouse=True)
def watch(run: Run) -> Iterator[Watch]:
    """Asks the workers that the run's modules share, as long as checks of this one go on."""
    with Watch(lambda: run.steps.done(Run.deployment)) as watch:
        yield watch


@pytest.fixture(scope="package")
def compared_by_engine(
    request: pytest.FixtureRequest, run: Run, inventory: Inventory
) -> dict[str, Compared | CouldNotLook]:
    """Each engine's greedy answers against the reference's, or why they cannot be compared; none of the mocker's.

    Raises NotOffered.
    """
    if inventory.cluster.dynamo_managed:
        columns: list[Column] = request.getfixturevalue("columns")
        return {column.name: column.compared for column in columns if column.compared}
    spec = inventory.runtime(inventory.with_role("worker")[0].dynamo_runtime)
    return {spec.name: judged_beside(run, run.deployment(), spec)}
