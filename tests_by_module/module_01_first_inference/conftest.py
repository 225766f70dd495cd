"""Fixtures of module 01."""

import pytest

from fixtures.clients.inference import Answer, complete, stream
from fixtures.clients.tokenizer import ModelTokenizer
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_01_first_inference.prompts import MAX_TOKENS, PROMPT


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
    """The tokenizer of the inventory's model, or of the files that the model card names where those are not at hand."""
    return deployment.tokenizer()
