"""The Gantt of a run as SVG: deployments, checks and waits of each runner. Colours: reports/templates/report.css."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from fixtures.basics.svg import steps
from fixtures.times.path import PREPARES
from fixtures.times.record import Deployment, Times, Wait

WIDTH, LEFT, RIGHT = 980, 130, 12
LANE, BAR, GAP, TOP, AXIS = 18, 13, 12, 4, 26
LETTER = 7.2  # of an id in a bar
LEAST_WIDTH, NEIGHBOUR = 1.2, 0.8  # narrower bars that lie as near as this are drawn as one
MOST_RUNNERS, MOST_LANES = 16, 4  # drawn
WORST_FIRST = ("failed", "error", "known_defect", "passed", "blocked_by_hardware", "not_covered")
FAINTEST = 0.25
MORE = "; and "


@dataclass
class Bar:
    """From one moment to another, in seconds since the run's start. `count`: how many it stands for."""

    start_s: float
    end_s: float
    kind: str  # its CSS class
    tip: str
    text: str = ""
    opacity: float = 1.0
    count: int = 1


def gantt_svg(times: Times) -> str:
    """As wide as the run is long; bounded, however many checks it has. An empty string when nothing was timed."""
    if not times.begun or not times.duration_s:
        return ""
    end_s = max(times.duration_s, *(each.span[1] for each in times.begun))
    scale = (WIDTH - LEFT - RIGHT) / end_s
    parts, y = [], float(TOP)
    for runner in times.runners[:MOST_RUNNERS]:
        lanes = [
            *(("" if at else "deployments", bars) for at, bars in enumerate(_deployments(times, runner))),
            ("checks", _checks(times, runner)),
            ("waits", _waits(times, runner)),
        ]
        parts.append(f'<text class="runner" x="0" y="{y + BAR - 1}">{escape(_short(runner, 6))}</text>')
        for name, bars in lanes:
            parts.append(f'<text class="lane" x="{LEFT - 8}" y="{y + BAR - 2}">{name}</text>')
            parts += [_rect(bar, scale, y) for bar in _joined(bars, scale)]
            y += LANE
        y += GAP
    if (left := len(times.runners) - MOST_RUNNERS) > 0:
        parts.append(f'<text class="runner" x="0" y="{y + BAR}">and {left} more runners</text>')
        y += LANE
    axis = [_tick(value, LEFT + value * scale, y) for value in steps(end_s)]
    label = f"{len(times.begun)} checks and {len(times.deployments)} deployments over {end_s:.0f} s"
    return (
        f'<svg class="gantt" role="img" aria-label="{escape(label)}; the tables below say it in words" '
        f'viewBox="0 0 {WIDTH} {y + AXIS:.0f}">{"".join(axis)}{"".join(parts)}</svg>'
    )


def _deployments(times: Times, runner: str) -> list[list[Bar]]:
    """One lane, which begins with what comes before all of them, or more where several are there at once."""
    prepares = [it for it in times.timeline if it.runner == runner and it.name in PREPARES]
    steps_first = sorted(prepares, key=lambda it: it.start_s)
    lanes = [[Bar(*it.span, "bring-up", f"{_short(it.name, 80)}: {it.duration_s:.1f} s") for it in steps_first]]
    free_from = [0.0]
    for each in sorted((it for it in times.deployments if it.runner == runner), key=lambda it: it.start_s):
        bars = list(_life(each, times.duration_s))
        lane = next((at for at, free in enumerate(free_from) if free <= each.start_s), len(lanes))
        if lane == len(lanes) and lane < MOST_LANES:
            lanes.append([])
            free_from.append(0.0)
        lane = min(lane, MOST_LANES - 1)
        lanes[lane] += bars
        free_from[lane] = max(bar.end_s for bar in bars)
    return lanes


def _life(each: Deployment, run_end_s: float) -> Iterable[Bar]:
    name, (start_s, up_s) = _short(each.name, 80), each.bring_up
    yield Bar(start_s, up_s, "bring-up", f"{name}: bring-up, {up_s - start_s:.1f} s")
    gone_s = each.down_s if each.down_s is not None else max(run_end_s, up_s)
    if each.up_s is not None:
        yield Bar(
            up_s, gone_s, "serves", f"{name}: serves, {gone_s - up_s:.1f} s", _short(each.name.rpartition(".")[2], 24)
        )
    if down := each.take_down:
        yield Bar(*down, "take-down", f"{name}: take-down, {down[1] - down[0]:.1f} s")


def _checks(times: Times, runner: str) -> list[Bar]:
    return [
        Bar(
            *each.span,
            each.outcome,
            f"{each.label}: {each.outcome.replace('_', ' ')}, {each.phases.all_s:.1f} s",
            each.id,
        )
        for each in times.begun
        if each.runner == runner
    ]


def _waits(times: Times, runner: str) -> list[Bar]:
    """From the first to the last for one reason; the more of that time is waited, the darker."""
    waits = [wait for check in times.begun if check.runner == runner for wait in check.waits]
    waits += [wait for wait in times.waits if wait.runner == runner]
    return [_wait(each) for each in sorted(waits, key=lambda each: each.start_s)]


def _wait(each: Wait) -> Bar:
    took_s = max(each.end_s - each.start_s, 0.001)
    opacity = max(FAINTEST, min(1.0, each.total_s / took_s))
    tip = f"{_short(each.what, 80)}: {each.n} times, {each.total_s:.1f} s"
    return Bar(each.start_s, each.end_s, "waits", tip, opacity=opacity)


def _joined(bars: list[Bar], scale: float) -> list[Bar]:
    """Neighbours that are too narrow to be told from each other become one, of the worst outcome among them."""
    joined: list[Bar] = []
    for bar in bars:
        last = joined[-1] if joined else None
        if last and _narrow(last, scale) and _narrow(bar, scale) and (bar.start_s - last.end_s) * scale < NEIGHBOUR:
            last.kind = min(last.kind, bar.kind, key=_rank)
            last.tip = f"{last.tip.partition(MORE)[0]}{MORE}{last.count} more"
            last.end_s, last.opacity = max(last.end_s, bar.end_s), max(last.opacity, bar.opacity)
            last.count, last.text = last.count + 1, ""
        else:
            joined.append(bar)
    return joined


def _narrow(bar: Bar, scale: float) -> bool:
    return bar.count > 1 or (bar.end_s - bar.start_s) * scale < LEAST_WIDTH


def _rank(kind: str) -> int:
    return WORST_FIRST.index(kind) if kind in WORST_FIRST else len(WORST_FIRST)


def _rect(bar: Bar, scale: float, y: float) -> str:
    x, width = LEFT + bar.start_s * scale, max(LEAST_WIDTH, (bar.end_s - bar.start_s) * scale)
    kind = bar.kind if bar.kind in (*WORST_FIRST, "bring-up", "serves", "take-down", "waits") else "passed"
    faint = f' fill-opacity="{bar.opacity:.2f}"' if bar.opacity < 1 else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}"'
    shown = f'<rect class="{kind}" {place}{faint}><title>{escape(bar.tip)}</title></rect>'
    if bar.text and len(bar.text) * LETTER < width:
        shown += f'<text class="in {kind}" x="{x + width / 2:.1f}" y="{y + BAR - 2.5:.1f}">{escape(bar.text)}</text>'
    return shown


def _tick(value: float, x: float, bottom: float) -> str:
    line = f'<path class="tick" d="M{x:.1f} 0V{bottom:.1f}"/>'
    return f'{line}<text class="second" x="{x:.1f}" y="{bottom + 16:.1f}">{value:g} s</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
