"""Decode stalls for longer than prefill keeps KV for it. Last of the module: its workers stay as they are made here."""

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from fixtures.clients.answer import Answer
from fixtures.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.deployments.deployment import in_parallel
from fixtures.faults import Stopped, in_place
from fixtures.oracle.ask import ask, ask_all
from fixtures.oracle.prompts import Prompt
from fixtures.outcomes import BringUpFailed
from fixtures.run import Run
from fixtures.services.base import ServiceFailed
from fixtures.services.dynamo import Worker
from fixtures.serving.exact import ANSWER_TOKENS, HEADERS, Oracle, longest_tokens
from fixtures.serving.exact import oracle as make_oracle
from fixtures.serving.model_files import ModelFiles
from tests_by_module.module_10_disaggregated_serving.sides import Sides

pytestmark = [pytest.mark.needs("managed"), pytest.mark.needs("real_engine"), pytest.mark.destructive]

STALL_CHECK = "M10-12"
# vLLM's own is 30 s; prefill's cache has room for the longest prompt, which is so many of those that are sent here
LEASE_S, PROMPTS_IN_CACHE = 3, 12
# decode's process says nothing meanwhile, and must stay registered all the same
DECODE_LEASE_TTL_S = 120
GIVEN_BACK_WITHIN_S, SERVES_WITHIN_S, HUNG_AFTER_S = 60, 60, 120
LATE = "long"


@dataclass(frozen=True)
class Stall:
    """`late`: the answer to a prompt whose KV decode did not fetch in time. `others` took its place in the cache."""

    oracle: Oracle
    late: Answer
    others: Sequence[Answer]
    expired: int
    afterwards: dict[str, Answer]

    @property
    def hung(self) -> list[Answer]:
        return [each for each in (self.late, *self.others) if each.duration_s >= HUNG_AFTER_S]


@pytest.fixture(scope="module")
def stall(run: Run, sides: Sides, files: ModelFiles) -> Stall:
    """Raises BringUpFailed, also when prefill keeps KV that nobody fetches."""
    try:
        return _stall(run, sides, files)
    except (AssertionError, DeadlineExceeded, ServiceFailed) as error:
        raise BringUpFailed(STALL_CHECK, str(error)) from None


def _stall(run: Run, sides: Sides, files: ModelFiles) -> Stall:
    equipment = run.equipment()[sides.prefill.node.name]
    longest = longest_tokens(equipment, files)
    oracle = make_oracle(equipment, run.seed, ("third",), longest // PROMPTS_IN_CACHE)
    prompts = {prompt.name: prompt for prompt in oracle.prompts["third"]}
    late = prompts.pop(LATE)
    plain = files.tokenizer().plain_ids
    others = [
        Prompt(f"other {n}", [plain[(7 * k + 31 * n + run.seed) % len(plain)] for k in range(len(late.ids))], ())
        for n in range(PROMPTS_IN_CACHE + 2)
    ]
    _restart(sides, longest)
    endpoint = sides.deployment.endpoint
    before = sides.counted()["prefill"]

    def sent(prompt: Prompt) -> Future[Answer]:
        return pool.submit(ask, endpoint, prompt, max_tokens=ANSWER_TOKENS, timeout_s=HUNG_AFTER_S)

    def computed(tokens: int) -> None:
        def look() -> tuple[bool | None, object]:
            now = sides.count_of(sides.prefill) - before
            return now.tokens >= tokens or None, f"{now.tokens:g} of {tokens} tokens, {now.expired:g} leases expired"

        deadline = Deadline(GIVEN_BACK_WITHIN_S, "prefill to have room for more prompts than its cache holds")
        try:
            wait_until(look, deadline, every_s=0.2)
        except deadline.Exceeded as error:
            raise AssertionError(f"KV that nobody fetched is kept: {error}") from None

    with ThreadPoolExecutor(len(others) + 1) as pool:
        with in_place(Stopped(sides.decode)):
            waiting = sent(late)
            computed(len(late.ids))
            crowd = [sent(each) for each in others]
            computed(len(late.ids) * (1 + len(others)))
        answers = waiting.result(), [each.result() for each in crowd]
    expired = int((sides.count_of(sides.prefill) - before).expired)
    return Stall(oracle, *answers, expired, ask_all(endpoint, prompts.values(), max_tokens=ANSWER_TOKENS))


def _restart(sides: Sides, longest: int) -> None:
    """Prefill with a short lease and few blocks, decode with a long registration."""
    shared = sides.deployment.settings
    block_size = sides.prefill.runtime.spec.settings.block_size or 16
    words = sides.prefill.argv()
    transfer = json.loads(words[words.index("--kv-transfer-config") + 1])
    transfer["kv_connector_extra_config"] = {"kv_lease_duration": LEASE_S}
    few = ("--num-gpu-blocks-override", str(longest // block_size + 4))
    # of two, the later one counts
    sides.prefill.settings = shared.but(
        extra_env=sides.prefill.settings.extra_env,
        worker_args=(*few, "--kv-transfer-config", json.dumps(transfer)),
    )
    sides.decode.settings = sides.decode.settings.but(lease_ttl_s=DECODE_LEASE_TTL_S)

    def again(worker: Worker) -> None:
        registered = sides.registered(worker)
        if worker.is_alive():
            worker.kill()
        worker.start(Deadline(worker.runtime.spec.settings.ready_within_s, f"{worker.name} to be ready again"))
        sides.wait_until_back(worker, registered)

    in_parallel(again, list(sides.both.values()))
    sides.deployment.wait_until_serving(Deadline(SERVES_WITHIN_S, "a first completion of both sides"))


@pytest.mark.check(
    "M10-12", by_hand="kill -STOP decode under load; vllm:nixl_num_kv_expired_reqs_total of prefill", causes=[37]
)
def test_kv_that_nobody_fetches_is_given_back(stall: Stall, measure, evidence):
    """Decode stalls for longer than KV is kept: prefill has room for others, none hangs, later answers are right."""
    evidence.note("what became of the others", "\n".join(each.describe() for each in stall.others))
    differences = stall.oracle.differences("third", stall.afterwards)
    evidence.table("answers afterwards", HEADERS, stall.oracle.rows("third", differences))
    asked = 1 + len(stall.others)
    measure("leases_expired", stall.expired, n=asked)
    measure("hung_requests", len(stall.hung), n=asked)
    measure("margin_nats_afterwards", differences.margin_nats, n=len(differences.compared))
    measure.judge()


@pytest.mark.check("M10-13", by_hand="the prompt that waited, asked of an aggregated worker", causes=[34, 37])
@pytest.mark.known_defect(
    issue="vllm#21570",
    versions=">=1.6,<1.7",
    reason="decode fetches KV whose lease is over (vLLM 0.31), also when it was given to others, and answers 200 from "
    "it; prefill writes into its log at most. A kv_lease_duration longer than any wait for decode keeps the KV",
)
def test_an_answer_from_expired_kv_is_none(stall: Stall, measure, evidence):
    """A prompt whose KV was given to others meanwhile is answered rightly or with an error, and never wrongly."""
    evidence.note("what the client saw", stall.late.describe())
    if stall.late.ok:
        differences = stall.oracle.differences("third", {LATE: stall.late})
        evidence.table("the answer", HEADERS, stall.oracle.rows("third", differences))
        measure("margin_nats", differences.margin_nats)
        measure("logprob_error_nats", differences.logprob_error_nats)
    assert stall.expired, "no lease expired: nothing was shown"
    measure.judge()
