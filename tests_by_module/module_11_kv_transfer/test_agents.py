"""NIXL agents come up and know one another before any engine is there."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.cluster.probes.probe import carriers
from fixtures.kv.counters import loaded
from fixtures.kv.pair import Pair
from fixtures.kv.side import Side
from fixtures.kv.ucx_log import parse

pytestmark = [pytest.mark.needs("nixl", "runtime", role="worker")]
# of ten plugins, each tried in a process of its own that imports NIXL
PLUGINS_WITHIN_S = 180
MAPPED = ("libplugin_UCX", "libucp", "libuct")


@check(
    "M11-01",
    judged="the backend takes memory, plugin and UCX are mapped in the process, NIXL and UCX are of one version "
    "everywhere; the others are blocked by it",
    evidence="table",
    by_hand="python -c 'import nixl; print(nixl.nixl_agent(\"a\").backends)'",
)
@pytest.mark.smoke
def test_an_agent_with_the_ucx_backend_comes_up_on_every_node(sides: list[Side], evidence: Evidence) -> None:
    """An agent with the UCX backend starts on every node."""
    evidence.nodes(*(side.node.name for side in sides))
    found = Findings()
    versions: dict[tuple[str, str | None], list[str]] = {}
    rows = []
    for side in sides:
        (process, *_) = loaded(carriers(side.node, [side.about["pid"]])["processes"])
        ucx = parse(side.log())
        if "DRAM_SEG" not in side.about["memory"].get("UCX", []):
            found.add(
                f"{side.name} on {side.node.name}: no UCX backend for memory, only {side.about['memory']}",
                node=side.node.name,
            )
        found.extend(
            f"{side.name} on {side.node.name}: {name} is not mapped" for name in MAPPED if not process.has(name)
        )
        versions.setdefault((side.package_version, ucx.version), []).append(side.node.name)
        rows.append((side.name, side.node.name, side.package_version, ucx.version))
    evidence.table("NIXL on the nodes", ("end", "node", "NIXL", "UCX"), rows)
    one_of_each = {side.node.name: side for side in reversed(sides)}
    plugins = [
        (node, plugin, why or "makes a backend")
        for node, side in one_of_each.items()
        for plugin, why in side.do("plugins", within_s=PLUGINS_WITHIN_S)["plugins"].items()
    ]
    evidence.table("Plugins whose files NIXL lists", ("node", "plugin", "tried without parameters"), plugins)
    found.judge()
    assert len(versions) == 1, f"nodes have different versions of NIXL or UCX: {versions}"


@check(
    "M11-02",
    judged="each end learns the other's name from its metadata",
    by_hand='ask b \'{"do": "metadata"}\'; ask a \'{"do": "connect", "metadata": …}\'',
)
def test_metadata_connects_to_its_issuer(pair: Pair, neighbours: Pair) -> None:
    """Metadata connects to the agent that issued it."""
    for ends in (pair, neighbours):
        told = ends.near.do("connect", **ends.far.do("metadata"))["peer"]
        assert told == ends.far.name, f"metadata given by {ends.far.name} is of {told}"
