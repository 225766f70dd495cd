"""Whether a frontend that others use as well counts each of our requests once: theirs have other lengths.

Each is sent alone and has a number of prompt tokens that hardly any other has. What the frontend's counters move by is
one such request a whole number of times, or others sent some meanwhile and nothing is said of it.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import astuple, dataclass, field

from fixtures.basics.deadline import Deadline, DeadlineExceeded, wait_until
from fixtures.basics.served import require_all_served
from fixtures.clients.answer import Answer
from fixtures.clients.inference import complete
from fixtures.load.plan import PlannedRequest, plan
from fixtures.product.deployments.deployment import NOT_QUIET, Deployment, proxied
from tests_by_module.module_02_frontend.counters import FRONTEND, INPUT_TOKENS, OUTPUT_LENGTHS, REQUESTS

# one in ten that runs twice is among 30 with 96 percent
REQUESTS_SENT, ENOUGH = 50, 30
PROMPT_TOKENS, OUTPUT_TOKENS = (301, 999), (3, 9)
# an answer is counted a moment after it came; then all that may take
COUNTED_WITHIN_S, WITHIN_S = 1, 40


@dataclass(frozen=True)
class Moved:
    """What a frontend has counted: requests that ended, and the tokens of all prompts and answers."""

    requests: float
    prompt_tokens: float
    output_tokens: float

    def since(self, before: Moved) -> Moved:
        return Moved(
            self.requests - before.requests,
            self.prompt_tokens - before.prompt_tokens,
            self.output_tokens - before.output_tokens,
        )

    def times(self, prompt_tokens: int, output_tokens: int) -> int | None:
        """How often a request of so many tokens makes all of this, where one that is cut off counts; None: not at all.

        >>> Moved(2, 200, 14).times(100, 7), Moved(2, 300, 14).times(100, 7)
        (2, None)
        """
        of_requests = self.prompt_tokens == self.requests * prompt_tokens
        least = min(self.requests, 1) * output_tokens
        fits = of_requests and least <= self.output_tokens <= self.requests * output_tokens
        return int(self.requests) if fits else None


@dataclass
class OneByOne:
    """Requests that were `sent`, and of these: counted `once`, not at all, or with `others` beside them. `more`: those
    that were counted several times, by their number, and how often. `rows`: what the frontend counted with each."""

    prompt_tokens: int
    output_tokens: int
    sent: int = 0
    once: int = 0
    never: int = 0
    others: int = 0
    more: dict[int, int] = field(default_factory=dict)
    rows: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, counted: Moved) -> None:
        """One more was sent, and so much was counted meanwhile: what is missing so far may come late."""
        self.sent += 1
        self.rows.append((self.sent, *astuple(counted)))
        times = counted.times(self.prompt_tokens, self.output_tokens)
        if times is None:
            self.others += 1
            return
        late = min(self.never, max(0, times - 1))
        self.never += (times == 0) - late
        self.once += late
        if times - late == 1:
            self.once += 1
        elif times:
            self.more[self.sent] = times - late

    @property
    def told(self) -> int:
        return self.once + len(self.more)

    def wrong(self, deployment: Deployment) -> list[str]:
        """A sentence, where some were counted several times."""
        if not self.more:
            return []
        number, times = next(iter(self.more.items()))
        way = f"through the proxy at {deployment.request_url} to" if proxied(deployment) else "to"
        return [
            f"{len(self.more)} of {self.told} requests that were sent once, {way} the frontend at "
            f"{deployment.frontend_url}, it has counted several times, request {number} {times} times: "
            f"it counted the {self.prompt_tokens} prompt tokens that each of them has as often, and nothing of others"
        ]

    def unseen(self, deployment: Deployment) -> str | None:
        """Why nothing can be said, with what was seen; None where enough of them could be seen."""
        if self.told >= ENOUGH:
            return None
        said = (
            "too few requests can be seen in what the frontend counts: of those that were sent one by one "
            f"{self.told} of {self.sent} at {deployment.frontend_url}, where {ENOUGH} are needed"
        )
        if self.never:
            said += f"; {self.never} did not come to it, so what stands at {deployment.request_url} asks others, too"
        if self.others:
            said += f"; with {self.others} it counted others. {NOT_QUIET.capitalize()}"
        return said


def moved(deployment: Deployment) -> Moved:
    """What the frontend has counted so far. Raises CouldNotLook."""
    now = deployment.frontend_metrics(FRONTEND)
    return Moved(*(now.total_or_zero(name) for name in (REQUESTS, INPUT_TOKENS, OUTPUT_LENGTHS)))


def send_one_by_one(deployment: Deployment, seed: int) -> OneByOne:
    """Requests one after the other, and how often the frontend has counted each. Raises CouldNotLook, NotOffered."""
    rng = random.Random(f"{seed} one by one")
    found = OneByOne(rng.randint(*PROMPT_TOKENS), rng.randint(*OUTPUT_TOKENS))
    prompts, outputs = (found.prompt_tokens, found.prompt_tokens), (found.output_tokens, found.output_tokens)
    within, before = Deadline(WITHIN_S, "requests that are sent one by one"), moved(deployment)
    for planned in plan(seed, REQUESTS_SENT, prompts, outputs):
        answer = _send(deployment, planned)
        require_all_served([answer])
        # as it is told: what stands before the frontend may change a prompt
        own = found.prompt_tokens, found.output_tokens = (
            answer.counted("prompt_tokens"),
            answer.counted("completion_tokens"),
        )
        now = _settled(deployment, before, own)
        found.add(now.since(before))
        before = now
        if within.expired:
            break
    return found


def _send(deployment: Deployment, planned: PlannedRequest) -> Answer:
    return complete(deployment.endpoint, [*planned.prompt], max_tokens=planned.max_tokens, ignore_eos=True)


def _settled(deployment: Deployment, before: Moved, own: tuple[int, int]) -> Moved:
    """What is counted when a request is, as many times as one likes; or at the deadline."""
    now = before

    def look() -> tuple[bool | None, object]:
        nonlocal now
        now = moved(deployment)
        return (True if now.since(before).times(*own) else None), now

    with suppress(DeadlineExceeded):  # then it went elsewhere, or others sent some
        wait_until(look, Deadline(COUNTED_WITHIN_S, "the frontend to count a request"))
    return now
