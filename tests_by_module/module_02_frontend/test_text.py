"""Whether what clients read is what was generated."""

from fixtures.answers.spelling import WAYS, ask_each_way, counted
from fixtures.basics.check import check
from fixtures.basics.errors import NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.clients.inference import InferenceEndpoint
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.managed import ManagedDeployment
from fixtures.run import Run

# in each of four ways: of all answers 1 wrong in 20 is missed in 1 run of 700, of chats alone in 1 of 26; of a
# deployment that others wait for, in 1 of 100 and 1 of 10
EACH, EACH_BESIDE_OTHERS = 32, 23


@check(
    "M02-48",
    judged="short chats and completions, streamed and whole, with their token ids: the text is what the model's "
    "tokenizer makes of them, and there are as many as were asked for",
    evidence="table of answers",
    by_hand='curl FRONTEND/v1/completions -d \'{…, "nvext": {"extra_fields": ["completion_token_ids"]}}\'',
    causes=[61],
)
def test_text_is_what_the_token_ids_say(
    run: Run, deployment: Deployment, endpoint: InferenceEndpoint, measure: Measure, evidence: Evidence
):
    """The text of each answer is what its token ids say."""
    tokenizer = deployment.tokenizer()
    each = EACH if isinstance(deployment, ManagedDeployment) else EACH_BESIDE_OTHERS
    answers = [it for it in ask_each_way(endpoint, run.seed, each) if not it.is_taken_apart]
    if not any(it.answer.token_ids for it in answers) and all(it.answer.ok for it in answers):
        raise NotOffered("no answer with text of its own has its token ids in it (nvext.completion_token_ids)")
    flaws = {it.number: flaw for it in answers if (flaw := it.flaw(tokenizer))}
    evidence.table("answers", ["way", "worker", "answers", "wrong"], counted(answers, set(flaws)))
    measure("answers_wrong", len(flaws), n=len(answers))
    Findings(flaws.values()).judge(about=f"{len(flaws)} of {len(answers)} answers in {len(WAYS)} ways")
