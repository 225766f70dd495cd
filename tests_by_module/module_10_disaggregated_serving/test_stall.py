"""Decode stalls, for less and for longer than prefill keeps KV. Last of the module: its workers stay as made here."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from fixtures.answers.ask import ask, ask_all
from fixtures.answers.oracle import ANSWER_TOKENS, HEADERS, Oracle, longest_tokens
from fixtures.answers.oracle import oracle as make_oracle
from fixtures.answers.prompts import Prompt
from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, pause, wait_until
from fixtures.basics.errors import BringUpFailed
from fixtures.basics.evidence import Evidence
from fixtures.basics.measure import Measure
from fixtures.clients.answer import Answer
from fixtures.faults import Stopped, in_place
from fixtures.kv.lease import kv_lease
from fixtures.product.deployments.readiness import wait_until_serving
from fixtures.product.runtimes.model_files import ModelFiles
from fixtures.product.services.base import ServiceFailed
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run
from tests_by_module.module_10_disaggregated_serving.prefill_decode import OwnSides

pytestmark = [
    pytest.mark.needs("managed", why="breaks"),
    pytest.mark.needs("real_engine", "weights"),
    pytest.mark.destructive,
]

STALL_CHECK, SHORT_CHECK = "M10-12", "M10-14"
# vLLM's own is 30 s; prefill's cache has room for the longest prompt, which is so many of those that are sent here
LEASE_S, PROMPTS_IN_CACHE = 3, 12
# decode's process says nothing meanwhile, and must stay registered all the same
DECODE_LEASE_TTL_S = 120
# a pause of the node's, not an outage
SHORT_STALL_S = 3
GIVEN_BACK_WITHIN_S, SERVES_WITHIN_S, HUNG_AFTER_S = 60, 60, 120
LATE = "long"


def _restarted(sides: OwnSides, worker: Worker) -> None:
    """Raises AssertionError, DeadlineExceeded, ServiceFailed."""
    registered = sides.registered(worker)
    if worker.is_alive():
        worker.kill()
    worker.start(Deadline(worker.runtime.spec.settings.ready_within_s, f"{worker.name} to be ready again"))
    sides.wait_until_back(worker, registered)
    wait_until_serving(sides.deployment, Deadline(SERVES_WITHIN_S, "a first completion of both sides"))


@pytest.fixture(scope="module")
def patient(own_sides: OwnSides) -> OwnSides:
    """`sides`, of which decode stays registered while it says nothing. Raises BringUpFailed, NotOffered."""
    own_sides.counters.require("expired")
    own_sides.require_one_of_each()
    (decode,) = own_sides.decode
    decode.settings = decode.settings.but(lease_ttl_s=DECODE_LEASE_TTL_S)
    try:
        _restarted(own_sides, decode)
    except (AssertionError, DeadlineExceeded, ServiceFailed) as error:
        raise BringUpFailed(SHORT_CHECK, str(error)) from None
    return own_sides


@pytest.fixture(scope="module")
def third(run: Run, own_sides: OwnSides, files: ModelFiles) -> Oracle:
    """Prompts of which prefill's cache holds so many."""
    equipment = run.equipment()[own_sides.prefill[0].node.name]
    return make_oracle(equipment, run.seed, ("third",), longest_tokens(equipment, files) // PROMPTS_IN_CACHE)


def while_decode_stalls(
    sides: OwnSides, *crowds: Sequence[Prompt], pause_s: float = 0
) -> tuple[list[list[Answer]], int]:
    """What becomes of prompts that prefill has computed while decode is stopped, and how many leases expired.

    Each crowd is sent when prefill has computed the ones before it; decode goes on `pause_s` after the last. Raises
    AssertionError when prefill has no room for them, CouldNotLook where a side does not count what was lost.
    """
    sides.require_counters_of_losses()
    (prefill,), (decode,) = sides.prefill, sides.decode
    endpoint, before, sent, tokens = sides.deployment.endpoint, sides.counted()["prefill"], [], 0
    deadline = Deadline(GIVEN_BACK_WITHIN_S, "prefill to have room for all prompts")

    def computed() -> tuple[bool | None, object]:
        now = sides.count_of(prefill) - before
        return now.tokens >= tokens or None, f"{now.tokens:g} of {tokens} tokens, {now.expired:g} leases expired"

    with Threads(sum(map(len, crowds))) as pool:
        with in_place(Stopped(decode)):
            for crowd in crowds:
                sent.append(
                    [pool.submit(ask, endpoint, p, max_tokens=ANSWER_TOKENS, timeout_s=HUNG_AFTER_S) for p in crowd]
                )
                tokens += sum(len(prompt.ids) for prompt in crowd)
                try:
                    wait_until(computed, deadline, every_s=0.2)
                except deadline.Exceeded as error:
                    raise AssertionError(f"KV that nobody fetched is kept: {error}") from None
            pause(pause_s, "decode to be still")
        answers = [[each.result() for each in crowd] for crowd in sent]
    return answers, int((sides.count_of(prefill) - before).expired)


@check(
    "M10-14",
    judged="12 prompts computed by prefill while decode stands still for 3 s: answers are exact, no lease has "
    "expired, no transfer failed",
    evidence="table of answers",
    by_hand="kill -STOP decode for 3 s; its answers; prefill's log",
    causes=[37],
)
def test_a_stall_shorter_than_the_lease_loses_nothing(
    patient: OwnSides, third: Oracle, allowed: float, measure: Measure, evidence: Evidence
):
    """After decode stands still for a few seconds, the prefilled KV is still there and answers are right."""
    prompts, before = third.prompts["third"], patient.counted()
    [answers], expired = while_decode_stalls(patient, prompts, pause_s=SHORT_STALL_S)
    counted = patient.counted_since(before, sum(len(prompt.ids) for prompt in prompts))
    differences = third.differences("third", dict(zip((p.name for p in prompts), answers, strict=True)))
    evidence.table("answers", HEADERS, third.rows("third", differences))
    measure("leases_expired", expired, n=len(prompts))
    transfers = int(patient.moved(counted).nixl_count)
    measure("failed_transfers", sum(each.failed for each in counted.values()), n=transfers)
    measure("gap_of_allowed", differences.farthest / allowed, n=len(prompts))
    differences.require_whole()
    measure.judge()


@dataclass(frozen=True)
class Stall:
    """`late`: the answer to a prompt whose KV decode did not fetch in time. `others` took its place in the cache."""

    late: Answer
    others: Sequence[Answer]
    expired: int
    afterwards: dict[str, Answer]

    @property
    def hung(self) -> list[Answer]:
        return [each for each in (self.late, *self.others) if each.duration_s >= HUNG_AFTER_S]


@pytest.fixture(scope="module")
def stall(run: Run, own_sides: OwnSides, patient: OwnSides, files: ModelFiles, third: Oracle) -> Stall:
    """Raises BringUpFailed, also when prefill keeps KV that nobody fetches."""
    prompts = {prompt.name: prompt for prompt in third.prompts["third"]}
    late = prompts.pop(LATE)
    plain, length = files.tokenizer().plain_ids, len(late.ids)
    others = []
    for n in range(PROMPTS_IN_CACHE + 2):
        content = [plain[(7 * k + 31 * n + run.seed) % len(plain)] for k in range(length)]
        others.append(Prompt(f"other {n}", content, tuple(content)))
    # a short lease, and few blocks
    (prefill,) = own_sides.prefill
    block_size = prefill.runtime.spec.settings.block_size or 16
    longest = longest_tokens(run.equipment()[own_sides.prefill[0].node.name], files)
    few = ("--num-gpu-blocks-override", str(longest // block_size + 4))
    prefill.settings = prefill.settings.but(worker_args=(*few, *kv_lease(prefill, LEASE_S)))
    try:
        _restarted(own_sides, prefill)
        [[of_late], of_others], expired = while_decode_stalls(own_sides, [late], others)
        afterwards = ask_all(own_sides.deployment.endpoint, prompts.values(), max_tokens=ANSWER_TOKENS)
    except (AssertionError, DeadlineExceeded, ServiceFailed) as error:
        raise BringUpFailed(STALL_CHECK, str(error)) from None
    return Stall(of_late, of_others, expired, afterwards)


@check(
    "M10-12",
    judged="decode stalls (SIGSTOP) for longer than prefill keeps KV, cut to 3 s: prefill has room for more prompts "
    "than its cache holds, leases that expired are counted, nobody hangs, answers afterwards are exact",
    evidence="tables",
    by_hand="kill -STOP decode under load; vllm:nixl_num_kv_expired_reqs_total of prefill",
    causes=[37],
)
def test_kv_that_nobody_fetches_is_given_back(
    stall: Stall, third: Oracle, allowed: float, measure: Measure, evidence: Evidence
):
    """After decode stalls for longer than KV is kept, prefill has room again and later answers are right."""
    evidence.note("what became of the others", "\n".join(each.describe() for each in stall.others))
    differences = third.differences("third", stall.afterwards)
    evidence.table("answers afterwards", HEADERS, third.rows("third", differences))
    asked = 1 + len(stall.others)
    measure("leases_expired", stall.expired, n=asked)
    measure("hung_requests", len(stall.hung), n=asked)
    measure("gap_of_allowed_afterwards", differences.farthest / allowed, n=len(differences.compared))
    differences.require_whole()
    measure.judge()


@pytest.mark.needs("float32")
@check(
    "M10-13",
    judged="the prompt whose KV was given to others meanwhile is answered rightly, or with an error; in 16 bits the "
    "KV of others may look like rounding",
    evidence="note, table",
    by_hand="the prompt that waited, asked of an aggregated worker",
    causes=[34, 37],
)
@pytest.mark.known_defect(
    issue="vllm#21570",
    versions=">=1.4,<1.7",
    shows=r"gap_of_allowed = \d",
    reason="Decode answers with HTTP 200 from KV whose lease is over (vLLM 0.26 and 0.31). A longer "
    "kv_lease_duration avoids it.",
)
def test_decode_never_answers_from_expired_kv(
    stall: Stall, third: Oracle, allowed: float, measure: Measure, evidence: Evidence
):
    """Decode never answers from expired KV."""
    evidence.note("what the client saw", stall.late.describe())
    if stall.late.ok:
        differences = third.differences("third", {LATE: stall.late})
        evidence.table("the answer", HEADERS, third.rows("third", differences))
        measure("gap_of_allowed", differences.farthest / allowed)
        differences.require_whole()
    assert stall.expired, "no lease expired: nothing was shown"
    measure.judge()
