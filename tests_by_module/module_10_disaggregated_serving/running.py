"""Prefill and decode workers that ran already, as etcd and their nodes show them."""

from collections import Counter
from dataclasses import replace

from fixtures.basics.errors import BringUpFailed, CouldNotLook, NotOffered
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.topology import Component
from fixtures.run import Run
from tests_by_module.module_10_disaggregated_serving.prefill_decode import DISAGGREGATED_CHECK, Found, Sides


def running_sides(run: Run) -> Sides:
    """Raises NotOffered where prefill and decode are not declared, BringUpFailed where not all of them are there."""
    deployment = run.deployment()
    kinds = Counter(kind for types in deployment.declared_types.values() for kind in types)
    if kinds.keys() != {"decode", "prefill"}:
        raise NotOffered(
            "it looks at workers that prefill and workers that decode (dynamo_roles prefill and decode): the "
            f"inventory declares {', '.join(sorted(kinds))}"
        )
    pictured = {each.instance_id: each for each in run.picture().of_kind("worker")}
    prefill, decode = (_found(run, deployment, kind, kinds[kind], pictured) for kind in ("prefill", "decode"))
    engine = run.inventory.runtime(prefill[0].node.spec.dynamo_runtime).engine
    sides = Sides(deployment, prefill, decode, engine)
    return replace(sides, before=sides.counted())


def context_tokens(deployment: Deployment) -> int:
    """What the model cards say that a prompt and its answer may have at most. Raises CouldNotLook."""
    lengths = [(worker.card or {}).get("context_length") for worker in deployment.registered_workers()]
    if known := [int(each) for each in lengths if each]:
        return min(known)
    raise CouldNotLook("no model card has a context length: how long prompts may be is not known")


def _found(
    run: Run, deployment: Deployment, kind: str, declared: int, pictured: dict[int | None, Component]
) -> list[Found]:
    component = deployment.settings.dialect.worker_component[kind]
    there = [each for each in deployment.registered_workers() if each.component == component]
    if len(there) != declared:
        told = f"{kind} workers are declared: {declared}, and {len(there)} are registered as {component}"
        raise BringUpFailed(DISAGGREGATED_CHECK, told)
    found = []
    for worker in there:
        process = pictured.get(worker.instance_id)
        if process is None or worker.system_url is None:
            told = f"the {kind} worker {worker.hex_id} is registered, and listens on no node of this inventory"
            raise BringUpFailed(DISAGGREGATED_CHECK, told)
        if process.pid is None:
            raise NotOffered("the workers' processes are another user's: log in as that user, or as root")
        found.append(Found(run.nodes()[process.node], worker.system_url, process.pid))
    return found
