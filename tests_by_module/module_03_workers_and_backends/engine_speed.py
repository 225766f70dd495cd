"""Each engine under the same load, one after the other: how soon it serves, how fast, and what memory it takes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from fixtures.baseline.comparison import Comparison, Sides, judge
from fixtures.baseline.figures import METRICS
from fixtures.baseline.intervals import mean_interval
from fixtures.baseline.record import LEAST_REPEATS
from fixtures.baseline.record import Run as Repeat
from fixtures.baseline.repeats import Target, repeated
from fixtures.cluster.inventory.model import RuntimeSpec
from fixtures.cluster.probes.probe import footprint
from fixtures.load.point import Point
from fixtures.load.workloads import Part, Workload
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.deployments.managed import ManagedDeployment
from tests_by_module.module_03_workers_and_backends.engine_run import StartUp, start_of
from tests_by_module.module_03_workers_and_backends.engine_table import in_gb, number

SENT = Path(__file__).with_suffix(".yaml")
WORKLOAD = "engines"
# what the table shows of each engine
SHOWN = ("output_tokens_per_s", "ttft_ms_p50", "ttft_ms_p95", "itl_ms_p95")
CONFIDENCE = 0.95
Count = Annotated[int, Field(ge=1)]


class Sent(BaseModel):
    """engine_speed.yaml: see there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_tokens: Count
    output_tokens: Count
    spread: float = Field(ge=0, lt=1)
    concurrency: tuple[Count, ...] = Field(min_length=1)
    rounds: Count
    least_requests: int = Field(ge=2)
    repeats: int = Field(ge=LEAST_REPEATS)

    def parts(self) -> list[Part]:
        """The highest load first: what is made for it once is made before the first repeat."""
        return [self._part(each) for each in sorted(self.concurrency, reverse=True)]

    def _part(self, concurrency: int) -> Part:
        return Part(
            Point(workload=WORKLOAD, input_tokens=self.input_tokens, concurrency=concurrency),
            Workload(
                input_tokens=(self.input_tokens,),
                output_tokens=self.output_tokens,
                concurrency=(concurrency,),
                requests=max(self.least_requests, self.rounds * concurrency),
                spread=self.spread,
            ),
        )


@cache
def sent() -> Sent:
    return Sent.model_validate(YAML(typ="safe").load(SENT))


@dataclass(frozen=True)
class Speed:
    """One engine: how it started, what it takes after the load, and the repeats of each part."""

    name: str
    startup: StartUp
    taken: Mapping[str, Any]
    repeats: tuple[Repeat, ...]

    def figures(self, metric: str, point: Point) -> tuple[float, ...]:
        return tuple(each.figures[metric] for each in self.repeats if each.point == point and metric in each.figures)

    @property
    def points(self) -> list[Point]:
        return sorted({each.point for each in self.repeats}, key=lambda point: point.concurrency)

    def failed(self) -> list[str]:
        """A sentence on each repeat with requests that were not completed."""
        return [
            f"{self.name}: {each.failed} of {each.requests} requests failed ({each.point}, repeat {each.repeat})"
            for each in self.repeats
            if each.failed
        ]


def speed_of(deployment: ManagedDeployment, spec: RuntimeSpec, client: Equipment) -> Speed:
    """Raises CouldNotLook when so few requests were answered that there are no figures."""
    (worker,) = deployment.workers
    pid = worker.require_process().pgid
    startup = start_of(deployment, worker, spec, footprint(worker.node, [pid])[pid]["began_at"])
    target = Target(
        client=client,
        urls=(deployment.frontend_url,),
        model_name=deployment.settings.model_name,
        nodes=(worker.node,),
        servers={},
    )
    made = tuple(each.run for each in repeated(target, sent().parts(), sent().repeats))
    return Speed(spec.name, startup, footprint(worker.node, [pid])[pid], made)


def compared(speeds: Sequence[Speed], confidence: float = CONFIDENCE) -> dict[tuple[str, str], Comparison]:
    """Each engine against each that stands after it; intervals are as wide as so many comparisons ask for."""
    pairs = list(combinations(speeds, 2))
    each = 1 - (1 - confidence) / max(1, len(pairs))
    return {(a.name, b.name): judge(b.name, _sides(a, b), each) for a, b in pairs}


def _sides(one: Speed, other: Speed) -> Sides:
    return {
        (metric, point): (one.figures(metric, point), other.figures(metric, point))
        for point in one.points
        for metric in METRICS
        if one.figures(metric, point) or other.figures(metric, point)
    }


def speed_rows(speeds: Sequence[Speed]) -> Iterable[list[object]]:
    """A row for each of SHOWN at each concurrency: the mean of each engine with its own interval."""
    for point in speeds[0].points:
        for metric in SHOWN:
            told = [_interval(each.figures(metric, point)) for each in speeds]
            yield [point.concurrency, f"{METRICS[metric].label}, {METRICS[metric].unit}", *told]


def _interval(figures: Sequence[float]) -> str:
    if not figures:
        return "–"  # noqa: RUF001
    mean, low, high = mean_interval(figures, CONFIDENCE)
    return f"{mean:.4g} ({low:.4g} … {high:.4g})"


def start_rows(speeds: Sequence[Speed]) -> Iterable[list[object]]:
    """A row for each phase of the start and each kind of memory."""
    rows: dict[str, Callable[[Speed], float | None]] = {
        "imported after, s": lambda each: each.startup.imported_s,
        "model loaded after, s": lambda each: each.startup.loaded_s,
        "registered after, s": lambda each: each.startup.registered_s,
        "first token after, s": lambda each: each.startup.first_token_s,
    }
    kinds = {"memory (PSS) after the load, GB": "pss_bytes", "GPU memory after the load, GB": "gpu_bytes"}
    for what, seconds in rows.items():
        yield [what, *(number(seconds(each)) for each in speeds)]
    for what, kind in kinds.items():
        yield [what, *(in_gb(each.taken[kind]) for each in speeds)]
