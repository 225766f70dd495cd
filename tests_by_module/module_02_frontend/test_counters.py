"""What the frontend counts, against what was really sent."""

from collections.abc import Callable

import httpx

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.served import require_all_served
from fixtures.clients.inference import Answer, InferenceEndpoint, complete, stream
from fixtures.load.from_here import COMPLETED, run_load
from fixtures.load.plan import plan
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import CHAT, good_chat
from tests_by_module.module_02_frontend.counters import (
    BETWEEN_TOKENS,
    DURATION,
    DURATIONS,
    FIRST_TOKEN,
    FIRST_TOKENS,
    INPUT_TOKENS,
    OUTPUT_LENGTHS,
    OUTPUT_TOKENS,
    REQUESTS,
    STARTED,
    Snapshot,
    idle,
    idle_at_first,
    require_alone,
    snapshot,
    wait_for,
)

MESSAGES = [{"role": "user", "content": "count this"}]
TEXT = "count this"
TOKENS = 6
COUNTED_WITHIN_S = 5
# (what is sent, the frontend's labels of it, how often)
LOAD: dict[str, tuple[Callable[..., Answer], str | list[dict[str, str]], dict[str, str], int]] = {
    "whole chats": (complete, MESSAGES, {"endpoint": "chat_completions", "request_type": "unary"}, 3),
    "streamed chats": (stream, MESSAGES, {"endpoint": "chat_completions", "request_type": "stream"}, 2),
    "whole completions": (complete, TEXT, {"endpoint": "completions", "request_type": "unary"}, 4),
    "streamed completions": (stream, TEXT, {"endpoint": "completions", "request_type": "stream"}, 2),
}
UNKNOWN, WRONG = 2, 3
# one after the other, so that nobody waits on our side; long enough for 100 ms to a first token
TIMED, TIMED_PROMPT, TIMED_TOKENS, TIMED_WITHIN_S = 12, (1000, 4000), (10, 40), 30


@check(
    "M02-25",
    judged="requests by endpoint, type, outcome and error, tokens, durations, first tokens; lengths in the "
    "histograms; the workers' sum",
    evidence="counters expected and found",
    by_hand="curl FRONTEND/metrics before and after a known number of requests",
)
def test_counters_move_by_what_was_sent(
    deployment: Deployment, http: httpx.Client, endpoint: InferenceEndpoint, evidence: Evidence
):
    """Every counter moves by exactly the known load, by kind, outcome and tokens; by no less where others send, too."""
    # nobody waits for others to be done: they only add to what is counted
    before = snapshot(deployment) if deployment.shared else wait_for(deployment, idle, COUNTED_WITHIN_S)
    counting_workers = bool(before.workers) or not deployment.shared
    expected: dict[tuple[str, tuple], float] = {}
    answers = []
    for send, prompt, labels, times in LOAD.values():
        answers += [send(endpoint, prompt, max_tokens=TOKENS, ignore_eos=True) for _ in range(times)]
        for name, more in ((STARTED, {}), (REQUESTS, {"status": "success", "error_type": ""})):
            expected[name, tuple((labels | more).items())] = times
    for _ in range(UNKNOWN):
        http.post(CHAT, json=good_chat("no-such-model"))
    for _ in range(WRONG):
        http.post(CHAT, json=good_chat(endpoint.model) | {"temperature": 5})
    require_all_served(answers)
    served = len(answers)
    unary_chat = ("endpoint", "chat_completions"), ("request_type", "unary")
    expected[STARTED, unary_chat] += UNKNOWN + WRONG
    expected[REQUESTS, (("status", "error"), ("error_type", "not_found"))] = UNKNOWN
    expected[REQUESTS, (("status", "error"), ("error_type", "validation"))] = WRONG
    expected |= {
        (DURATIONS, ()): served + UNKNOWN + WRONG,
        (FIRST_TOKENS, ()): served,
        (OUTPUT_TOKENS, ()): served * TOKENS,
        (OUTPUT_LENGTHS, ()): served * TOKENS,
    }
    expected[INPUT_TOKENS, ()] = sum(answer.counted("prompt_tokens") for answer in answers)
    expected = {key: number for key, number in expected.items() if before.counts(key[0])}

    def moved(now: Snapshot) -> dict[tuple[str, tuple], float]:
        return {
            (name, labels): now.count(name, **dict(labels)) - before.count(name, **dict(labels))
            for name, labels in expected
        }

    def all_counted(now: Snapshot) -> bool:
        return all(moved(now)[key] >= number for key, number in expected.items()) and (
            worker(now) >= served or not counting_workers
        )

    def worker(now: Snapshot) -> float:
        return now.worker_requests - before.worker_requests

    after = wait_for(deployment, all_counted, COUNTED_WITHIN_S)
    rows: list[tuple[str, str, float, float]] = [
        (name, _text(labels), expected[name, labels], number) for (name, labels), number in moved(after).items()
    ]
    if counting_workers:
        rows.append(("requests of all workers", "", served, worker(after)))
    evidence.table("counters", ["counter", "labels", "expected", "moved by"], rows)
    wrong = [
        f"{name}{{{labels}}} moved by {number:g}, not {want:g}"
        for name, labels, want, number in rows
        if deployment.is_off(number, want)
    ]
    Findings(wrong).judge(about=f"over {served} good and {UNKNOWN + WRONG} refused requests")


@check(
    "M02-36",
    judged="12 streams: sums of tokens equal; sums of durations, first tokens and gaps between tokens against the "
    "client's clock",
    evidence="measurements",
    by_hand="time curl -N FRONTEND/v1/completions -d '{…}'; curl FRONTEND/metrics",
    causes=[62],
)
def test_histograms_hold_what_clients_measured(run: Run, deployment: Deployment, measure: Measure):
    """The histograms' sums of tokens equal the known load, and their sums of seconds match the client's clock."""
    before = idle_at_first(deployment, COUNTED_WITHIN_S)
    requests = plan(run.seed, TIMED, TIMED_PROMPT, TIMED_TOKENS)
    records = run_load(deployment.endpoint, requests, concurrency=1, within_s=TIMED_WITHIN_S)
    broken = [record.describe() for record in records if record.outcome != COMPLETED]
    assert not broken, f"{len(broken)} of {TIMED} streams did not complete: {broken[0]}"
    after = wait_for(deployment, lambda now: now.count(DURATIONS) - before.count(DURATIONS) >= TIMED, COUNTED_WITHIN_S)

    require_alone(deployment, before, after, TIMED)

    def moved(name: str) -> float:
        return after.count(name) - before.count(name)

    expected = {
        DURATIONS: TIMED,
        FIRST_TOKENS: TIMED,
        INPUT_TOKENS: sum(len(each.prompt) for each in requests),
        OUTPUT_LENGTHS: sum(each.max_tokens for each in requests),
        f"{BETWEEN_TOKENS}_count": sum(each.max_tokens - 1 for each in requests),
    }
    wrong = [f"{name} moved by {moved(name):g}, not {want}" for name, want in expected.items() if moved(name) != want]
    Findings(wrong).judge(about=f"over {TIMED} streams")
    measured_s = {DURATION: 0.0, FIRST_TOKEN: 0.0, BETWEEN_TOKENS: 0.0}
    for answer in (record.answer for record in records):
        tokens_at = [at for at, chunk in zip(answer.chunk_times_s, answer.chunks, strict=True) if chunk["choices"]]
        # what a busy client needs until its request is with the kernel is no time of the frontend's
        measured_s[DURATION] += answer.duration_s - (answer.written_s or 0.0)
        measured_s[FIRST_TOKEN] += tokens_at[0] - (answer.written_s or 0.0)
        measured_s[BETWEEN_TOKENS] += tokens_at[-1] - tokens_at[0]
    assert measured_s[BETWEEN_TOKENS] > 0, f"the tokens of each of {TIMED} streams came all at once"

    def percent(name: str) -> float:
        return 100 * moved(f"{name}_sum") / measured_s[name]

    measure("durations_counted_percent_of_clients", percent(DURATION), n=TIMED)
    measure("first_tokens_counted_percent_of_clients", percent(FIRST_TOKEN), n=TIMED)
    measure("between_tokens_counted_percent_of_clients", percent(BETWEEN_TOKENS), n=TIMED)
    measure.judge()


def _text(labels: tuple) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in labels)
