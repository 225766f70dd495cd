"""Model cards: the files that they name, as the frontend fetches them from the workers."""

from collections.abc import Iterator
from typing import Any

from fixtures.basics.errors import NotOffered
from fixtures.clients import http
from fixtures.product.deployments.deployment import Deployment

CARD_PARTS = ("model_info", "tokenizer", "prompt_formatter", "gen_config")


def named_files(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The files of a card, each with its path (a URL on the worker) and its size in bytes."""
    for part in CARD_PARTS:
        yield from (card.get(part) or {}).values()


def fetched(file: dict[str, Any], deployment: Deployment) -> bytes:
    """Raises httpx.HTTPError, NotOffered where workers of this version serve no files."""
    if deployment.settings.dialect.environment.model_cache:
        raise NotOffered("frontends of this version take a model's files from Hugging Face's cache: workers serve none")
    return http.get(deployment.reach(file["path"]), timeout_s=5).raise_for_status().content
