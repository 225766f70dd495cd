"""Requests that are wrong: refused as they should be, and nobody comes to harm."""

from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event

import httpx
import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Threads
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.printable import head
from fixtures.clients.inference import Answer, InferenceEndpoint, complete
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_02_frontend.bad_requests import (
    CHAT,
    JSON,
    BadRequest,
    ExpectedErrors,
    Reply,
    good_chat,
    plain_client,
    send,
)

GROUPS = ("syntax", "types", "values", "models", "transport", "accepted")
DEFECTS = {
    "values": pytest.mark.known_defect(
        issue="dynamo, not reported",
        versions=">=0.8.1,<1.4",
        shows="2 of 30 answers are not as known: max_tokens 0: no answer instead of 400: not sent",
        reason="A chat for no token ends the mocker's engine, and its worker answers nothing any more; one for 2^31 "
        "tokens is served. They are not sent.",
    )
}
STALLED = 16
# as a client behind a bad line sends: in pieces
PIECES, BETWEEN_PIECES_S = 5, 0.1


@dataclass(frozen=True)
class BadRequestsSent:
    """Replies by group, the processes before and after (name → process group), and a good request straight after."""

    replies: dict[str, list[Reply]]
    before: dict[str, object]
    after: dict[str, object]
    good: Answer


@pytest.fixture(scope="package")
def sent(
    deployment: Deployment, http: httpx.Client, errors: ExpectedErrors, endpoint: InferenceEndpoint
) -> BadRequestsSent:
    """Every wrong request of the table, one after the other."""
    before = who_is_there(deployment)
    replies = {
        group: [send(http, asked, endpoint.model) for asked in requests] for group, requests in errors.groups.items()
    }
    good = complete(endpoint, "after all this", max_tokens=2)
    return BadRequestsSent(replies, before, who_is_there(deployment), good)


def who_is_there(deployment: Deployment) -> dict[str, object]:
    """Process groups of what this run has started and that is alive, and ids of the workers that are registered."""
    alive = {s.name: s.require_process().pgid for s in deployment.services if s.is_alive()}
    return alive | {f"worker {worker.hex_id}": "registered" for worker in deployment.registered_workers()}


@check(
    "M02-17",
    judged="about 85 of them, status and message against `expected_errors.yaml`, in six groups",
    evidence="requests and answers",
    by_hand="curl -i FRONTEND/v1/chat/completions -d '{…}'",
    causes=[65],
)
@pytest.mark.parametrize("group", [pytest.param(each, marks=DEFECTS.get(each, ())) for each in GROUPS])
def test_wrong_requests_are_refused_as_known(
    group: str, sent: BadRequestsSent, errors: ExpectedErrors, evidence: Evidence
):
    """Each invalid request is answered with the status and error that the table of this version lists."""
    replies = sent.replies[group]
    evidence.table(
        f"wrong requests: {group}",
        ["request", "expected", "status", "answer"],
        [[reply.asked.name, reply.asked.status, reply.status, head(reply.text)] for reply in replies],
    )
    wrong = [reply.wrong for reply in replies if reply.wrong]
    Findings(wrong).judge(about=f"{len(wrong)} of {len(replies)} answers are not as known")


@check(
    "M02-18",
    judged="fields of every error's body; its code is the status",
    by_hand="curl -i FRONTEND/v1/chat/completions -d '{'",
)
@pytest.mark.known_defect(
    issue="dynamo, not reported",
    versions=">=0.8.1,<1.3",
    shows="no JSON: Failed to parse the request body as JSON",
    reason="A body that is not JSON is refused in plain text.",
)
def test_errors_have_one_form(sent: BadRequestsSent, errors: ExpectedErrors):
    """Every error body is JSON with this version's fields, and its code equals the HTTP status."""
    with_body = [r for group in sent.replies.values() for r in group if r.status >= 400 and r.asked.says]
    assert with_body, "no wrong request was refused with a body: nothing to look at"
    odd = [f"{r.asked.name}: {head(r.text)}" for r in with_body if not _formed(r, errors.error_fields)]
    Findings(odd).judge(
        about=f"{len(odd)} of {len(with_body)} errors are not of the form {errors.error_fields} with the status as code"
    )


def _formed(reply: Reply, fields: tuple[str, ...]) -> bool:
    try:
        body = httpx.Response(reply.status, text=reply.text).json()
    except ValueError:
        return False
    return isinstance(body, dict) and sorted(body) == sorted(fields) and body["code"] == reply.status


@check(
    "M02-19",
    judged="processes and registrations before and after; a good request straight afterwards",
    by_hand="ps -o pid,lstart,args before and after",
    causes=[65, 66],
)
def test_wrong_requests_end_no_process_or_registration(sent: BadRequestsSent):
    """After all invalid requests the same processes and registrations are there, and a valid request succeeds."""
    count = sum(len(group) for group in sent.replies.values())
    assert sent.before, "nothing was seen before: nothing to compare"
    gone = {name: sent.after.get(name, "gone") for name, was in sent.before.items() if sent.after.get(name) != was}
    assert not gone, f"after {count} wrong requests these are gone or were started again: {gone}"
    assert sent.good.ok, f"a good request right after {count} wrong ones fails: {sent.good.describe()}"


@check(
    "M02-20",
    judged="a body of exactly the limit is served, one byte more refused (blanks behind the JSON, which no worker "
    "sees: `M02-37` has large prompts)",
    by_hand="head -c 47185921 …; curl -i FRONTEND/v1/chat/completions -d @-",
    causes=[65],
)
@pytest.mark.needs("managed", why="settings")
def test_body_limit_is_where_it_should_be(http: httpx.Client, endpoint: InferenceEndpoint, errors: ExpectedErrors):
    """A body of exactly the size limit is accepted, and one byte more is refused."""
    good = BadRequest(name="good", status=200).content(endpoint.model)
    # spaces after the object are no part of what is asked
    statuses = [
        http.post(CHAT, content=good.ljust(errors.body_limit_bytes + more), headers=JSON).status_code for more in (0, 1)
    ]
    assert statuses == [200, errors.body_limit_status], (
        f"{errors.body_limit_bytes} bytes and one more: {statuses}, expected 200 and {errors.body_limit_status}"
    )


@check(
    "M02-21",
    judged="16 bodies stall: another request and one that comes in pieces are served; then they are, too",
    evidence="measurement",
    by_hand="send a header with content-length and then nothing; meanwhile ask for something",
)
def test_other_requests_are_served_while_bodies_are_unfinished(endpoint: InferenceEndpoint, measure: Measure):
    """While 16 request bodies stay unfinished, another request is served, and so is one whose body arrives slowly."""
    over = Event()
    body = httpx.Request("POST", endpoint.url, json=good_chat(endpoint.model)).content
    headers = {**JSON, "content-length": str(len(body))}

    def stalled():
        yield body[:10]
        over.wait()
        yield body[10:]

    def slow():
        size = len(body) // PIECES + 1
        for begin in range(0, len(body), size):
            over.wait(BETWEEN_PIECES_S)
            yield body[begin : begin + size]

    def post(content) -> int | str:
        try:
            with plain_client(endpoint.url, timeout_s=30) as client:
                return client.post(CHAT, content=content, headers=headers).status_code
        except httpx.HTTPError as error:
            return repr(error)

    with ExitStack() as stack:
        pool = stack.enter_context(Threads(STALLED))
        stack.callback(over.set)
        waiting = [pool.submit(post, stalled()) for _ in range(STALLED)]
        answer = complete(endpoint, "meanwhile", max_tokens=2, timeout_s=10)
        assert answer.ok, f"while {STALLED} bodies stalled another request got: {answer.describe()}"
        slowly = post(slow())
        early = [each.result() for each in waiting if each.done()]
        over.set()
        late = [each.result() for each in waiting]
    assert not early, f"{len(early)} stalled requests were answered before their bodies were there: {early}"
    measure("answered_beside_stalled_bodies_s", answer.duration_s)
    assert slowly == 200, f"while bodies stalled, one that came in {PIECES} pieces was answered with {slowly}"
    assert late == [200] * STALLED, f"the stalled requests, completed at last, were answered with {late}"
    measure.judge()
