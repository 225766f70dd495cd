"""What the hashes of a worker's blocks stand on, read from its processes on its node."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from fixtures.basics.errors import CouldNotLook
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.cluster.probes.probe import families
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.topology import Component, Picture

UNSET = "unset"


@dataclass(frozen=True)
class Hashing:
    """Seed and algorithm in words; `is_random`: an engine that hashes with a seed was given none."""

    worker: str
    node: str
    pid: int
    seed: str
    algorithm: str
    is_random: bool


def hashing_of(deployment: Deployment, picture: Picture, nodes: dict[str, Node], inventory: Inventory) -> list[Hashing]:
    """Of every registered worker. Raises CouldNotLook when a worker's process is not found or may not be read."""
    found = {each.instance_id: each for each in picture.of_kind("worker")}
    workers = deployment.registered_workers()
    processless = [w.hex_id for w in workers if w.instance_id not in found or found[w.instance_id].pid is None]
    if processless or not workers:
        raise CouldNotLook(
            f"the processes of workers {', '.join(processless) or '(none is registered)'} are not found on any node of "
            "the inventory, or belong to another user than the one who looks"
        )
    return [_of(worker.hex_id, found[worker.instance_id], deployment, nodes, inventory) for worker in workers]


def _of(
    worker: str, component: Component, deployment: Deployment, nodes: dict[str, Node], inventory: Inventory
) -> Hashing:
    known = deployment.settings.dialect.hashing
    assert component.pid is not None
    family = families(nodes[component.node], [component.pid], [known.seed_variable])[component.pid]
    seeds = {value for each in family if (value := each["environment"].get(known.seed_variable)) is not None}
    needs_one = "real_engine" in inventory.node(component.node).dynamo_capabilities
    if not seeds and needs_one and known.seed_when_unset is not None:
        seeds = {known.seed_when_unset}
    algorithms = {a for each in family for a in _given(each["argv"], known.algorithm_arguments)}
    return Hashing(
        worker,
        component.node,
        component.pid,
        " and ".join(sorted(seeds)) or UNSET,
        " and ".join(sorted(algorithms)) or UNSET,
        is_random=needs_one and not seeds,
    )


def _given(argv: list[str], arguments: Iterable[str]) -> list[str]:
    """Values of the arguments in a command line, written as `--name value` or `--name=value`."""
    pairs = [*pairwise(argv), *(tuple(each.partition("=")[::2]) for each in argv if "=" in each)]
    return [value for name, value in pairs if name in arguments]
