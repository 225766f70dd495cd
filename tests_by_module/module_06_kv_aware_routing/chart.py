"""A grouped bar chart as static SVG: what people would rather look at than read."""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#9aa5b1", "#76b900", "#1f6fb2", "#d9822b")
BAR, GAP, HEIGHT, TOP, LEFT = 22, 28, 160, 30, 40


def grouped_bars(groups: Mapping[str, Sequence[float]], series: Sequence[str], unit: str) -> str:
    """One group of bars for each name, a bar for each of `series`, from 0 to 100 `unit`."""
    step = BAR * len(series) + GAP
    width = LEFT + step * len(groups) + GAP
    base = TOP + HEIGHT
    shapes = []
    for number, colour in enumerate(COLOURS[: len(series)]):
        x = LEFT + number * 170
        shapes.append(f'<rect x="{x}" y="6" width="12" height="12" fill="{colour}"/>')
        shapes.append(f'<text x="{x + 17}" y="16">{escape(series[number])}</text>')
    for mark in (0, 50, 100):
        y = base - HEIGHT * mark / 100
        shapes.append(f'<path d="M{LEFT} {y}H{width - GAP}" stroke="#ccc"/>')
        shapes.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{mark}</text>')
    for group, (name, values) in enumerate(groups.items()):
        left = LEFT + GAP / 2 + group * step
        shapes.append(f'<text x="{left + (step - GAP) / 2}" y="{base + 18}" text-anchor="middle">{escape(name)}</text>')
        for number, value in enumerate(values):
            x, tall = left + number * BAR, HEIGHT * value / 100
            tip = f"<title>{escape(series[number])}: {value:g} {unit}</title>"
            box = f'x="{x}" y="{base - tall:.1f}" width="{BAR - 3}" height="{tall:.1f}"'
            shapes.append(f'<rect {box} fill="{COLOURS[number]}">{tip}</rect>')
            shapes.append(f'<text x="{x + 9}" y="{base - tall - 3:.1f}" text-anchor="middle">{value:.0f}</text>')
    width = max(width, LEFT + 170 * len(series))
    size = f'width="{width}" height="{base + 30}" viewBox="0 0 {width} {base + 30}"'
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(shapes)}</svg>'
