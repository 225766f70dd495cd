"""Plants that spoil few of many answers, and those that only all answers together show."""

import json
import time
from contextvars import ContextVar
from itertools import count
from typing import Any

from aiohttp import web

from fixtures.plants.proxy import COMPLETIONS, CorruptingProxy, Events, Exchange

BURST_S = 0.4
AHEAD_S = 299
LONG_STREAM = 200  # tokens


def short_stream(asked: dict[str, Any]) -> bool:
    """One of a load with few tokens, each of which looks like the others."""
    ids = isinstance(asked.get("prompt"), list) and isinstance(asked["prompt"][0], int)
    return bool(ids and asked.get("stream") and asked.get("max_tokens", 0) < 10)


class FewSpoilt(CorruptingProxy):
    """One of so many answers of a kind, else short streams of loads, goes through `spoil`, streams chunk by chunk."""

    every = 25

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)
        # each answer is handled in a task of its own
        self._spoils: ContextVar[bool] = ContextVar("spoils", default=False)

    def status(self, exchange: Exchange, status: int) -> int:
        of_kind = status == 200 and self.of_kind(exchange)
        self._spoils.set(of_kind and next(self._numbers) % self.every == 0)
        return status

    def of_kind(self, exchange: Exchange) -> bool:
        return short_stream(exchange.asked)

    def body(self, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
        return self.spoil(body) if self._spoils.get() else body

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        return chunk


class NanInLogprobs(FewSpoilt):
    """A proxy in front of the frontend puts NaN into the log probabilities of 1 of 50 streams."""

    catches = {"M02-40": "it holds NaN, which is not JSON"}
    every = 50

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            choice["logprobs"] = {"token_logprobs": [float("nan")]}
        return chunk


class KeyTwice(FewSpoilt):
    """A proxy in front of the frontend writes a key of an object twice in 1 of 50 streams."""

    catches = {"M02-40": "the key 'id' is in one object twice"}
    every = 50

    async def stream(self, exchange: Exchange, events: Events) -> Events:
        async for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            yield text.replace('{"id"', '{"id": "", "id"', 1) if self._spoils.get() else text


class CreatedInMilliseconds(FewSpoilt):
    """A proxy in front of the frontend reports in 1 of 50 streams in milliseconds when it was created."""

    catches = {"M02-40": "created is"}
    every = 50

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        return chunk | {"created": 1000 * chunk["created"]}


class ClockAhead(CorruptingProxy):
    """A proxy in front of the frontend reports that each answer was created 299 s later."""

    catches = {"M02-40": "s ahead of that of its clients"}

    def body(self, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
        return body | {"created": body["created"] + AHEAD_S} if type(body.get("created")) is int else body


class PlainText(FewSpoilt):
    """A proxy in front of the frontend gives 1 of 25 streams the content type text/plain."""

    catches = {"M02-40": "content type is text/plain"}

    def headers(self, exchange: Exchange, headers: dict[str, str]) -> dict[str, str]:
        return headers | {"content-type": "text/plain"} if self._spoils.get() else headers


class ChoicesMisnumbered(FewSpoilt):
    """A proxy in front of the frontend begins to count choices with 1, in 1 of 25 streams."""

    catches = {"M02-40": "a choice has the index 1"}

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            choice["index"] += 1
        return chunk


class UsageOffByOne(FewSpoilt):
    """A proxy in front of the frontend reports a token more in all than there are, in 1 of 25 streams."""

    catches = {"M02-41": "tokens, and"}
    failures = (62,)

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        if chunk.get("usage"):
            chunk["usage"]["total_tokens"] += 1
        return chunk


class StopAtTheLimit(FewSpoilt):
    """A proxy in front of the frontend says stop where the limit ended 1 of 25 streams."""

    catches = {"M02-42": "its finish reason is stop"}

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            if choice.get("finish_reason"):
                choice["finish_reason"] = "stop"
        return chunk


class EndsTwice(FewSpoilt):
    """A proxy in front of the frontend sends the chunk with the finish reason twice, in 1 of 25 streams."""

    catches = {"M02-42": "has 2 finish reasons"}

    async def stream(self, exchange: Exchange, events: Events) -> Events:
        async for event in events:
            yield event
            choices = event["choices"] if isinstance(event, dict) and self._spoils.get() else []
            if any(choice.get("finish_reason") for choice in choices):
                yield event


class IdGivenTwice(FewSpoilt):
    """A proxy in front of the frontend gives 1 of 50 streams the id of one before."""

    catches = {"M02-43": "its id is that of answer"}
    every = 50

    def __init__(self) -> None:
        super().__init__()
        self.before: str | None = None

    def body(self, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
        if self.before is None and short_stream(exchange.asked):
            self.before = body["id"]
        return super().body(exchange, body)

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        return chunk | {"id": self.before}


class NotCounted(CorruptingProxy):
    """A proxy in front of the frontend answers 1 of 25 streams itself, so that the frontend counts none of them."""

    catches = {"M02-44": "it has counted"}
    every = 25

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)

    def answer_itself(self, exchange: Exchange) -> web.Response | None:
        asked = exchange.asked
        if not short_stream(asked) or (number := next(self._numbers)) % self.every:
            return None
        common = {"id": f"cmpl-of-a-proxy-{number}", "object": "text_completion", "model": asked["model"]}
        common |= {"created": int(time.time()), "usage": None}
        prompt, tokens = len(asked["prompt"]), asked["max_tokens"]
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        chunks = [common | {"choices": [{"text": " a", "index": 0}]} for _ in range(tokens)]
        chunks.append(common | {"choices": [{"text": "", "index": 0, "finish_reason": "length"}]})
        chunks.append(common | {"choices": [], "usage": usage})
        events = [*(json.dumps(each) for each in chunks), "[DONE]"]
        text = "".join(f"data: {each}\n\n" for each in events)
        return web.Response(text=text, headers={"content-type": "text/event-stream", "cache-control": "no-cache"})


class CountedTwice(CorruptingProxy):
    """A proxy in front of the frontend sends short streams twice, and passes the second answer on."""

    catches = {"M02-44": "it has counted"}

    async def received(self, request: web.Request) -> bytes:
        body = await request.read()
        self.times_sent = 2 if short_stream(Exchange(request.path, body).asked) else 1
        return body


class StreamsInBursts(CorruptingProxy):
    """A proxy in front of the frontend passes long streams on every 400 ms."""

    catches = {"M02-45": "chunks come in"}
    failures = (59,)

    async def stream(self, exchange: Exchange, events: Events) -> Events:
        asked = exchange.asked
        long = isinstance(asked.get("prompt"), str) and asked.get("max_tokens", 0) > LONG_STREAM
        held, since = [], time.monotonic()
        async for event in events:
            held.append(event)
            if not long or event == "[DONE]" or time.monotonic() - since > BURST_S:
                for each in held:
                    yield each
                held, since = [], time.monotonic()


class LastWordBlanked(FewSpoilt):
    """A proxy in front of the frontend blanks the last word of 1 of 20 chats that come whole."""

    catches = {"M02-48": "its token ids say"}
    failures = (61,)
    every = 20

    def of_kind(self, exchange: Exchange) -> bool:
        return exchange.path == COMPLETIONS[1] and not exchange.asked.get("stream")

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            said = choice["message"].get("content") or ""
            choice["message"]["content"] = said.rpartition(" ")[0]
        return chunk


class LetterChanged(FewSpoilt):
    """A proxy in front of the frontend changes one letter of 1 of 20 streams."""

    catches = {"M02-48": "its token ids say"}
    failures = (61,)
    every = 20

    def of_kind(self, exchange: Exchange) -> bool:
        return bool(exchange.asked.get("stream"))

    def spoil(self, chunk: dict[str, Any]) -> dict[str, Any]:
        for choice in chunk["choices"]:
            says, name = (choice["delta"], "content") if "delta" in choice else (choice, "text")
            if word := says.get(name):
                says[name] = word[:-1] + ("a" if word[-1] != "a" else "o")
                self._spoils.set(False)
        return chunk


NOT_PLANTED = {"M02-46": "It shows a known defect, and is red by itself."}
