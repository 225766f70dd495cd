"""What would fail later: addresses, GIDs, MTUs, limits, and what UCX, NCCL and the next boot are given."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.errors import BlockedByHardware, CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.merged import by_value, folded
from fixtures.basics.parallel import in_parallel
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.fabric.judged import (
    PERFTEST_LOCKS_BYTES,
    held_back,
    lockable_bytes,
    mtus_differ,
    unseen_users,
    users_held_back,
    without_manager,
    wrong_addresses,
    wrong_gids,
)
from fixtures.fabric.kept import Kept, settings_of
from fixtures.fabric.ports import HcaPort, OwnLimits, Seen
from fixtures.fabric.rates import advised_mtu
from fixtures.fabric.settings import to_paste, wrong_settings
from fixtures.run import Run

pytestmark = pytest.mark.needs("rdma")

HEADERS = 28  # of IPv4 and ICMP
SMALL, PINGS, PING_WITHIN_S = 84, 3, 2


@check(
    "M07-06",
    judged="an IPv4 address on the interface of each declared device: not link-local, one subnet for each rail, the "
    "same at both ends, that no other interface has, whole or in part; and a MAC that no other of them has",
    evidence="table of addresses",
    by_hand="on each node: ip -4 address",
)
def test_each_rail_has_a_subnet_of_its_own(seen: dict[str, Seen], ports: dict[str, list[HcaPort]], evidence: Evidence):
    """Each rail has a subnet of its own, with an address at both ends."""
    rows = [
        [port.node, port.device_name, port.port.netdev, ", ".join(map(str, port.ipv4))]
        for mine in ports.values()
        for port in mine
    ]
    evidence.table("addresses", ["node", "device", "interface", "addresses"], rows)
    Findings(wrong_addresses(ports, {name: each.interfaces for name, each in seen.items()})).judge()


@check(
    "M07-07",
    judged="the GID table of each declared RoCE device holds a RoCE v2 entry of its interface's own IPv4 address; a "
    "bond takes it away",
    evidence="table of GIDs",
    by_hand="on each node: show_gids; or grep . /sys/class/infiniband/*/ports/1/gid_attrs/types/*",
    causes=[69],
)
def test_each_device_has_a_roce_v2_gid(ports: dict[str, list[HcaPort]], evidence: Evidence):
    """Each RoCE device has a RoCE v2 GID of its own IPv4 address."""
    every = [port for mine in ports.values() for port in mine]
    rows = [
        [port.node, port.name, gid.index, gid.gid, gid.type, gid.netdev, "use this" if gid == port.gid else ""]
        for port in every
        for gid in port.port.gids
    ]
    evidence.table("GIDs", ["node", "port", "index", "GID", "type", "interface", ""], rows)
    Findings(wrong_gids(every)).judge()


@check(
    "M07-08",
    judged="MTU of the interfaces and active_mtu of the ports at both ends of each link; active_mtu against its bound",
    evidence="measurements, table of MTUs, a note below 9000",
    by_hand="on each node: ip link; ibv_devinfo | grep active_mtu",
    causes=[68],
)
@pytest.mark.needs("multi_node")
def test_mtus_of_each_link_are_alike(
    rails: list[tuple[HcaPort, HcaPort]], seen: dict[str, Seen], measure: Measure, evidence: Evidence
):
    """Both ends of each link have the same MTU, and RDMA uses its largest."""
    active = {name: each.active_mtu for name, each in seen.items()}
    ends = list(dict.fromkeys(port for link in rails for port in link))
    rows = [[str(p), p.interface and p.interface.mtu, active[p.node].get(p.name)] for p in ends]
    evidence.table("MTUs", ["device", "interface MTU", "active_mtu"], rows)
    advised = advised_mtu()
    if small := [
        f"{port.port.netdev} of {port.node}" for port in ends if port.interface and port.interface.mtu < advised
    ]:
        evidence.note("MTU", f"Below {advised}, which NVIDIA advises for DGX Sparks: {', '.join(small)}.")
    measure("least_active_mtu_bytes", min(active[port.node].get(port.name, 0) for port in ends), n=len(ends))
    # InfiniBand needs no interface
    if mtus := [port.interface.mtu if port.interface else 0 for port in ends if port.interface or port.is_roce]:
        measure("least_interface_mtu_bytes", min(mtus), n=len(mtus))
    Findings(each for one, other in rails for each in mtus_differ(one, other, active)).judge()
    measure.judge()


@check(
    "M07-09",
    judged="pings that may not be fragmented, each way over each rail: small ones, then the largest that the sender's "
    "MTU allows",
    evidence="table of pings",
    by_hand="ping -M do -s 8972 -I INTERFACE ADDRESS (MTU 9000 less 28)",
    causes=[68],
)
@pytest.mark.needs("multi_node")
def test_packets_of_full_size_arrive(
    routed: list[tuple[HcaPort, HcaPort]], fabric_nodes: dict[str, Node], evidence: Evidence
):
    """Packets of full size arrive at the other end of each rail."""
    ways = [way for link in routed for way in (link, link[::-1]) if way[0].gid and way[1].gid and way[0].interface]
    if not ways:
        raise BlockedByHardware("no link has RoCE at both ends with an IPv4 GID: there is nothing that ping could show")
    pings = [(one, other, size) for one, other in ways for size in (SMALL, one.interface.mtu if one.interface else 0)]
    arrived = dict(
        zip(pings, in_parallel(lambda ping: _arrives(fabric_nodes[ping[0].node], *ping), pings), strict=True)
    )
    evidence.table(
        "pings", ["from", "to", "bytes", "arrived"], [[*ping, answered] for ping, answered in arrived.items()]
    )
    wrong = Findings()
    for (one, other, size), answered in arrived.items():
        if not answered and size == SMALL:
            wrong.add(f"nothing arrives from {one} at {other}: is the cable in, at both ends?")
        elif not answered and arrived[one, other, SMALL]:
            wrong.add(
                f"packets of full size ({size} bytes) from {one} are lost on the way to {other}, small ones arrive: a "
                "port, switch or filter between them has a smaller MTU (a black hole)"
            )
    wrong.judge()


def _arrives(node: Node, one: HcaPort, other: HcaPort, size: int) -> bool:
    """Whether packets of so many bytes arrive, headers and all."""
    address = other.gid.ipv4 if other.gid else ""
    options = ["-M", "do", "-s", str(size - HEADERS), "-I", one.port.netdev or ""]
    argv = ["ping", "-n", "-q", "-c", str(PINGS), "-i", "0.2", "-W", str(PING_WITHIN_S), *options, str(address)]
    return node.run(argv, deadline=Deadline(30, f"ping from {node.name}"), expect={0, 1}).rc == 0


@check(
    "M07-10",
    judged="LID, LID of the subnet manager, and partition keys of which both ends of a link are full members",
    evidence="table of InfiniBand ports",
    by_hand="on each node: ibstat; sminfo; cat /sys/class/infiniband/*/ports/1/pkeys/0",
)
def test_infiniband_ports_have_a_subnet_manager(ports: dict[str, list[HcaPort]], evidence: Evidence):
    """Each InfiniBand port has a LID from a subnet manager, and shares a partition with its other end."""
    every = [port for mine in ports.values() for port in mine]
    rows = [[str(port), port.port.layer, port.port.lid, port.port.sm_lid, " ".join(port.port.pkeys)] for port in every]
    evidence.table("InfiniBand", ["port", "layer", "LID", "LID of the subnet manager", "P_Keys"], rows)
    if all(port.is_roce for port in every):
        raise BlockedByHardware(f"all {len(every)} declared ports are Ethernet (RoCE), which has no subnet manager")
    Findings(without_manager(ports)).judge()


@check(
    "M07-11",
    judged="RLIMIT_MEMLOCK, where CAP_IPC_LOCK does not lift it, and access to `/dev/infiniband/uverbs*`: of a process "
    "that is started as workers are, in their runtime or its container, and of each that uses an RDMA device, against "
    "what KV needs; of one that the suite starts, against what perftest needs",
    evidence="measurement of the least limit that there is, table of limits, a note on processes that were not seen",
    by_hand="as the services are started: ulimit -l; grep -h 'locked memory' /proc/PID/limits; ls -l /dev/infiniband",
    causes=[70],
)
def test_processes_may_lock_memory(
    seen: dict[str, Seen], of_services: dict[str, OwnLimits], measure: Measure, evidence: Evidence
):
    """Services may open the RDMA devices and lock as much memory as they register, and so may perftest."""
    users = {name: each.limits.processes for name, each in seen.items()}
    every = [(name, user) for name, mine in users.items() for user in mine]
    least_bytes = 0.0
    if held := lockable_bytes([*of_services.values(), *(user for _, user in every)]):
        least = measure("least_lockable_gib", min(held) / 2**30, n=len(held)).threshold
        least_bytes = (least.min if least and least.min else 0.0) * 2**30
    wrong = Findings()
    rows = [[name, "a service", it.memlock_bytes, it.may_exceed] for name, it in of_services.items()]
    rows += [[name, f"{user.name} ({user.pid})", user.memlock_bytes, user.may_exceed] for name, user in every]
    for name, each in seen.items():
        rows.append([name, "one of the suite", each.limits.memlock_bytes, each.limits.may_exceed])
        wrong.extend(held_back(each.limits, "processes", PERFTEST_LOCKS_BYTES), node=name)
        wrong.extend(users_held_back(users[name], least_bytes), node=name)
    for name, limits in of_services.items():
        wrong.extend(held_back(limits, "services", least_bytes), node=name)
    evidence.table("locked memory", ["node", "process", "bytes", "CAP_IPC_LOCK"], rows)
    unseen = {name: who for name, each in seen.items() if (who := unseen_users(each.limits))}
    if unseen:
        evidence.note("not seen", "\n".join(f"{name}: {who}" for name, who in unseen.items()))
    wrong.judge()
    measure.judge()
    if unknown := [f"{user.name} ({user.pid}) of {name}" for name, user in every if user.most_bytes is None]:
        raise CouldNotLook(f"the limit of locked memory of {', '.join(unknown)} could not be read")
    if not of_services and (blind := [name for name in users if not users[name]]):
        hidden = by_value({name: unseen[name] for name in blind if name in unseen})
        raise CouldNotLook(
            f"{folded(blind)}: no process was seen to use RDMA{f', and {hidden}' if hidden else ''}. Run the suite "
            "while the services run, as their user, or look by hand and leave M07-11 out of dynamo_requires"
        )


@check(
    "M07-12",
    judged="addresses and MTU of the declared devices' interfaces that no file of netplan, NetworkManager, networkd, "
    "ifupdown or ifcfg gives to that interface at boot, or that came by DHCP; and what a file gives it that it lacks; "
    "networkd and NetworkManager are asked for files that only root may read",
    evidence="measurement, table of files",
    by_hand="on each node: grep -r ADDRESS /etc/netplan /etc/NetworkManager /etc/systemd/network /etc/network; does it "
    "stand in the part of that interface, and is that used at boot (ONBOOT, autoconnect, auto)?",
)
def test_settings_survive_a_reboot(
    kept: dict[str, Kept], ports: dict[str, list[HcaPort]], measure: Measure, evidence: Evidence
):
    """Addresses and MTU of the rails stand in a configuration that is read at boot."""
    settings = [setting for name, each in kept.items() for setting in settings_of(name, each, ports[name])]
    rows = [[each.of, each.what, " ".join(each.files)] for each in settings]
    lost = [each.lost for each in settings if each.lost]
    unseen = [each.unseen for each in settings if each.unseen]
    evidence.table("kept", ["interface", "setting", "files"], rows)
    over = measure("settings_not_kept", len(lost), n=len(rows))
    wrong = Findings(each.other for each in settings if each.other)
    if over.judgement == "fail":
        wrong.extend(lost)
    wrong.judge("not the same after a reboot")
    measure.judge()
    if unseen:
        allow = ", ".join(f"on {name}: {each.to_allow}" for name, each in kept.items() if each.to_allow)
        raise CouldNotLook(
            f"{unseen[0]} ({len(unseen)} settings in all). "
            + (f"Let the suite's user read it ({allow}), or look" if allow else "Look")
            + " by hand and leave M07-12 out of dynamo_requires"
        )


@check(
    "M07-13",
    judged="UCX_NET_DEVICES, UCX_TLS, the GID indexes, NCCL_IB_HCA, NCCL_IB_DISABLE, NCCL_NET and the interfaces of "
    "NCCL and Gloo in each node's runtime files, in the environment that its processes get and, without an "
    "image, in nccl.conf, against its devices and interfaces",
    evidence="the values to paste",
    by_hand="on each node: env | grep -E '^(UCX|NCCL|GLOO)_'; cat /etc/nccl.conf ~/.nccl.conf",
    causes=[69],
)
def test_settings_name_the_declared_devices(
    run: Run,
    seen: dict[str, Seen],
    ports: dict[str, list[HcaPort]],
    fabric_nodes: dict[str, Node],
    inventory: Inventory,
    evidence: Evidence,
):
    """What UCX and NCCL are given leads to the declared devices."""
    wrong, paste = Findings(), []
    rdma = inventory.cluster.dynamo_kv_transport in ("rdma", None)
    for name, each in seen.items():
        paste += [f"{name}: {key}={value}" for key, value in to_paste(ports[name]).items()]
        spec = fabric_nodes[name].spec
        runtimes = [inventory.runtime(runtime) for runtime in dict.fromkeys((spec.dynamo_runtime, spec.worker_runtime))]
        given_by = {f"runtime {runtime.name}": runtime.settings.env for runtime in runtimes}
        given_by["environment"] = each.facts.environment
        if not all(runtime.image for runtime in runtimes):
            over = {key for settings in given_by.values() for key in settings}
            for file, settings in each.facts.nccl_files.items():
                given_by[file] = {key: value for key, value in settings.items() if key not in over}
        for where, settings in given_by.items():
            given = run.at("module_07.settings", dict(settings), node=name)
            wrong.extend(wrong_settings(given, where, ports[name], each.interfaces, rdma=rdma), node=name)
    evidence.note("To paste", "\n".join(paste))
    wrong.judge()
