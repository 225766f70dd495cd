"""The frontend and its workers end in the middle of a stream: in order, and not."""

import signal
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.measure import Measure
from fixtures.clients.inference import Answer, complete
from fixtures.load.from_here import RequestRecord, run_load
from fixtures.load.plan import plan
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_02_frontend.counters import FIRST_TOKENS

pytestmark = pytest.mark.needs("managed", why="breaks")

# about 2 s of the mocker's time: long enough to be in the middle of
TOKENS = 300
UNDER_WAY_WITHIN_S, STREAM_ENDS_WITHIN_S, DRAINS_WITHIN_S, BACK_WITHIN_S = 10, 60, 60, 20
REFUSES_WITHIN_S = 1


@dataclass(frozen=True)
class Drained:
    """A frontend that got SIGTERM in the middle of a stream, and was then started again. Times in s since then."""

    running: RequestRecord
    new: Answer
    exit_status: int | None
    ended_after_s: float
    back: Answer
    back_after_s: float


def start_stream(pool: Threads, run: Run, deployment: Deployment) -> Future[list[RequestRecord]]:
    """A stream of which the first token is out; its future gives the record."""
    one = plan(run.seed, 1, (10, 10), (TOKENS, TOKENS))
    before = deployment.frontend_metrics().total_or_zero(FIRST_TOKENS)
    future = pool.submit(run_load, deployment.endpoint, one, concurrency=1, within_s=STREAM_ENDS_WITHIN_S)

    def look() -> tuple[bool | None, object]:
        return (deployment.frontend_metrics().total_or_zero(FIRST_TOKENS) > before or None), "no first token"

    wait_until(look, Deadline(UNDER_WAY_WITHIN_S, "the stream to be under way"))
    return future


def ask_until(deployment: Deployment, served: bool, deadline: Deadline) -> Answer:
    """The first answer that is `served` or not, or the last one at the deadline."""
    answer = Answer()

    def look() -> tuple[bool | None, object]:
        nonlocal answer
        answer = complete(deployment.endpoint, "one more?", max_tokens=1, timeout_s=5)
        return (True if answer.ok == served else None), answer.describe()

    with suppress(DeadlineExceeded):
        wait_until(look, deadline)
    return answer


@pytest.fixture(scope="package")
def drained(run: Run) -> Drained:
    """History first: SIGTERM to the frontend of a deployment of its own, in the middle of a stream; then a restart."""
    with run.own_deployment("module_02.drain") as deployment, Threads(1) as pool:
        running = start_stream(pool, run, deployment)
        process = deployment.frontend.require_process()
        clock = Deadline(DRAINS_WITHIN_S, "the frontend to end after SIGTERM")
        process.signal(signal.SIGTERM)
        new = ask_until(deployment, False, Deadline(REFUSES_WITHIN_S, "a new request to be refused"))
        (record,) = running.result()
        try:
            process.wait_until_ended(clock)
        except DeadlineExceeded:
            deployment.frontend.kill()
        ended_after_s, exit_status = clock.elapsed_s, process.exit_status()
        back = Deadline(BACK_WITHIN_S, "the restarted frontend to serve")
        deployment.frontend.launch()

        served = ask_until(deployment, True, back)
        return Drained(record, new, exit_status, ended_after_s, served, back.elapsed_s)


@check(
    "M02-28",
    judged="SIGTERM in the middle: the stream completes, new requests are refused, the process ends with 0",
    evidence="measurement",
    by_hand="kill -TERM the frontend while curl -N reads a stream",
)
def test_shutdown_drains_a_running_stream(drained: Drained, measure: Measure):
    """After SIGTERM the frontend accepts no new request, finishes the running stream, and exits with 0."""
    measure("frontend_ended_after_s", drained.ended_after_s)
    assert drained.running.outcome == "completed", f"the running stream did not complete: {drained.running.describe()}"
    tokens = drained.running.answer.counted("completion_tokens")
    assert tokens == TOKENS, f"the running stream ended after {tokens} of {TOKENS} tokens"
    assert not drained.new.ok, f"{REFUSES_WITHIN_S} s after SIGTERM the frontend still serves new requests"
    assert drained.exit_status == 0, (
        f"expected exit status 0 of the frontend within {DRAINS_WITHIN_S} s of SIGTERM, after which it is killed; got "
        f"{drained.exit_status} after {drained.ended_after_s:.1f} s"
    )
    measure.judge()


@check(
    "M02-29",
    judged="seconds from its start to a served request",
    evidence="measurement",
    by_hand="start the frontend again; ask until it serves",
    causes=[18, 19],
)
def test_restarted_frontend_serves_again(drained: Drained, measure: Measure):
    """A frontend that is started again finds the workers that are registered and serves."""
    assert drained.back.ok, (
        f"the frontend did not serve within {BACK_WITHIN_S} s of its restart: {drained.back.describe()}"
    )
    measure("served_after_restart_s", drained.back_after_s)
    measure.judge()


@check(
    "M02-31",
    judged="SIGKILL of the worker in the middle: an error in the stream, soon, and no finish reason",
    evidence="measurement",
    by_hand="kill -KILL the worker while curl -N reads a stream",
    causes=[29],
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=1.0,<1.1",
    shows="the stream ended without an error in it",
    reason="A stream whose worker is killed breaks off without an error.",
)
def test_stream_whose_worker_dies_ends_in_an_error(run: Run, measure: Measure):
    """A stream whose worker is killed ends soon, with an error in it, and with no finish reason as if all were well."""
    with run.own_deployment("module_02.midstream") as deployment, Threads(1) as pool:
        running = start_stream(pool, run, deployment)
        clock = Deadline(STREAM_ENDS_WITHIN_S, "the stream to end")
        deployment.workers[0].kill()
        (record,) = running.result()
        measure("stream_ended_after_s", clock.elapsed_s)
    answer = record.answer
    assert answer.chunks, f"no chunk of the stream has come: {record.describe()}"
    assert "code" in (answer.error or ""), f"the stream ended without an error in it: {record.describe()}"
    assert not answer.finish_reasons, f"the stream of a dead worker has the finish reason {answer.finish_reasons}"
    measure.judge()
