"""Which engines there are, how each starts and what it takes."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.product.services.engines import ENGINES
from tests_by_module.module_03_workers_and_backends.engine_run import Column
from tests_by_module.module_03_workers_and_backends.engine_table import HEADERS, side_by_side

pytestmark = pytest.mark.needs("managed", why="breaks")


def record_slowest(engine: str, columns: list[Column], measure: Measure) -> None:
    """Of an engine's workers how long the slowest took to register and from there to its first token, in s, what the
    suite added to that, and what the largest takes, in GB.

    Raises AssertionError for a log that does not tell a phase that it should tell.
    """
    mine = [column for column in columns if column.runtime.engine == engine]
    for column in mine:
        for phase in ("imported", "loaded"):
            told = getattr(column.startup, f"{phase}_s") is not None or getattr(column.facts, phase) is None
            assert told, f"{column.name}: no line of its log matches {getattr(column.facts, phase)!r} (contract.yaml)"
    starts = [column.startup for column in mine]
    measure("registered_s", max(each.registered_s for each in starts))
    measure("first_token_after_registration_s", max(each.first_token_s - each.registered_s for each in starts))
    measure("controller_percent", max(100 * each.controller_s / each.start_processor_s for each in mine))
    measure("took_of_starts", sum(each.took_s for each in mine) / sum(each.starts_s for each in mine))
    measure("memory_gb", max(column.taken["pss_bytes"] for column in mine) / 1e9)


@check(
    "M03-01",
    judged="each registers and answers four prompts; the worker's command line runs that engine's module",
    evidence="the engines side by side",
    by_hand="tr '\\0' ' ' < /proc/PID/cmdline; curl FRONTEND/v1/completions -d '{…}'",
    causes=[19],
)
@pytest.mark.smoke
def test_every_declared_engine_serves(columns: list[Column], evidence: Evidence):
    """Every declared engine registers and answers behind a frontend, and the process is that engine."""
    rows = side_by_side(columns)
    evidence.table("engines side by side", [HEADERS, *(column.name for column in columns)], rows)
    for column in columns:
        module = ENGINES[column.runtime.engine].module
        assert module in column.argv, f"{column.name}: its worker is {' '.join(column.argv)}, not {module}"
        failed = [f"{name}: {answer.describe()}" for name, answer in column.whole.items() if not answer.ok]
        assert not failed, f"{column.name} does not answer {len(failed)} prompts: {failed[0]}"


@check(
    "M03-20",
    judged="seconds until it is registered and from there to the first token, memory (PSS) of its processes; what the "
    "suite adds is recorded",
    evidence="measurements",
    by_hand="time until /health of the worker is 200; smem -P dynamo.mocker",
)
@pytest.mark.needs("mocker")
def test_mocker_starts_in_time_and_takes_little(columns: list[Column], measure: Measure):
    """The mocker registers and serves in time, and takes little memory."""
    record_slowest("mocker", columns, measure)
    measure.judge()


@check(
    "M03-21",
    judged="seconds to registration and on to the first token, memory (PSS) of its processes, against thresholds; what "
    "the suite adds is recorded: its processor time meanwhile, and all that is done with the engine over its starts",
    evidence="measurements",
    by_hand="time until /health of the worker is 200; smem -P dynamo.vllm",
)
@pytest.mark.needs("vllm")
def test_vllm_starts_in_time_and_takes_what_is_said(columns: list[Column], measure: Measure):
    """vLLM registers and serves in time, and uses the memory that its runtime file says."""
    record_slowest("vllm", columns, measure)
    measure.judge()


@check(
    "M03-22",
    judged="seconds to registration and on to the first token, memory (PSS) of its processes, against thresholds; what "
    "the suite adds is recorded: its processor time meanwhile, and all that is done with the engine over its starts",
    evidence="measurements",
    by_hand="time until /health of the worker is 200; smem -P dynamo.sglang",
)
@pytest.mark.needs("sglang")
def test_sglang_starts_in_time_and_takes_what_is_said(columns: list[Column], measure: Measure):
    """SGLang registers and serves in time, and takes no more memory than expected."""
    record_slowest("sglang", columns, measure)
    measure.judge()


@check(
    "M03-23",
    judged="seconds to registration and on to the first token, memory (PSS) of its processes and what the suite adds "
    "are recorded",
    evidence="measurements",
    by_hand="time until /health of the worker is 200; smem -P dynamo.trtllm",
)
@pytest.mark.needs("trtllm")
def test_trtllm_starts_in_time_and_takes_what_is_said(columns: list[Column], measure: Measure):
    """TensorRT-LLM registers and serves in time; its memory is recorded."""
    record_slowest("trtllm", columns, measure)
    measure.judge()
