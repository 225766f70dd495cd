"""What is there: RDMA ports, their links, lanes, versions, and who shares a cable."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import BlockedByHardware, CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.cluster.nodes import Node
from fixtures.fabric.judged import (
    absent_or_down,
    half_declared,
    narrow_lanes,
    products_differ,
    unknown_cables,
    unlike,
    versions_differ,
    without_slot,
)
from fixtures.fabric.ports import HcaPort, Seen

pytestmark = pytest.mark.needs("rdma")


@check(
    "M07-01",
    judged="state, physical state and layer (Ethernet or InfiniBand) of each port of `dynamo_rdma_devices`; other "
    "devices are listed",
    evidence="table of all RDMA ports",
    by_hand="on each node: rdma link; cat /sys/class/infiniband/*/ports/*/state",
)
@pytest.mark.smoke
def test_declared_ports_are_up(seen: dict[str, Seen], fabric_nodes: dict[str, Node], evidence: Evidence):
    """Each declared RDMA device is there, and its port is active and has a link."""
    wrong, rows = Findings(), []
    for name, each in seen.items():
        declared = fabric_nodes[name].spec.rdma_ports
        wrong.extend(absent_or_down(each, declared), node=name)
        for port in each.ports(f"{device}:{n}" for device, found in each.devices.items() for n in found.ports):
            speed = port.interface and port.interface.speed_mbps
            kind = "soft" if port.device.soft else port.device.driver
            of_port = (port.port.state, port.port.physical, port.port.layer, port.port.rate, port.port.netdev)
            rows.append([name, port.name, port.name in declared, *of_port, speed, kind])
    heads = ["node", "port", "declared", "state", "physical", "layer", "rate", "interface", "Mb/s", "driver"]
    evidence.table("RDMA ports", heads, rows)
    wrong.judge()


@check(
    "M07-02",
    judged="link layer and rate of the first declared device of one node against the first of the other, and so on; "
    "the least rate against its bound",
    evidence="measurement, table of links",
    by_hand="on each node: cat /sys/class/infiniband/*/ports/1/{link_layer,rate}",
)
@pytest.mark.needs("multi_node")
def test_both_ends_of_each_link_are_alike(rails: list[tuple[HcaPort, HcaPort]], measure: Measure, evidence: Evidence):
    """Both ends of each link have one layer and one rate, that which belongs there where a site says which."""
    rows = [[str(one), str(other), one.port.layer, one.port.rate, other.port.rate] for one, other in rails]
    evidence.table("links", ["one end", "the other", "layer", "rate", "rate of the other"], rows)
    every = dict.fromkeys(port for link in rails for port in link)
    rates = [rate for port in every if (rate := port.rate_gbit_per_s)]
    measure("least_rate_gbit_per_s", min(rates, default=None), n=len(rates))
    Findings(each for one, other in rails for each in unlike(one, other)).judge()
    measure.judge()


@check(
    "M07-03",
    judged="speed and width of each device's PCIe link, against what it and its slot can have and what the others have",
    evidence="table of lanes",
    by_hand="on each node: cat /sys/class/infiniband/*/device/{current,max}_link_{speed,width}",
)
def test_devices_have_all_their_pcie_lanes(ports: dict[str, list[HcaPort]], evidence: Evidence):
    """Each RDMA device has all PCIe lanes, at their full speed."""
    every = [port for mine in ports.values() for port in mine]
    rows = [[port.node, port.device_name, *port.device.lanes.model_dump().values()] for port in every]
    evidence.table(
        "PCIe",
        ["node", "device", "slot", "speed", "width", "most speed", "most width", "slot's speed", "slot's width"],
        rows,
    )
    if all(port.device.soft for port in every):
        named = ", ".join(map(str, every))
        raise BlockedByHardware(f"all {len(every)} RDMA devices are software and have no PCIe lanes: {named}")
    Findings(narrow_lanes(every)).judge()
    if silent := without_slot(every):
        told = ", ".join(map(str, silent))
        raise BlockedByHardware(f"the slot of {told} does not say how many lanes it has, as in a virtual machine")


@check(
    "M07-04",
    judged="firmware and driver of the declared devices, in their order; kernel of the nodes; BIOS and boards of nodes "
    "of one product",
    evidence="table of versions, a note where products differ",
    by_hand="on each node: cat /sys/class/infiniband/*/{fw_ver,board_id}; uname -r; cat /sys/class/dmi/id/bios_version",
)
@pytest.mark.needs("multi_node")
def test_firmware_and_drivers_are_alike(seen: dict[str, Seen], ports: dict[str, list[HcaPort]], evidence: Evidence):
    """Firmware, drivers and kernel are the same on all nodes, BIOS and boards on those of one product."""
    rows = [
        [
            name,
            port.device_name,
            it.firmware,
            it.board,
            it.driver_version,
            machine.kernel,
            machine.product,
            machine.bios,
        ]
        for name, mine in ports.items()
        for port in mine
        for it, machine in [(port.device, seen[name].facts.machine)]
    ]
    heads = ["node", "device", "firmware", "board", "driver", "kernel", "product", "BIOS"]
    evidence.table("versions", heads, rows)
    if products := products_differ(list(seen.values())):
        evidence.note("products", f"BIOS and boards of different products are not compared: {products}.")
    Findings(versions_differ(list(seen.values()), ports)).judge()


@check(
    "M07-05",
    judged="devices with the `sys_image_guid` and `phys_port_name` of a declared one that are up and not declared",
    evidence="table of cables",
    by_hand="on each node: cat /sys/class/infiniband/*/sys_image_guid /sys/class/net/*/phys_port_name",
)
def test_all_devices_of_a_cable_are_declared(
    seen: dict[str, Seen], ports: dict[str, list[HcaPort]], evidence: Evidence
):
    """Where several devices share one cable, all of them are declared."""
    rows = [[port.node, port.device_name, port.socket or "not said"] for mine in ports.values() for port in mine]
    evidence.table("cables", ["node", "device", "adapter and port"], rows)
    wrong = Findings()
    for name, each in seen.items():
        wrong.extend(half_declared(each, ports[name]), node=name)
    wrong.judge()
    if all(port.device.soft for mine in ports.values() for port in mine):
        raise BlockedByHardware(f"all {len(rows)} RDMA devices are software, and software is in no cage")
    if unknown := [said for name, each in seen.items() for said in unknown_cables(each, ports[name])]:
        raise CouldNotLook(f"{unknown[0]} ({len(unknown)} such pairs in all)")
