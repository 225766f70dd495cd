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


def test_labels_lie_over_no_other_and_over_no_box():
    names = ("frontend", "worker-1", "worker-2", "etcd", "nats")
    parts = [component(name, name.split("-")[0], "a") for name in names]
    pairs = [("frontend", f"worker-{number}", "requests over tcp") for number in (1, 2)]
    for source in names[:3]:
        pairs += [(source, "etcd", "gRPC"), (source, "nats", "NATS")]
    edges = [dict(zip(("source", "target", "protocol"), pair, strict=True)) for pair in pairs]
    root = ET.fromstring(
        topology_svg({"components": [component("client", "client", None), *parts], "edges": edges}, ["a"])
    )
    areas = [text_area(text) for text in root.iter("text") if text.get("class") == "edge-label"]
    boxes = [[float(rect.get(key)) for key in ("x", "y", "width", "height")] for rect in root.findall("./g/rect")]
    assert len(areas) == len(pairs) and len(boxes) == 6
    for number, area in enumerate(areas):
        assert not [other for other in [*areas[:number], *boxes] if overlap(area, other)], area


def text_area(text):
    """x, y, width and height of a text of 11 px that is put around its x, with its foot at y."""
    width = 5.5 * len(text.text)
    return [float(text.get("x")) - width / 2, float(text.get("y")) - 9, width, 11]


def overlap(one, other):
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (0, 1))
