"""Plants that prove the checks of module 07: in the devices and settings of a pair of virtual machines."""

from fixtures.basics.deadline import Deadline
from fixtures.cluster.labs.lab import Lab
from fixtures.cluster.labs.plan import NICS
from fixtures.cluster.labs.virtual.plan import RAILS
from fixtures.cluster.nodes import Node
from fixtures.fabric.ports import Facts, HcaPort, Interface, Lanes
from fixtures.plants.lab import OnTheLab
from fixtures.plants.plant import point

RAIL, SECOND_RAIL = RAILS
MANAGEMENT, DEVICE = NICS["management"], "rocep1s0f0"


class OnTheFabric(OnTheLab):
    """What is done to the fabric once the run has seen that its devices are up: commands of root on the last node."""

    inventory = "rdma-lab"
    nightly = True
    COMMANDS: tuple[str, ...] = ()
    lab: Lab

    def lab_up(self, lab: Lab) -> None:
        self.lab = lab

    def break_it(self, nodes: dict[str, Node]) -> None:
        for command in self.COMMANDS:
            run(nodes[self.victim.name], command)

    @point("module_07.nodes")
    def before_the_first_look(self, nodes: dict[str, Node]) -> dict[str, Node]:
        self.break_it(nodes)
        return nodes


def run(node: Node, command: str) -> None:
    node.run(command.split(), deadline=Deadline(30, command))


class OtherFacts(OnTheFabric):
    """Of the last node another thing is reported than is there: what soft devices cannot be, such as a ConnectX."""

    def changed(self, facts: Facts) -> Facts:
        raise NotImplementedError

    @point("module_07.facts")
    def of_the_victim(self, facts: Facts, node: str) -> Facts:
        return self.changed(facts) if node == self.victim.name else facts


class RdmaLinkSwitchedOff(OnTheFabric):
    """The interface of an RDMA device is switched off on one node."""

    catches = {"M07-01": "is switched off"}

    COMMANDS = (f"ip link set {RAIL} down",)


class CablePulled(OnTheFabric):
    """The cable of the first rail is pulled out at one node."""

    catches = {"M07-01": "is the cable in"}

    def break_it(self, nodes: dict[str, Node]) -> None:
        self.lab.set_link(self.victim.name, "data", up=False)


class SecondRailDown(OnTheFabric):
    """One of two rails is down, on one node."""

    catches = {"M07-01": "rocep1s0f1 is DOWN"}

    COMMANDS = (f"ip link set {SECOND_RAIL} down",)


class RdmaDeviceGone(OnTheFabric):
    """An RDMA device goes away, as with a driver that is unloaded."""

    catches = {"M07-01": "rocep1s0f0:1 is declared and not there"}

    COMMANDS = (f"rdma link delete {DEVICE}",)


class NodeGoesOff(OnTheFabric):
    """A node loses its power."""

    catches = {"M07-01": "dgx-spark-02"}

    def break_it(self, nodes: dict[str, Node]) -> None:
        self.lab.power_off(self.victim.name)

    def undo(self) -> None:
        self.lab.power_on(self.victim.name)


class SshdStopped(OnTheFabric):
    """The SSH server of a node has ended, and all its connections with it."""

    catches = {"M07-01": "dgx-spark-02"}

    def break_it(self, nodes: dict[str, Node]) -> None:
        self.lab.stop_sshd(self.victim.name)

    def undo(self) -> None:
        self.lab.start_sshd(self.victim.name)


class ClockOfNodeOff(OnTheLab):
    """The clock of one virtual machine is 300 s ahead."""

    catches = {"M00-12": "clock_offset_ms"}
    failures = (80,)
    inventory = "rdma-lab"
    nightly = True

    def lab_up(self, lab: Lab) -> None:
        lab.set_clock(self.victim.name, 300)


class RatesOfEndsDiffer(OnTheFabric):
    """The link of a rail runs at 25 Gb/s at one end and at 100 at the other."""

    catches = {"M07-02": "differ in rate"}

    COMMANDS = (f"ethtool -s {RAIL} speed 25000 duplex full",)


class LanesMissing(OtherFacts):
    """A device is reported to have two PCIe lanes where four belong."""

    catches = {"M07-03": "runs at 2 lanes of PCIe"}
    # a soft device has neither firmware nor counters of a cable, and is not one any more
    may_catch = {"M07-04": "says nothing of its firmware", "M07-20": "reports nothing known of the cable"}
    SPEED = "32.0 GT/s PCIe"

    def changed(self, facts: Facts) -> Facts:
        widths = {"width": "2", "most_width": "4", "slot_width": "4"}
        lanes = Lanes(slot="0000:01:00.0", speed=self.SPEED, most_speed=self.SPEED, slot_speed=self.SPEED, **widths)
        return with_device(facts, soft=False, lanes=lanes)


class FirmwareDiffers(OtherFacts):
    """A device is reported to have another firmware than those of the other node."""

    catches = {"M07-04": "firmware of device 1 differs between nodes"}

    def changed(self, facts: Facts) -> Facts:
        return with_device(facts, firmware="28.40.1000")


class HalfOfTheCableDeclared(OtherFacts):
    """A device is reported that shares its cable with a declared one, and is not declared."""

    catches = {"M07-05": "is on the same cable as rocep1s0f0 and is not declared"}

    def changed(self, facts: Facts) -> Facts:
        assert isinstance(facts.devices, dict)
        device = facts.devices[DEVICE]
        port = device.ports["1"].model_copy(update={"cage": "p0"})
        shared = device.model_copy(update={"ports": {"1": port}})
        return facts.model_copy(update={"devices": {**facts.devices, DEVICE: shared, "roceP2p1s0f0": shared}})


class TwoRailsInOneSubnet(OnTheFabric):
    """Both rails of a node have addresses of one subnet."""

    catches = {"M07-06": "are both on 198.18.0.0/24"}

    COMMANDS = (
        f"ip address flush dev {SECOND_RAIL} scope global",
        f"ip address add 198.18.0.112/24 dev {SECOND_RAIL}",
    )


class RailInABond(OtherFacts):
    """The interface of a device is reported to be in a bond, which takes the GIDs and the address."""

    catches = {"M07-07": "is in bond0, which takes the GIDs"}

    def changed(self, facts: Facts) -> Facts:
        assert isinstance(facts.interfaces, dict) and isinstance(facts.devices, dict)
        device = facts.devices[DEVICE]
        port = device.ports["1"].model_copy(update={"gids": []})
        bonded: Interface = facts.interfaces[RAIL].model_copy(update={"bond": "bond0"})
        changed = with_device(facts, ports={"1": port})
        return changed.model_copy(update={"interfaces": {**facts.interfaces, RAIL: bonded}})


class RdmaMtuDiffers(OnTheFabric):
    """The MTU of a rail is 1500 at one end and 9000 at the other, so that RDMA goes on with packets of 1024 bytes."""

    catches = {"M07-08": "RDMA falls back to the lesser in silence"}
    failures = (68,)

    COMMANDS = (f"ip link set {RAIL} mtu 1500",)


class LargePacketsVanish(OnTheFabric):
    """One end of a rail drops what is larger than 1500 bytes, while both interfaces say 9000."""

    catches = {"M07-09": "are lost on the way", "M07-14": "hung", "M07-20": "the link is not well"}
    failures = (68,)

    POLICE = "police mtu 1514 rate 10gbit burst 10mb conform-exceed drop/ok"
    COMMANDS = (
        f"tc qdisc add dev {RAIL} ingress",
        f"tc filter add dev {RAIL} parent ffff: matchall action {POLICE}",
    )


class RailHeldBack(OnTheFabric):
    """What one node sends over a rail is held to 10 Mb/s, while its link is up and its counters are clean.

    So does an adapter of a DGX Spark that came up degraded: 13 of 200 Gb/s.
    """

    catches = {"M07-14": "a cold power cycle"}
    failures = (67,)

    COMMANDS = (f"tc qdisc add dev {RAIL} root tbf rate 10mbit burst 32k latency 500ms",)


class PacketsLostOnTheRail(OnTheFabric):
    """One in twenty packets that one node sends over a rail is lost."""

    catches = {"M07-14": "common: ", "M07-20": "the link is not well"}
    failures = (71,)

    COMMANDS = (f"tc qdisc add dev {RAIL} root netem loss 5%",)


class CountersRise(OnTheFabric):
    """One in two thousand packets that one node sends over a rail is lost, and sent again."""

    catches = {"M07-20": "the link is not well"}
    failures = (71,)

    COMMANDS = (f"tc qdisc add dev {RAIL} root netem loss 0.05%",)


class RailDelayed(OnTheFabric):
    """What one node sends over a rail arrives 20 ms later."""

    catches = {"M07-19": "largest_least_us"}

    COMMANDS = (f"tc qdisc add dev {RAIL} root netem delay 20ms limit 100000",)


class TrafficOnTheManagementLink(OnTheFabric):
    """The declared device is one over the management interface."""

    catches = {"M07-21": "management"}
    failures = (79,)

    COMMANDS = (
        f"ip link set {MANAGEMENT} mtu 9000",
        f"ethtool -s {MANAGEMENT} speed 100000 duplex full",
        f"rdma link delete {DEVICE}",
        f"rdma link add {DEVICE} type rxe netdev {MANAGEMENT}",
    )

    def break_it(self, nodes: dict[str, Node]) -> None:
        for node in nodes.values():
            for command in self.COMMANDS:
                run(node, command)


class OtherCommand(OnTheFabric):
    """Commands of perftest are changed at the ports of the last node."""

    def changed(self, argv: list[str]) -> list[str]:
        raise NotImplementedError

    @point("module_07.command")
    def of_the_victim(self, argv: list[str], port: HcaPort) -> list[str]:
        return self.changed(argv) if port.node == self.victim.name else argv


class GidTypesDiffer(OtherCommand):
    """One end uses the GID of its link-local IPv6 address, the other that of its IPv4 address."""

    catches = {"M07-14": "the GIDs of the two ends are of different types"}
    failures = (69,)

    def changed(self, argv: list[str]) -> list[str]:
        at = argv.index("-x") + 1
        return [*argv[:at], "0", *argv[at + 1 :]]


class RowOfZeros(OtherCommand):
    """perftest prints a row of zeros and ends with status 0, as it does when its clock cannot be calibrated."""

    catches = {"M07-14": "it says that nothing was carried"}
    ZEROS = r"""s/^( *65536 +[0-9]+ ).*/\1 0.000000 0.000000 0.000000/"""

    def changed(self, argv: list[str]) -> list[str]:
        return ["sh", "-c", '"$@" | sed -E "$0"', self.ZEROS, *argv]


class HangsAfterItsRow(OtherCommand):
    """perftest prints its row and does not end."""

    catches = {"M07-14": "hung: its last row was"}

    def changed(self, argv: list[str]) -> list[str]:
        return ["sh", "-c", '"$@"; exec sleep 600', "sh", *argv]


class OneSizeMissing(OtherCommand):
    """perftest leaves out a message size."""

    catches = {"M07-18": "printed 22 of 23 rows"}

    @point("module_07.command")
    def of_the_victim(self, argv: list[str], port: HcaPort) -> list[str]:
        return ["sh", "-c", '"$@" | sed "/^ *4096 /d"', "sh", *argv] if "-a" in argv else argv


class ReadsInSmallPackets(OtherCommand):
    """ib_read_bw uses an RDMA MTU of 256 bytes."""

    catches = {"M07-15": "least_read_of_write"}

    @point("module_07.command")
    def of_the_victim(self, argv: list[str], port: HcaPort) -> list[str]:
        return [*argv[:3], "-m", "256", *argv[3:]] if "ib_read_bw" in argv else argv


def with_device(facts: Facts, **changes: object) -> Facts:
    """The facts with another first device."""
    assert isinstance(facts.devices, dict)
    return facts.model_copy(
        update={"devices": {**facts.devices, DEVICE: facts.devices[DEVICE].model_copy(update=changes)}}
    )


NOT_PLANTED = {
    "M07-10": "No InfiniBand was ever there; its judge is tested on made-up facts (fixtures/tests/test_fabric.py).",
    "M07-16": "Soft devices share the machine's processors, so at once they are slower on a sound link, too.",
    "M07-17": "Soft devices share the machine's processors, so at once they are slower on a sound link, too.",
    "M07-24": "Soft devices share the machine's processors, so at once they are slower on a sound link, too.",
}
