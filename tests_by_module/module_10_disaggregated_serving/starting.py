"""Prefill and decode workers that the suite starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fixtures.basics.deadline import DeadlineExceeded
from fixtures.basics.dynamo_versions import dialect
from fixtures.basics.errors import BringUpFailed
from fixtures.kv.ucx_devices import net_devices
from fixtures.kv.ucx_log import UCX_TELLS
from fixtures.product.deployments.placement import Placement
from fixtures.product.services.base import ServiceFailed
from fixtures.run import Run
from tests_by_module.module_10_disaggregated_serving.prefill_decode import DISAGGREGATED_CHECK, OwnSides

# how long a frontend waits for a worker to take a request, s: with its own 5 s a stall on a busy machine ends in 504,
# and nothing is shown of KV
TAKEN_WITHIN_S = 60


@contextmanager
def started_sides(
    run: Run, name: str, placed: Placement, check_id: str = DISAGGREGATED_CHECK, *, serving: bool = True
) -> Iterator[OwnSides]:
    """The deployment `name` as it is placed, taken down at the end. Raises BringUpFailed, which is `check_id`'s.

    Without `serving` its workers are registered, and may not serve.
    """
    kinds = {kind for types in placed.types.values() for kind in types}
    if kinds != {"decode", "prefill"}:
        told = "prefill and decode workers are compared with as many servers"
        raise BringUpFailed(check_id, f"{told}, and the inventory has {', '.join(sorted(kinds))}")
    transport = run.inventory.cluster.dynamo_kv_transport
    placed = replace(
        placed,
        worker_settings={
            node: {"extra_env": (*UCX_TELLS.items(), *net_devices(run.nodes()[node], transport).items())}
            for node in placed.workers
        },
    )
    taken_within = (dialect(run.product_version()).environment.request_timeout_s, str(TAKEN_WITHIN_S))
    try:
        with run.own_deployment(name, placed=placed, serving=serving, extra_env=(taken_within,)) as deployment:
            prefill, decode = (
                [w for w in deployment.workers if w.shape.worker_type == kind] for kind in ("prefill", "decode")
            )
            if absent := [kind for kind, there in {"prefill": prefill, "decode": decode}.items() if not there]:
                raise BringUpFailed(check_id, f"no {' and no '.join(absent)} worker was started")
            yield OwnSides(deployment, prefill, decode, prefill[0].runtime.spec.engine)
    except (ServiceFailed, DeadlineExceeded) as error:
        raise BringUpFailed(check_id, str(error)) from None
