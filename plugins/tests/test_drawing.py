"""The drawings: what is drawn, how a difference shows, and that names cannot break out."""

import xml.etree.ElementTree as ET

from plugins.drawing import timeline_svg, topology_svg


def component(name, kind, node, declared=True, found=True):
    where = {"node": node, "address": None, "version": None}
    return {"id": name, "kind": kind, "declared": declared, "found": found, **where}


def test_topology_shows_every_component_and_marks_the_differences():
    topology = {
        "components": [
            component("client", "client", None),
            component("frontend", "frontend", "a"),
            component("worker-0", "worker", "a"),
            component("worker-1", "worker", "b", found=False),
            component("worker-9", "worker", "b", declared=False),
            component("etcd", "etcd", "a"),
        ],
        "edges": [
            {"source": "frontend", "target": "worker-0", "protocol": "tcp"},
            {"source": "frontend", "target": "etcd", "protocol": "gRPC"},
            {"source": "frontend", "target": "nowhere", "protocol": "tcp"},
        ],
    }
    svg = topology_svg(topology, ["a", "b", "idle"])
    root = ET.fromstring(svg)
    classes = [element.get("class", "").strip() for element in root.iter("g")]
    assert sorted(classes) == ["box", "box", "box", "box", "box missing", "box undeclared"]
    assert svg.count('class="node"') == 3  # a node with nothing on it is drawn too
    assert svg.count("edge request") == 1 and svg.count("edge control") == 1
    assert "declared, not found" in svg and "found, not declared" in svg


def test_names_cannot_break_out():
    bad = '"><script>alert(1)</script>'
    topology = {
        "components": [component(bad, bad, bad), component("b", "worker", bad)],
        "edges": [{"source": "b", "target": bad, "protocol": bad}],
    }
    for svg in (topology_svg(topology, []), timeline_svg([{"what": bad, "start_s": 0, "duration_s": 0}])):
        ET.fromstring(svg)
        assert "<script" not in svg


def test_nothing_found_draws_nothing():
    assert topology_svg({"components": [], "edges": []}, ["a"]) == ""
    assert timeline_svg([]) == ""
