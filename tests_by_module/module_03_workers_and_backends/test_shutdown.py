"""The end of a worker that is told to end."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.load.from_here import COMPLETED
from tests_by_module.module_03_workers_and_backends.engine_run import Column, Ended

pytestmark = pytest.mark.needs("managed", why="breaks")


def cut(ended: Ended) -> str | None:
    """What of the stream that was under way is missing; None: nothing."""
    if ended.stream.outcome != COMPLETED:
        return ended.stream.describe()
    # by what the engine says of its end, not by its counts: those are judged elsewhere
    reasons = ended.stream.answer.finish_reasons
    return None if reasons == ["length"] else f"of {ended.asked_tokens} tokens, with the finish reasons {reasons}"


@check(
    "M03-08",
    judged="SIGTERM in the middle of a stream of about 2 s: out of etcd at once, the stream ends by its length, exit "
    "status 0 within `ends_within_s` of the runtime",
    evidence="end of the log, measurements",
    by_hand="kill -TERM the worker while curl -N reads a stream",
    causes=[21, 29],
)
def test_shutdown_lets_streams_end(columns: list[Column], measure: Measure, evidence: Evidence):
    """After SIGTERM a worker gets no new request, finishes its stream, and exits with 0 in time."""
    unregistered_s, ended_s = [], []
    for column in columns:
        ended = column.ended
        evidence.text(f"the end of the log of {column.name}", ended.log)
        told = cut(ended)
        assert told is None, f"{column.name}: the stream sent before SIGTERM did not complete: {told}"
        assert ended.unregistered_s is not None, f"{column.name}: it stays registered after SIGTERM: {ended.log}"
        within_s = column.runtime.settings.ends_within_s
        assert ended.ended_s is not None, f"{column.name}: it has not ended {within_s} s after SIGTERM: {ended.log}"
        assert ended.exit_status == 0, f"{column.name}: it ended with {ended.exit_status} after SIGTERM: {ended.log}"
        unregistered_s.append(ended.unregistered_s)
        ended_s.append(ended.ended_s)
    measure("unregistered_s", max(unregistered_s), n=len(columns))
    measure("ended_s", max(ended_s), n=len(columns))
    measure.judge()
