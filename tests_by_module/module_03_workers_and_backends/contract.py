"""The contract: what each engine is asked, read from contract.yaml."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

CONTRACT = Path(__file__).with_name("contract.yaml")


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class WrongRequest(_Data):
    """`changes` join the body; `beyond_context`: a prompt of so many tokens more than the model's context.

    `by_engine`: a frontend need not know that it is wrong.
    """

    status: int
    changes: dict[str, Any] = Field({}, alias="with")
    prompt: list[int] | None = None
    model: str | None = None
    beyond_context: int | None = None
    by_engine: bool = False


class EngineFacts(_Data):
    """Regular expressions of the log lines that end a phase of its start, names of its own metrics, the wrong requests
    that it is known to take, and those on which its process ends, with the versions of the engine's package."""

    imported: str
    loaded: str | None
    metrics: dict[Literal["prompt_tokens", "generated_tokens", "running"], str] | None
    takes: tuple[str, ...]
    ends_on: dict[str, str] = {}


class Contract(_Data):
    prompts: dict[str, str | list[dict[str, str]]]
    max_tokens: int
    wrong_requests: dict[str, WrongRequest]
    engines: dict[str, EngineFacts]


@cache
def contract() -> Contract:
    return Contract.model_validate(YAML(typ="safe").load(CONTRACT))
