"""Each metric's change since the reference as an interval, with the line of its tolerance, as SVG."""

from __future__ import annotations

from typing import Any

from fixtures.basics.printable import head
from fixtures.basics.svg import BLUE, GREEN, GREY, GRID, ORANGE, RED, SOFT, Sheet
from plugins.verdict import label

COLOURS = {
    "slower than allowed": RED,
    "inconclusive": ORANGE,
    "slower": BLUE,
    "no change shown": GREY,
    "faster": GREEN,
}
WIDTH, LEFT, RIGHT, TOP, ROW = 960, 330, 30, 44, 22
MOST_ROWS = 40  # the table has all
BEYOND = 2.5  # the axis ends at so many tolerances on either side; what lies beyond is drawn to its edge


def change_svg(comparison: dict[str, Any] | None) -> str:
    """From `faster` on the left to `slower` on the right. An empty string where nothing was compared."""
    metrics = comparison["metrics"] if comparison else []
    rows = [each for each in metrics if each["slower_percent"] is not None][:MOST_ROWS]
    if not rows:
        return ""
    bottom = TOP + ROW * len(rows)
    sheet = Sheet(
        WIDTH, bottom + 34, f"change of {len(rows)} metrics since the reference; the table below has the numbers"
    )
    sheet.legend(LEFT, 16, list(COLOURS.items()))
    end: float = BEYOND * max(each["tolerance_percent"] for each in rows)

    def x(percent: float | None, else_: float) -> float:
        shown = min(end, max(-end, else_ if percent is None else percent))
        return LEFT + (WIDTH - LEFT - RIGHT) * (shown + end) / (2 * end)

    for mark in (-end, 0, end):
        sheet.path(f"M{x(mark, 0):.1f} {TOP - 12}V{bottom}", SOFT if mark == 0 else GRID)
        sheet.text(x(mark, 0), bottom + 18, f"{mark:+.0f} %" if mark else "no change", "middle", fill=SOFT)
    for number, each in enumerate(rows):
        y, colour = TOP + ROW * number, COLOURS[each["word"]]
        name = f"{label({'id': each['check'], 'case': each['case']})} {each['name']}"
        sheet.text(LEFT - 12, y + 4, head(name, 48), "end")
        low, high = x(each["low_percent"], -end), x(each["high_percent"], end)
        sheet.rect(low, y - 3, max(2.0, high - low), 6, colour, each["sentence"])
        sheet.dot(x(each["slower_percent"], 0), y, colour, 5)
        limit = x(each["tolerance_percent"], 0)
        sheet.path(f"M{limit:.1f} {y - 9}v18", RED, 1.5)
    return sheet.svg()
