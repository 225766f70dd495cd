"""Fixtures of module 01."""

import httpx
import pytest

from fixtures.clients.inference import Answer, complete, stream
from fixtures.clients.tokenizer import ModelTokenizer
from fixtures.deployments.deployment import Deployment
from fixtures.outcomes import CouldNotLook

PROMPT = "The quick brown fox jumps over the lazy dog, and then"
MAX_TOKENS = 8


@pytest.fixture(scope="package")
def plain_answer(deployment: Deployment) -> Answer:
    """A first completion, in one piece."""
    return complete(deployment.endpoint, PROMPT, max_tokens=MAX_TOKENS, ignore_eos=True)


@pytest.fixture(scope="package")
def streamed_answer(deployment: Deployment) -> Answer:
    """A first completion, streamed, with the usage chunk asked for."""
    return stream(deployment.endpoint, PROMPT, max_tokens=MAX_TOKENS, ignore_eos=True)


@pytest.fixture(scope="package")
def tokenizer(deployment: Deployment) -> ModelTokenizer:
    """The model's own tokenizer, from the files that its model card names."""
    card = next((worker.card for worker in deployment.registered_workers() if worker.card), None)
    if card is None:
        raise CouldNotLook("no registered worker has a model card: the tokenizer's files are not named")
    urls = [
        card["tokenizer"]["hf_tokenizer_json"]["path"],
        card["prompt_formatter"]["hf_tokenizer_config_json"]["path"],
    ]
    try:
        return ModelTokenizer(
            *(httpx.get(deployment.reach(url), timeout=10, trust_env=False).raise_for_status().text for url in urls)
        )
    except httpx.HTTPError as error:
        raise CouldNotLook(f"the tokenizer's files at {' and '.join(urls)}: {error!r}") from error
