"""Plants that prove the checks of what would fail later: limits, the next boot, and what UCX and NCCL are given."""

from fixtures.cluster.labs.virtual.plan import RAILS
from fixtures.cluster.nodes import Node
from fixtures.plants.plant import point
from tests_by_module.module_07_rdma_fabric.plants import OnTheFabric

RAIL, SECOND_RAIL = RAILS


class LittleMemoryMayBeLocked(OnTheFabric):
    """Processes of one node may lock 64 KiB of memory and may not exceed that."""

    catches = {"M07-11": "processes may lock 64 KiB of memory"}
    failures = (70,)
    # PR_CAPBSET_DROP of CAP_IPC_LOCK: what is executed next does not have it
    PYTHON = """#!/bin/sh
exec {python} -I -S -c '
import ctypes, os, resource, sys
resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
ctypes.CDLL(None).prctl(24, 14)
os.execv("{python}", ["{python}", *sys.argv[1:]])
' "$@"
"""

    def connected(self, nodes: dict[str, Node]) -> None:
        node = nodes[self.victim.name]
        node.put("python-held", self.PYTHON.format(python=node.python).encode(), mode=0o755)
        node.python = f"{node.workdir}/python-held"


class WorkersMayLockLittle(OnTheFabric):
    """Workers of one node are started so that they may lock 64 KiB of memory; its other processes may more."""

    catches = {"M07-11": "services may lock 64 KiB of memory"}
    failures = (70,)

    @point("module_07.worker")
    def of_the_victim(self, argv: list[str], node: str) -> list[str]:
        python, *rest = argv
        held = ["sh", "-c", LittleMemoryMayBeLocked.PYTHON.format(python=python), "sh", *rest]
        return held if node == self.victim.name else argv


class RailsSwapAtReboot(OnTheFabric):
    """A netplan file of one node gives each of its two rails the address of the other one, from the next boot on."""

    catches = {"M07-12": "at boot, by /etc/netplan/60-rails.yaml, and does not have it now"}
    STANZA = "    {}:\n      addresses: [{}/24]\n      mtu: 9000\n"

    def break_it(self, nodes: dict[str, Node]) -> None:
        node = nodes[self.victim.name]
        own = self.victim.dynamo_data_address
        swapped = {RAIL: own.replace("198.18.0.", "198.18.1."), SECOND_RAIL: own}
        text = "network:\n  ethernets:\n" + "".join(self.STANZA.format(*each) for each in swapped.items())
        node.put("/etc/netplan/60-rails.yaml", text.encode())


class OtherSettings(OnTheFabric):
    """Processes of the last node are given other settings."""

    SETTINGS: dict[str, str]

    @point("module_07.settings")
    def of_the_victim(self, settings: dict[str, str], node: str) -> dict[str, str]:
        return settings | self.SETTINGS if node == self.victim.name else settings


class UcxGivenANetdev(OtherSettings):
    """UCX_NET_DEVICES names a network interface, as NVIDIA's playbooks for NCCL do."""

    catches = {"M07-13": "names the network interface enp1s0f0np0, which limits UCX to TCP"}
    failures = (69,)
    SETTINGS = {"UCX_NET_DEVICES": RAIL}


class UcxWithoutRdma(OtherSettings):
    """UCX_TLS leaves UCX only TCP."""

    catches = {"M07-13": "leaves UCX no RDMA transport"}
    failures = (43,)
    SETTINGS = {"UCX_TLS": "tcp,sm,self"}


class WrongGidIndex(OtherSettings):
    """UCX and NCCL are given the index of a GID that is empty."""

    catches = {"M07-13": "is empty on"}
    failures = (69,)
    SETTINGS = {"UCX_IB_GID_INDEX": "5", "NCCL_IB_GID_INDEX": "5"}
