"""Whether a worker stands still now and then: all are asked all the time, so that what slows all alike is no one's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple

import httpx

from fixtures.basics.errors import CouldNotLook
from fixtures.clients import http
from fixtures.product.deployments.deployment import Deployment

EVERY_S = 0.15
ANSWERS_WITHIN_S = 5
# what is shorter is a scheduler's; the bound stands in thresholds.yaml
LEAST_S = 0.2
# the others answer within this, and one of them at least so often: this client ran meanwhile, and so did the machine
PROMPT_S, OFTEN_S = 0.1, 0.3


class Reply(NamedTuple):
    """When a worker was asked for /live (monotonic clock), and how long its answer took."""

    asked_s: float
    took_s: float

    @property
    def came_s(self) -> float:
        return self.asked_s + self.took_s


class Watch:
    """While inside, asks each worker of what `deployment` gives, None while none is up, on its system port."""

    def __init__(self, deployment: Callable[[], Deployment | None]) -> None:
        self.replies: dict[int, list[Reply]] = {}
        self._deployment = deployment
        self._ended = threading.Event()
        # none of them keeps an interrupted run from its end
        self._threads = [threading.Thread(target=self._watch, daemon=True)]

    def __enter__(self) -> Watch:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._ended.set()
        for each in self._threads:
            each.join(2 * ANSWERS_WITHIN_S)

    def watched_s(self, workers: Sequence[int]) -> float:
        """For how long all of these were asked."""
        replies = [self.replies.get(each, []) for each in workers]
        return min((each[-1].came_s - each[0].asked_s if each else 0.0) for each in replies)

    def _watch(self) -> None:
        while (deployment := self._deployment()) is None:
            if self._ended.wait(EVERY_S):
                return
        with suppress(CouldNotLook):
            workers = [each for each in deployment.registered_workers() if each.system_url]
            for each in workers:
                asked = each.instance_id, deployment.reach(f"{each.system_url}/live")
                thread = threading.Thread(target=self._ask, args=asked, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _ask(self, worker: int, url: str) -> None:
        replies = self.replies.setdefault(worker, [])
        with http.client(ANSWERS_WITHIN_S) as client:
            while not self._ended.wait(EVERY_S):
                asked_s = time.monotonic()
                try:
                    client.get(url)
                except httpx.TimeoutException:
                    pass  # it took that long at least
                except httpx.HTTPError:
                    continue  # it has ended, which others see
                replies.append(Reply(asked_s, time.monotonic() - asked_s))


def own_stalls_s(replies: Mapping[int, Sequence[Reply]], worker: int) -> list[float]:
    """How long the worker took to answer, each time it took long while the others answered promptly; longest first."""
    others = sorted(
        each.came_s
        for other, all_of_one in replies.items()
        for each in list(all_of_one)
        if other != worker and each.took_s < PROMPT_S
    )
    found = []
    for each in list(replies[worker]):
        if each.took_s < LEAST_S:
            continue
        prompt = [came_s for came_s in others if each.asked_s <= came_s <= each.came_s]
        if prompt and all(b - a < OFTEN_S for a, b in pairwise([each.asked_s, *prompt, each.came_s])):
            found.append(each.took_s)
    return sorted(found, reverse=True)
