"""Plants that prove the checks of module 00."""

from typing import Any

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.plants.plant import EnvPlant, Plant, SettingsPlant
from fixtures.plants.processes import OtherModelName
from fixtures.plants.proxy import CorruptingProxy, Exchange
from fixtures.product.deployments.deployment import READY_WITHIN_S
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.runtimes.provision import ServedModel
from fixtures.product.services.control_plane import Nats
from fixtures.product.services.dynamo import Worker

OTHER_LOOPBACK = "127.0.0.2"


class NodeDoesNotAnswer(Plant):
    """The inventory declares one node more, at which nobody answers SSH."""

    catches = {"M00-01": "absent-node"}

    def declared(self, inventory: Inventory) -> Inventory:
        # port 9 is "discard": nobody listens there
        absent = {"name": "absent-node", "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
        node = inventory.nodes[-1].model_copy(update=absent)
        return inventory.model_copy(update={"nodes": (*inventory.nodes, node)})


class WorkerAbsent(Plant):
    """One of the declared workers is never started."""

    catches = {"M00-03": "missing"}

    def workers(self, workers: list[Worker]) -> list[Worker]:
        return workers[:-1]


class WorkerUndeclared(Plant):
    """One worker more than declared is started."""

    catches = {"M00-03": "not in the inventory"}

    def workers(self, workers: list[Worker]) -> list[Worker]:
        last = workers[-1]
        described = ("worker-undeclared", last.node, last.runtime, last.settings, last.model)
        return [*workers, Worker(*described, nth_on_node=last.nth_on_node + 1)]


class WorkerInOtherNamespace(Plant):
    """One of the declared workers registers in another Dynamo namespace of the same etcd."""

    catches = {"M00-03": "namespace"}
    failures = (28,)

    def workers(self, workers: list[Worker]) -> list[Worker]:
        last = workers[-1]
        last.settings = last.settings.but(namespace="somewhere_else")
        return workers

    def expected(self, workers: list[Worker]) -> list[Worker]:
        return workers[:-1]

    def serving(self, deployment: ManagedDeployment) -> None:
        deadline = Deadline(READY_WITHIN_S, "the worker to register elsewhere")
        wait_until(lambda: (deployment.other_namespaces() or None, "nobody there"), deadline)


class NoWorkerBehindHealthyFrontend(Plant):
    """No worker is started; the frontend's /health answers 200 all the same."""

    catches = {"M00-02": "/health"}
    failures = (26,)

    def workers(self, workers: list[Worker]) -> list[Worker]:
        return []


class WrongModelName(OtherModelName):
    """The workers serve the model under another name than the declared one."""

    catches = {"M00-02": "not found"}
    failures = (19,)


class ModelAtTwoPaths(Plant):
    """A worker serves the same model from another path, so that the frontend refuses it."""

    catches = {"M00-02": "Rejected incompatible workers"}

    def workers(self, workers: list[Worker]) -> list[Worker]:
        last = workers[-1]
        copy = f"{last.node.workdir}/model-elsewhere"
        last.node.run(["cp", "-r", last.model.path, copy], deadline=Deadline(60, "a copy of the model"))
        last.model = ServedModel(copy, last.model.dummy_weights)
        return workers


class WorkerOnWrongAddress(EnvPlant):
    """A worker registers an address that is not its node's data address."""

    catches = {"M00-04": "data address"}
    env = {"DYN_TCP_RPC_HOST": OTHER_LOOPBACK}


class WorkerOnSecondNats(Plant):
    """One worker talks to a second NATS server, which nobody else uses."""

    catches = {"M00-06": "not connected to nats"}

    def __init__(self) -> None:
        self.second: Nats | None = None

    def workers(self, workers: list[Worker]) -> list[Worker]:
        self.victim = workers[-1]
        return workers

    def planned(self, deployment: ManagedDeployment) -> None:
        self.second = Nats("second-nats", deployment.nats.node, deployment.nats.binary)
        self.second.start(Deadline(30, "a second NATS"))
        self.victim.settings = self.victim.settings.but(nats_url=self.second.url)

    def undo(self) -> None:
        if self.second:
            self.second.stop(Deadline(10, "the second NATS to end"))


class RequestSentTwice(CorruptingProxy):
    """A proxy in front of the frontend sends every request twice."""

    catches = {"M00-07": "moved by"}
    times_sent = 2


class WrongModelInAnswer(CorruptingProxy):
    """A proxy in front of the frontend names another model in the answers."""

    catches = {"M00-08": "name the model"}

    def body(self, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
        return body | {"model": "another-model"} if "model" in body else body


class RequestsOverNatsUndeclared(SettingsPlant):
    """Requests go over NATS although the inventory declares tcp."""

    catches = {"M00-06": "is not connected to worker", "M00-16": "etcd shows nats"}
    frontend = worker = {"request_plane": "nats"}


# captured on an H200 (driver 580): the header, and what `nvidia-smi -i 99` says
FAKE_NVIDIA_SMI = """#!/bin/sh
case "$*" in
*--query-gpu*) echo "No devices were found";;
*) echo "| NVIDIA-SMI 580.159.04             Driver Version: 580.159.04     CUDA Version: 13.0     |";;
esac
"""


PYTHON_WITH_FAKES = """#!/bin/sh
PATH={folder}:$PATH exec {python} "$@"
"""


def declaring(inventory: Inventory, *capabilities: str, **fields: Any) -> Inventory:
    nodes = [
        spec.model_copy(update={"dynamo_capabilities": spec.dynamo_capabilities | {*capabilities}, **fields})
        for spec in inventory.nodes
    ]
    return inventory.model_copy(update={"nodes": tuple(nodes)})


class GpuDeclaredAndAbsent(Plant):
    """The inventory declares a GPU on a node that has none."""

    catches = {"M00-09": "declares gpu", "M01-04": "declares gpu"}

    def declared(self, inventory: Inventory) -> Inventory:
        return declaring(inventory, "gpu", "cuda")


class NoDevicesWereFound(GpuDeclaredAndAbsent):
    """The inventory declares a GPU, and a fake nvidia-smi lists "No devices were found" with status 0."""

    catches = {"M00-09": "No devices were found", "M01-04": "No devices were found"}

    def connected(self, nodes: dict[str, Node]) -> None:
        for node in nodes.values():
            node.put("nvidia-smi", FAKE_NVIDIA_SMI.encode(), mode=0o755)
            python = PYTHON_WITH_FAKES.format(folder=node.workdir, python=node.python)
            node.put("python-with-fakes", python.encode(), mode=0o755)
            node.python = f"{node.workdir}/python-with-fakes"


RDMA_STATES = {"mlx5_0": "4: ACTIVE", "mlx5_1": "1: DOWN"}


class RdmaDeviceDown(Plant):
    """The inventory declares two RDMA devices, of which the probe finds one up and one down."""

    catches = {"M00-09": "mlx5_1 port 1 is 1: DOWN"}

    def declared(self, inventory: Inventory) -> Inventory:
        return declaring(inventory, "rdma", dynamo_rdma_devices=tuple(RDMA_STATES))

    def facts(self, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        port = {"link_layer": "Ethernet", "rate": "200 Gb/sec (4X HDR)"}
        devices = [
            {"name": name, "netdevs": [], "ports": {"1": port | {"state": state}}}
            for name, state in RDMA_STATES.items()
        ]
        return {name: told | {"rdma": {"found": devices, "looked_at": "a plant"}} for name, told in found.items()}
