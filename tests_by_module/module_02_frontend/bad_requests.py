"""Requests that are wrong, and what came back: sent once for the whole module, judged by its checks."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fixtures.basics.printable import head
from fixtures.basics.versioned_table import entry_for
from fixtures.clients import http

HERE = Path(__file__).parent
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
NEST = "[" * 1000 + "]" * 1000
ANSWERED_WITHIN_S = 20


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BadRequest(Frozen):
    """One entry of expected_errors.yaml; its words are explained there."""

    name: str
    status: int
    says: str = ""
    method: str = "POST"
    path: str = CHAT
    headers: dict[str, str] = JSON
    changes: dict[str, Any] = Field({}, alias="with")
    without: tuple[str, ...] = ()
    text: str | None = None
    hex: str | None = None
    not_sent: str = ""

    def content(self, model: str) -> bytes:
        if self.hex is not None:
            return bytes.fromhex(self.hex).replace(b"MODEL", model.encode())
        if self.text is not None:
            return self.text.replace("MODEL", model).replace("NEST", NEST).encode()
        body = good_chat(model) | self.changes
        return json.dumps({name: value for name, value in body.items() if name not in self.without}).encode()


class TokenBudget(Frozen):
    """A budget as engines write it into their model `card`, and how a request beyond it is refused."""

    card: dict[str, Any]
    status: int
    says: str


class LargePrompt(Frozen):
    """One prompt in two forms: so many token ids, or a text of about so many tokens."""

    token_ids: int
    text_tokens: int


class Refusal(Frozen):
    """`reason`: words that the log of the frontend or of a worker has then."""

    status: int
    reason: str


class LargePrompts(Frozen):
    """A prompt that every request plane carries, one that is too large, and how each plane's deployment refuses that.

    `kv_blocks` of the worker have room for the first, and not for the second.
    """

    kv_blocks: int
    served: LargePrompt
    refused: LargePrompt
    refusals: dict[str, Refusal]


class Otherwise(Frozen):
    """What a range of versions answers to the request `name` of the groups, or why it is never asked."""

    name: str
    status: int
    says: str = ""
    not_sent: str = ""


class ExpectedErrors(Frozen):
    versions: str
    source: str
    error_fields: tuple[str, ...]
    groups: dict[str, tuple[BadRequest, ...]]
    otherwise: tuple[Otherwise, ...] = ()
    body_limit_bytes: int
    body_limit_status: int
    token_budget: TokenBudget | None
    large_prompts: LargePrompts

    @model_validator(mode="after")
    def _as_this_range_answers(self) -> Self:
        changes = {each.name: each.model_dump() for each in self.otherwise}
        known = {each.name for requests in self.groups.values() for each in requests}
        if unknown := sorted(changes.keys() - known):
            raise ValueError(f"{self.versions}: otherwise names no request of the groups: {', '.join(unknown)}")
        groups = {
            group: tuple(each.model_copy(update=changes.get(each.name, {})) for each in requests)
            for group, requests in self.groups.items()
        }
        return self.model_copy(update={"groups": groups})


@dataclass(frozen=True)
class Reply:
    """What a wrong request gave; status 0 when nothing came, with the reason as text."""

    asked: BadRequest
    status: int
    text: str

    @property
    def wrong(self) -> str | None:
        """How it differs from what is expected, in words; None when it does not."""
        if self.status != self.asked.status:
            return f"{self.asked.name}: {self.status or 'no answer'} instead of {self.asked.status}: {head(self.text)}"
        if self.asked.says and self.asked.says not in self.text:
            return f"{self.asked.name}: the error does not say {self.asked.says!r}: {head(self.text)}"
        return None


def good_chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 1}


def for_version(table: str, version: str) -> dict[str, Any]:
    """The entry of a table in this module that covers `version`. Raises LookupError."""
    return entry_for(HERE / table, version)


def expected_errors(version: str) -> ExpectedErrors:
    return ExpectedErrors.model_validate(for_version("expected_errors.yaml", version))


def plain_client(url: str, timeout_s: float) -> httpx.Client:
    """A client with a connection for each request: a server may close one whose last body it did not read."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return http.client(timeout_s, base_url=url, limits=limits)


def send(client: httpx.Client, asked: BadRequest, model: str) -> Reply:
    if asked.not_sent:
        return Reply(asked, 0, f"not sent: {asked.not_sent}")
    try:
        answer = client.request(
            asked.method, asked.path, content=asked.content(model), headers=asked.headers, timeout=ANSWERED_WITHIN_S
        )
    except httpx.HTTPError as error:
        return Reply(asked, 0, f"{type(error).__name__}: {error}")
    return Reply(asked, answer.status_code, answer.text)
