"""Prefill and decode of two versions: what becomes of each request, on a deployment that need not serve any."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pytest

from fixtures.answers.ask import answered, ask
from fixtures.answers.compare import Tolerance, compare, most_allowed
from fixtures.answers.oracle import ANSWER_TOKENS, AT_ONCE, Oracle
from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline, DeadlineExceeded, Threads, wait_until
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.causes.table import misfit_in
from fixtures.clients.answer import Answer
from fixtures.clients.inference import complete, listed_models
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.product.deployments.placement import disaggregated
from fixtures.run import Run
from tests_by_module.module_10_disaggregated_serving.prefill_decode import OwnSides
from tests_by_module.module_10_disaggregated_serving.starting import started_sides

# for which a client waits: an error that comes later is a hang
ENDS_WITHIN_S = 60
# from registration until the frontend sends requests on, and from an error until its reason is in a log
FOUND_WITHIN_S, LOGGED_WITHIN_S = 30, 10
NOT_YET = (404, 503)


@dataclass(frozen=True)
class Ends:
    """How requests ended, in words by prompt: rightly, with an error, or in another way."""

    right: dict[str, str]
    refused: dict[str, str]
    wrong: dict[str, str]


def ends_of(answers: Mapping[str, Answer], oracle: Oracle) -> Ends:
    """Each answer against the reference's; of an error only that it is one."""
    allowed = most_allowed(oracle.dtype)
    ends = Ends({}, {}, {})
    for name, answer in answers.items():
        if not answer.ok and answer.status >= 400:
            ends.refused[name] = answer.describe()
        elif not answer.ok:
            ends.wrong[name] = f"neither tokens nor an error within {ENDS_WITHIN_S} s: {answer.describe()}"
        elif len(answer.way_ids) < 2:
            ends.wrong[name] = "answered by one worker: prefill and decode had nothing to do with one another"
        else:
            found = compare(name, oracle.steps["first"][name], answered(name, answer), Tolerance(allowed, allowed))
            (ends.right if found.verdict in ("equal", "rounding") else ends.wrong)[name] = found.describe()
    return ends


def wait_until_found(deployment: ManagedDeployment) -> None:
    """Until a request passes both sides, or one of them refuses it. One that never does is for the check to see."""
    endpoint, deadline = deployment.endpoint, Deadline(FOUND_WITHIN_S, "the frontend to know both sides")

    def look() -> tuple[bool | None, object]:
        if not deployment.is_listed(listed_models(endpoint)):
            return None, "the model is not listed"
        answer = complete(endpoint, "ready?", max_tokens=1, timeout_s=max(1.0, deadline.remaining_s))
        found = len(answer.way_ids) == 2 or (answer.status >= 400 and answer.status not in NOT_YET)
        return found or None, answer.describe()

    with suppress(DeadlineExceeded):
        wait_until(look, deadline)


def reason_for(sides: OwnSides, refused: Mapping[str, str]) -> str | None:
    """What does not fit, as an error or the log of a worker says it."""

    def look() -> tuple[str | None, object]:
        told = {"an error": "\n".join(refused.values())}
        told |= {name: worker.log() for name, worker in sides.workers.items()}
        return next((found for who, text in told.items() if (found := misfit_in(text, who))), None), "nothing"

    with suppress(DeadlineExceeded):
        return wait_until(look, Deadline(LOGGED_WITHIN_S, "a reason in a log"))
    return None


@check(
    "M10-18",
    judged="12 greedy prompts, four at once, to a deployment that need not serve: each is answered by prefill and "
    "decode together, no further from transformers than a server may be (`tolerance.yaml`), or refused with an error "
    "within 60 s, and then an error or a worker's log says what does not fit (`misfit` in "
    "`fixtures/causes/causes.yaml`)",
    evidence="table of answers, the reason",
    by_hand="start workers of two versions; send a prompt; grep 'hash mismatch' in the log of decode",
    causes=[33, 54],
)
@pytest.mark.needs("managed", "real_engine", "weights", "two_versions", why="settings")
def test_two_versions_answer_rightly_or_say_what_does_not_fit(run: Run, oracle: Oracle, evidence: Evidence):
    """Prefill and decode of two versions give right tokens, or an error and its reason; none hangs."""
    placed, prompts = disaggregated(run.inventory.nodes), oracle.prompts["first"]
    with started_sides(run, "module_10.versions", placed, "M10-18", serving=False) as sides:
        wait_until_found(sides.deployment)
        one = partial(ask, sides.deployment.endpoint, max_tokens=ANSWER_TOKENS, timeout_s=ENDS_WITHIN_S)
        with Threads(AT_ONCE) as pool:
            answers = dict(zip((each.name for each in prompts), pool.map(one, prompts), strict=True))
        ends = ends_of(answers, oracle)
        reason = reason_for(sides, ends.refused) if ends.refused else None
    if not answers:
        raise CouldNotLook("no prompt was sent")
    evidence.table(
        "answers",
        ["prompt", "end", "s", "answer"],
        [
            [name, kind, f"{answers[name].duration_s:.2f}", told]
            for kind, those in (("right", ends.right), ("error", ends.refused), ("wrong", ends.wrong))
            for name, told in those.items()
        ],
    )
    evidence.text("the reason", reason or "none is given")
    wrong = Findings(f"{name}: {told}" for name, told in ends.wrong.items())
    if ends.refused and not reason:
        count, first = f"{len(ends.refused)} of {len(answers)}", next(iter(ends.refused.values()))
        wrong.add(f"{count} requests are refused, and nothing says what does not fit: {first}")
    wrong.judge()
