"""The topology and the timeline as SVG: pure functions of the record. Their colours: reports/templates/report.css."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

BOX_W, BOX_H, GAP, PAD, LAYER, HEAD = 168, 52, 26, 18, 62, 26
LEAST_WIDTH = 640  # in which it can still be read: a narrower window scrolls
PER_ROW = 4  # boxes of one kind side by side
LETTER, LABEL_H = 6.4, 14  # of a protocol's text
SPOTS = 24  # along a line, of which its text takes one
WIDTH = 1100  # node frames are put side by side up to this
_LAYERS = {"client": 0, "frontend": 1, "router": 1, "etcd": 3, "nats": 3}  # everything else does the work: layer 2
_CONTROL = ("etcd", "nats")  # lines to these are the control plane, the others the path of a request


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    component: dict[str, Any]

    @property
    def middle(self) -> float:
        return self.x + BOX_W / 2


def topology_svg(topology: dict[str, Any], nodes: list[str]) -> str:
    """Boxes per component, framed per node, arrows with their protocol. An empty string when nothing was discovered."""
    components = topology["components"]
    if not components:
        return ""
    groups: dict[str | None, list[dict[str, Any]]] = {name: [] for name in nodes}
    for component in components:
        groups.setdefault(component["node"], []).append(component)
    outside = groups.pop(None, [])
    depth = [max(len(_rows(members, layer)) for members in groups.values()) for layer in range(4)] if groups else []
    boxes: dict[str, Box] = {}
    frames: list[str] = []
    x, y, row_height, right = 0.0, (BOX_H + LAYER) if outside else 0.0, 0.0, 0.0
    for name, members in groups.items():
        width, height = _size(members, depth)
        if x and x + width > WIDTH:
            x, y, row_height = 0.0, y + row_height + LAYER, 0.0
        frames.append(
            f'<rect class="node" x="{x}" y="{y}" width="{width}" height="{height}" rx="12"/>'
            f'<text class="node-name" x="{x + PAD}" y="{y + 19}">{escape(str(name))}</text>'
        )
        boxes |= _place(members, x, y + HEAD, width, depth)
        x, right, row_height = x + width + GAP, max(right, x + width), max(row_height, height)
    right = max(right, _row_width(len(outside)) + 2 * PAD)
    boxes |= _place(outside, 0, -PAD / 2, right, [1, 0, 0, 0])
    height = y + row_height
    lines = _lines(boxes, topology["edges"])
    return (
        f'<svg class="topology" role="img" aria-label="topology" viewBox="-2 -8 {right + 4} {height + 12}" '
        f'style="max-width:{right:.0f}px;min-width:{min(right, LEAST_WIDTH):.0f}px">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>'
        f"{''.join(frames)}{''.join(line.path() for line in lines)}"
        f"{''.join(_box(box) for box in boxes.values())}{_labels(lines, [*boxes.values()])}</svg>"
    )


def _rows(members: list[dict[str, Any]], layer: int) -> list[list[dict[str, Any]]]:
    inside = [member for member in members if _LAYERS.get(member["kind"], 2) == layer]
    return [inside[i : i + PER_ROW] for i in range(0, len(inside), PER_ROW)]


def _row_width(count: int) -> float:
    return count * (BOX_W + GAP) - GAP if count else BOX_W


def _size(members: list[dict[str, Any]], depth: list[int]) -> tuple[float, float]:
    widths = [_row_width(len(row)) for layer in range(4) for row in _rows(members, layer)]
    return max(widths, default=BOX_W) + 2 * PAD, HEAD + 2 * PAD + max(1, sum(depth)) * (BOX_H + LAYER) - LAYER


def _place(members: list[dict[str, Any]], x: float, y: float, width: float, depth: list[int]) -> dict[str, Box]:
    """`depth`: rows of each layer, the same on all nodes, so that what does the same stands at the same height."""
    placed = {}
    for layer in range(4):
        for index, row in enumerate(_rows(members, layer), start=sum(depth[:layer])):
            left = x + (width - _row_width(len(row))) / 2
            for column, component in enumerate(row):
                at = (left + column * (BOX_W + GAP), y + PAD / 2 + index * (BOX_H + LAYER))
                placed[component["id"]] = Box(*at, component)
    return placed


def _box(box: Box) -> str:
    component = box.component
    state = ""
    if not component["found"]:
        state = "missing"
    elif not component["declared"]:
        state = "undeclared"
    note = {"missing": "declared, not found", "undeclared": "found, not declared", "": component.get("address") or ""}
    version = f" {component['version']}" if component.get("version") else ""
    second = _short(note[state], 27)
    return (
        f'<g class="box {state}"><title>{escape(component["id"] + version)}</title>'
        f'<rect x="{box.x}" y="{box.y}" width="{BOX_W}" height="{BOX_H}" rx="8"/>'
        f'<text x="{box.middle}" y="{box.y + (22 if second else 31)}">{escape(_short(component["id"]))}</text>'
        f'<text class="small" x="{box.middle}" y="{box.y + 39}">{escape(second)}</text></g>'
    )


def _short(text: str, length: int = 20) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


@dataclass(frozen=True)
class Area:
    x: float  # of its middle
    y: float
    width: float
    height: float

    def overlap(self, other: Area) -> float:
        across = (self.width + other.width) / 2 - abs(self.x - other.x)
        down = (self.height + other.height) / 2 - abs(self.y - other.y)
        return max(0.0, across) * max(0.0, down)


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    protocol: str
    kind: str

    def path(self) -> str:
        bend = (self.y2 - self.y1) / 2
        curve = f"M{self.x1} {self.y1}C{self.x1} {self.y1 + bend} {self.x2} {self.y2 - bend} {self.x2} {self.y2}"
        return f'<path class="edge {self.kind}" d="{curve}" marker-end="url(#tip)"/>'

    def spots(self) -> list[Area]:
        """Where on the curve the protocol can be written, the best first: a little after its start, where it has met
        no other line yet."""
        first = 0.3 * min(1.0, LAYER / abs(self.y2 - self.y1)) if self.y1 != self.y2 else 0.3
        return [self._at(first + (0.95 - first) * step / SPOTS) for step in range(SPOTS)]

    def _at(self, t: float) -> Area:
        x = self.x1 + (self.x2 - self.x1) * (3 * (1 - t) * t**2 + t**3)
        y = self.y1 + (self.y2 - self.y1) * (1.5 * t * (1 - t) + t**3)
        return Area(x, y, LETTER * len(self.protocol), LABEL_H)


def _labels(lines: list[Line], boxes: list[Box]) -> str:
    """The protocols, each where it lies over no box and no other, or least of all."""
    taken = [Area(box.middle, box.y + BOX_H / 2, BOX_W, BOX_H) for box in boxes]
    texts = []
    for line in lines:
        spot = min(line.spots(), key=lambda spot: sum(spot.overlap(other) for other in taken))
        taken.append(spot)
        texts.append(f'<text class="edge-label" x="{spot.x:.1f}" y="{spot.y + 4:.1f}">{escape(line.protocol)}</text>')
    return "".join(texts)


def _lines(boxes: dict[str, Box], edges: list[dict[str, Any]]) -> list[Line]:
    """Edges whose ends are both drawn; those that leave one side of a box leave it side by side."""
    ends = [
        (boxes[e["source"]], boxes[e["target"]], e["protocol"]) for e in edges if {e["source"], e["target"]} <= {*boxes}
    ]
    lines = []
    for source, target, protocol in ends:
        kind = "control" if target.component["kind"] in _CONTROL else "request"
        if source.y == target.y:
            sign = 1 if source.x < target.x else -1
            y, half = source.y + BOX_H / 2, sign * BOX_W / 2
            lines.append(Line(source.middle + half, y, target.middle - half, y, protocol, kind))
            continue
        down = source.y < target.y
        beside = sorted((t.middle, t.y) for s, t, _ in ends if s is source and t.y != s.y and (s.y < t.y) == down)
        place = beside.index((target.middle, target.y)) - (len(beside) - 1) / 2
        x = source.middle + place * min(36.0, (BOX_W - 20) / len(beside))
        y1, y2 = (source.y + BOX_H, target.y) if down else (source.y, target.y + BOX_H)
        lines.append(Line(x, y1, target.middle, y2, protocol, kind))
    return lines


def timeline_svg(timeline: list[dict[str, Any]]) -> str:
    """One bar per phase over the seconds since the start of the run."""
    if not timeline:
        return ""
    entries = sorted(timeline, key=lambda entry: entry["start_s"])
    end = max(max(entry["start_s"] + entry["duration_s"] for entry in entries), 0.001)
    row, left, scale = 24, 230, 680 / end
    lines = []
    for index, entry in enumerate(entries):
        x, y = left + entry["start_s"] * scale, index * row
        width = max(2.0, entry["duration_s"] * scale)
        lines.append(
            f'<text class="phase" x="{left - 10}" y="{y + 15}">{escape(_short(entry["what"], 34))}'
            f"<title>{escape(entry['what'])}</title></text>"
            f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="14" rx="3"/>'
            f'<text class="small" x="{x + width + 6:.1f}" y="{y + 15}">{entry["duration_s"]:.2f} s</text>'
        )
    return (
        f'<svg class="timeline" role="img" aria-label="timeline" viewBox="0 0 980 {len(entries) * row + 6}">'
        f'<line x1="{left}" y1="0" x2="{left}" y2="{len(entries) * row}"/>{"".join(lines)}</svg>'
    )
