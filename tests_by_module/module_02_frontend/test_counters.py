"""What the frontend counts, against what was really sent."""

import httpx
import pytest

from fixtures.clients.inference import InferenceEndpoint, complete, stream
from fixtures.deployments.deployment import Deployment
from tests_by_module.module_02_frontend.bad_requests import CHAT, good_chat
from tests_by_module.module_02_frontend.counters import (
    DURATIONS,
    FIRST_TOKENS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    REQUESTS,
    STARTED,
    Snapshot,
    idle,
    wait_for,
)

MESSAGES = [{"role": "user", "content": "count this"}]
TEXT = "count this"
TOKENS = 6
COUNTED_WITHIN_S = 5
# (what is sent, the frontend's labels of it, how often)
LOAD = {
    "whole chats": (complete, MESSAGES, {"endpoint": "chat_completions", "request_type": "unary"}, 3),
    "streamed chats": (stream, MESSAGES, {"endpoint": "chat_completions", "request_type": "stream"}, 2),
    "whole completions": (complete, TEXT, {"endpoint": "completions", "request_type": "unary"}, 4),
    "streamed completions": (stream, TEXT, {"endpoint": "completions", "request_type": "stream"}, 2),
}
UNKNOWN, WRONG = 2, 3


@pytest.mark.check("M02-25", by_hand="curl FRONTEND/metrics before and after a known number of requests")
@pytest.mark.needs("managed")
def test_counters_move_by_what_was_sent(
    deployment: Deployment, http: httpx.Client, endpoint: InferenceEndpoint, evidence
):
    """Each counter of frontend and workers moves by exactly what a known load was, by kind, outcome and tokens."""
    before = wait_for(deployment, idle, COUNTED_WITHIN_S)
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
    failed = [answer.describe() for answer in answers if not answer.ok]
    assert not failed, f"{len(failed)} of {len(answers)} requests failed: {failed[0]}"
    served = len(answers)
    unary_chat = ("endpoint", "chat_completions"), ("request_type", "unary")
    expected[STARTED, unary_chat] += UNKNOWN + WRONG
    expected[REQUESTS, (("status", "error"), ("error_type", "not_found"))] = UNKNOWN
    expected[REQUESTS, (("status", "error"), ("error_type", "validation"))] = WRONG
    expected |= {
        (DURATIONS, ()): served + UNKNOWN + WRONG,
        (FIRST_TOKENS, ()): served,
        (OUTPUT_TOKENS, ()): served * TOKENS,
    }
    expected[INPUT_TOKENS, ()] = sum(answer.usage["prompt_tokens"] for answer in answers)

    def moved(now: Snapshot) -> dict[tuple[str, tuple], float]:
        return {
            (name, labels): now.count(name, **dict(labels)) - before.count(name, **dict(labels))
            for name, labels in expected
        }

    def all_counted(now: Snapshot) -> bool:
        return all(moved(now)[key] >= number for key, number in expected.items()) and worker(now) >= served

    def worker(now: Snapshot) -> float:
        return now.worker_requests - before.worker_requests

    after = wait_for(deployment, all_counted, COUNTED_WITHIN_S)
    rows = [[name, _text(labels), expected[name, labels], number] for (name, labels), number in moved(after).items()]
    rows.append(["requests of all workers", "", served, worker(after)])
    evidence.table("counters", ["counter", "labels", "expected", "moved by"], rows)
    wrong = [
        f"{name}{{{labels}}} moved by {number:g}, not {want:g}" for name, labels, want, number in rows if number != want
    ]
    assert not wrong, f"over {served} good and {UNKNOWN + WRONG} refused requests " + "; ".join(wrong)


def _text(labels: tuple) -> str:
    return ", ".join(f'{name}="{value}"' for name, value in labels)
