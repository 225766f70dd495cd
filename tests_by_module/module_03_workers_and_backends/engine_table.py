"""The engines side by side: a row for each thing that was looked at, a column for each engine."""

from collections.abc import Callable

from tests_by_module.module_03_workers_and_backends.engine_run import Column
from tests_by_module.module_03_workers_and_backends.oracle import Compared

HEADERS = "what was seen"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001


def in_gb(number_of_bytes: int | None) -> str:
    return number(number_of_bytes and number_of_bytes / 1e9)


def _share(done: int, of: int) -> str:
    return f"{done} of {of}"


def _compared(column: Column) -> str:
    if not isinstance(column.compared, Compared):
        return "–"  # noqa: RUF001
    verdicts = [each.verdict for each in column.compared.all]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))


def _packages(column: Column) -> str:
    return ", ".join(f"{name} {version}" for name, version in column.runtime.packages.items())


ROWS: dict[str, Callable[[Column], object]] = {
    "engine": lambda column: column.runtime.engine,
    "packages": _packages,
    "kernels computed by PyTorch in their place": lambda column: ", ".join(column.stood_in) or "none",
    "imported after, s": lambda column: number(column.startup.imported_s),
    "model loaded after, s": lambda column: number(column.startup.loaded_s),
    "registered after, s": lambda column: number(column.startup.registered_s),
    "first token after, s": lambda column: number(column.startup.first_token_s),
    "processor time of its start, s": lambda column: number(column.start_processor_s),
    "the controller's meanwhile, s": lambda column: number(column.controller_s),
    "processes": lambda column: column.taken["processes"],
    "memory (RSS), GB": lambda column: in_gb(column.taken["rss_bytes"]),
    "memory (PSS), GB": lambda column: in_gb(column.taken["pss_bytes"]),
    "GPU memory, GB": lambda column: in_gb(column.taken["gpu_bytes"]),
    "prompts answered": lambda column: _share(sum(each.ok for each in column.whole.values()), len(column.whole)),
    "streams completed": lambda column: _share(sum(each.ok for each in column.streamed.values()), len(column.streamed)),
    "wrong requests refused": lambda column: _share(
        sum(400 <= each.status < 500 for each in column.refusals.values()), len(column.refusals)
    ),
    "a client's leaving noticed after, s": lambda column: number(column.idle_after_s),
    "requests counted": lambda column: f"{column.counted['requests']:g}",
    "its own metrics": lambda column: "tokens counted" if column.facts.metrics else "none known",
    "KV blocks announced": lambda column: (
        "–"  # noqa: RUF001
        if column.events is None
        else sum(len(event.blocks) for event in column.events if event.kind == "stored")
    ),
    "SIGTERM: unregistered after, s": lambda column: number(column.ended.unregistered_s),
    "SIGTERM: the running stream": lambda column: column.ended.stream.outcome,
    "SIGTERM: ended after, s": lambda column: number(column.ended.ended_s),
    "answers against transformers": _compared,
    "all of this took, s": lambda column: number(column.took_s, 1),
    "of that its starts, s": lambda column: number(column.starts_s, 1),
}


def side_by_side(columns: list[Column]) -> list[list[object]]:
    """A row for each of ROWS: what it is, and each engine's."""
    return [[what, *(show(column) for column in columns)] for what, show in ROWS.items()]
