"""Fixtures of module 02."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from fixtures.clients.http import HEADERS, admitted, hooks, tls
from fixtures.clients.inference import InferenceEndpoint
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import ExpectedErrors, expected_errors, plain_client

ANSWERED_WITHIN_S = 30


@pytest.fixture(scope="package")
def endpoint(deployment: Deployment) -> InferenceEndpoint:
    """Where the model is served."""
    return deployment.endpoint


@pytest.fixture(scope="package")
def http(endpoint: InferenceEndpoint) -> Iterator[httpx.Client]:
    """A plain client of the frontend, for what an SDK hides."""
    with plain_client(endpoint.url, ANSWERED_WITHIN_S) as client:
        yield client


@pytest.fixture(scope="package")
def sdk(endpoint: InferenceEndpoint) -> Iterator[openai.OpenAI]:
    """OpenAI's own client; it tries nothing twice, and uses no proxy of its user's environment."""
    with (
        openai.DefaultHttpxClient(
            trust_env=False, auth=admitted, verify=tls(endpoint.url), headers=HEADERS, event_hooks=hooks()
        ) as plain,
        openai.OpenAI(
            base_url=f"{endpoint.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=ANSWERED_WITHIN_S,
            http_client=plain,
        ) as client,
    ):
        yield client


@pytest.fixture(scope="package")
def errors(run: Run) -> ExpectedErrors:
    """What this version answers to wrong requests."""
    return expected_errors(run.product_version())
