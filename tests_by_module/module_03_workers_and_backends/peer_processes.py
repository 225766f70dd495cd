"""What the processes of workers take, those of one type against each other."""

from collections.abc import Mapping, Sequence
from statistics import median

from fixtures.basics.parallel import in_parallel
from fixtures.cluster.nodes import Node
from fixtures.drift.history import take
from fixtures.drift.sample import Taken
from fixtures.product.deployments.topology import Picture
from tests_by_module.module_03_workers_and_backends.peers import Peers

# by a worker's id: what it takes, and the median of the others of its type
AgainstMedian = dict[int, tuple[float, float]]


def taken_by_worker(picture: Picture, nodes: Mapping[str, Node]) -> dict[int, Taken]:
    """By instance id, of each worker whose process was found. Raises RemoteError."""
    pids: dict[str, dict[int, int]] = {}
    for each in picture.of_kind("worker"):
        if each.pid and each.instance_id is not None:
            pids.setdefault(each.node, {})[each.instance_id] = each.pid
    looked = in_parallel(lambda name: take(nodes[name], list(pids[name].values())), list(pids))
    return {
        worker: taken
        for of_node, seen in zip(pids.values(), looked, strict=True)
        for worker, pid in of_node.items()
        if (taken := seen.processes.get(str(pid)))
    }


def against_median(peers: Sequence[Peers], taken: Mapping[int, float]) -> AgainstMedian:
    """Of each worker that has others of its type, among those of which `taken` says something."""
    found: AgainstMedian = {}
    for type_ in peers:
        known = {each: taken[each] for each in type_.ids if each in taken}
        for worker, value in known.items():
            if others := [other for name, other in known.items() if name != worker]:
                found[worker] = (value, median(others))
    return found


def most(found: AgainstMedian) -> float:
    """The largest ratio."""
    return max(own / others for own, others in found.values())
