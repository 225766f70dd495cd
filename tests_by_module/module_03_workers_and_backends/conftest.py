"""Fixtures of module 03: every declared engine, one after the other, each in a deployment of its own."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from fixtures.basics.deadline import DeadlineExceeded
from fixtures.basics.errors import BringUpFailed, CouldNotLook, ProcessEnded
from fixtures.cluster.inventory.model import Inventory, RuntimeSpec
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.runtimes.provision import ProvisioningFailed
from fixtures.product.services.base import ServiceFailed
from fixtures.run import Run
from tests_by_module.module_03_workers_and_backends.engine_run import Column, be_refused, end, look, look_at_running
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
        doing = "brought up"
        try:
            with own(run, spec) as deployment:
                doing = "asked"
                column = look(deployment, spec, run.seed, run.run_id)
                try:
                    column.compared = judged(run, deployment, spec)
                except CouldNotLook as error:  # the others of its checks do not need it
                    column.compared = error
                doing = "ended"
                end(column, deployment, run.seed)
            doing = "brought up again"
            refused_by_engine(run, column)
        except ProcessEnded as error:
            reason = f"{spec.name} fails while it is {doing}: {error.reason}"
            raise BringUpFailed(SERVES_CHECK, reason, causes=error.causes) from error
        except (ServiceFailed, DeadlineExceeded, ProvisioningFailed) as error:
            raise BringUpFailed(SERVES_CHECK, f"{spec.name} fails while it is {doing}: {error}") from None
        seen.append(column)
    return seen


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
