"""Ends of transfers on the nodes of the run, as workers there would have them."""

from fixtures.kv.side import Side
from fixtures.kv.ucx_devices import net_devices
from fixtures.run import Run


def end(run: Run, name: str, node: str, nth_on_node: int = 0) -> Side:
    """An end on that node, not yet started; the `nth_on_node` has the next of the node's GPUs, as a worker has."""
    side = Side(name, run.nodes()[node], run.environments()[node])
    side.env |= net_devices(side.node, run.inventory.cluster.dynamo_kv_transport)
    side.env |= side.node.spec.visible_gpus(nth_on_node)
    return run.at("module_11.side", side)
