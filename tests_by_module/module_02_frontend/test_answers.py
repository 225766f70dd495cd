"""Every answer of the whole run, whatever check asked for it: judged when it comes, and all together at the end."""

import pytest

from fixtures.answers.of_all import COUNTED, OfAll
from fixtures.basics.check import check
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.clients.inference import InferenceEndpoint, stream
from fixtures.clients.judge import FINISH, FORM, TOKENS
from fixtures.clients.ledger import BURSTS, IDS
from fixtures.load.from_here import run_load
from fixtures.load.plan import plan
from fixtures.product.deployments.deployment import Deployment, proxied
from fixtures.run import Run
from tests_by_module.module_02_frontend.one_by_one import send_one_by_one

pytestmark = pytest.mark.at_end

# what a part of the checks may not ask for: many like one another, and a long one with nothing at its side
LONG = "and so on, and so on"
# where that many answers came whole already, no more are asked for
ENOUGH = 400
MANY, PROMPT_TOKENS, OUTPUT_TOKENS, AT_ONCE, WITHIN_S = 64, (5, 50), (4, 9), 4, 60
LONG_TOKENS, LONG_S, MOST_TOKENS = 280, 1.3, 2000


@pytest.fixture(scope="package")
def answers(run: Run, endpoint: InferenceEndpoint) -> dict[str, OfAll]:
    """All answers that this process got, by what was looked at in them; with more of its own where they are few."""
    answers = run.answers()
    if answers.ledger.looked_at[FINISH] < ENOUGH:
        run_load(endpoint, plan(run.seed, MANY, PROMPT_TOKENS, OUTPUT_TOKENS), concurrency=AT_ONCE, within_s=WITHIN_S)
    took_s = stream(endpoint, LONG, max_tokens=LONG_TOKENS, ignore_eos=True, timeout_s=WITHIN_S).duration_s
    if took_s < LONG_S:  # of a fast engine: a shorter one has no room for several bursts
        tokens = min(MOST_TOKENS, round(LONG_TOKENS * LONG_S / took_s))
        stream(endpoint, LONG, max_tokens=tokens, ignore_eos=True, timeout_s=WITHIN_S)
    return answers.judged()


def judge(found: OfAll) -> None:
    """Raises FoundWrong; NotOffered when there was nothing to look at, of which nothing can be said."""
    __tracebackhide__ = True
    if not found.looked_at:
        raise NotOffered(f"no {found.what} came in this run: select checks that ask for some")
    Findings(found.findings).judge(about=found.about)


@check(
    "M02-40",
    judged="every answer of the run, streamed or whole, good or an error: strict JSON, content type, object, id, "
    "created, model, choices and indexes, roles, framing, `[DONE]`",
    evidence="how many answers were judged, by what",
    by_hand="curl -i FRONTEND/v1/completions -d '{…}' | python3 -m json.tool",
    causes=[60],
)
def test_every_answer_is_well_formed(answers: dict[str, OfAll], evidence: Evidence):
    """Every answer of the run is well formed, by itself and for what was asked."""
    rows = [[each.what, of, each.looked_at, each.wrong] for of, each in answers.items()]
    evidence.table("answers of the run", ["what", "judged for", "how many", "wrong"], rows)
    judge(answers[FORM])


@check(
    "M02-41",
    judged="every answer of the run: usage where it was asked for, whole numbers that add up; prompt tokens by the "
    "tokenizer of the inventory's model, or by the ids that were sent",
    by_hand="compare usage with what the model's tokenizer makes of the prompt",
    causes=[62],
)
def test_every_answer_counts_its_tokens(answers: dict[str, OfAll]):
    """The usage of every answer of the run is there, adds up, and counts the prompt as the model's tokenizer does."""
    judge(answers[TOKENS])


@check(
    "M02-42",
    judged="every choice of the run: one finish reason, at its end; `length` at exactly the limit, `stop` not where "
    "ends of text are ignored",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "max_tokens": 7, "ignore_eos": true}\'',
    causes=[62, 64],
)
def test_every_answer_ends_for_its_reason(answers: dict[str, OfAll]):
    """Every choice of every answer of the run has one finish reason, and it fits the tokens that were generated."""
    judge(answers[FINISH])


@check(
    "M02-43",
    judged="the ids of all answers of the run, of all its deployments",
    by_hand="curl FRONTEND/v1/completions -d '{…}' twice, and compare id",
)
def test_no_id_comes_twice(answers: dict[str, OfAll]):
    """No two answers of the run have the same id."""
    judge(answers[IDS])


@check(
    "M02-44",
    judged="`dynamo_frontend_requests_total` of each frontend that still runs against the answers that came from it; "
    "where others use the deployment, that it counted no fewer, and 50 requests once each, sent one by one with a "
    "number of prompt tokens of their own",
    evidence="where others use the deployment: table of what was counted with each of these",
    by_hand="curl FRONTEND/metrics | grep requests_total",
)
def test_frontends_counted_the_answers_that_came(
    answers: dict[str, OfAll], run: Run, deployment: Deployment, evidence: Evidence
):
    """Each frontend has counted as many good answers as came from it to the checks of the run."""
    found = answers[COUNTED]
    if not deployment.shared:
        judge(found)
        return
    Findings(found.findings).judge(about=found.about)
    behind_a_proxy = proxied(deployment)
    sent = send_one_by_one(deployment, run.seed)
    counted = ["requests counted", "prompt tokens", "output tokens"]
    evidence.table("requests that were sent one by one", ["request", *counted], sent.rows)
    Findings(sent.wrong(deployment)).judge()
    if (unseen := sent.unseen(deployment)) and (behind_a_proxy or not found.looked_at):
        raise NotOffered(unseen)


@check(
    "M02-45",
    judged="every stream of 20 chunks or more that came alone: whether its chunks come within 1 ms of each other, with "
    "pauses of 100 ms between",
    evidence="measurements",
    by_hand="curl -N FRONTEND/v1/completions -d '{…, \"stream\": true}' | ts -s %.s",
    causes=[59],
)
def test_no_stream_comes_in_bursts(answers: dict[str, OfAll], measure: Measure):
    """No stream of the run comes in bursts."""
    found = answers[BURSTS]
    if figures := found.figures:
        measure("chunks_together_percent", figures["chunks_together_percent"], n=found.looked_at)
        measure("longest_gap_of_median", figures["longest_gap_of_median"], n=found.looked_at)
        measure("gap_between_chunks_ms", figures["gap_between_chunks_ms"], n=found.looked_at)
    judge(found)
