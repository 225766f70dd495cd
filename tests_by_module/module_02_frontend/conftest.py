"""Fixtures of module 02."""

from collections.abc import Iterator
from contextlib import suppress

import httpx
import openai
import pytest

from fixtures.basics.deadline import Deadline
from fixtures.clients.http import HEADERS, admitted, hooks, tls
from fixtures.clients.inference import InferenceEndpoint
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.readiness import wait_until_serving
from fixtures.product.services.base import ServiceFailed
from fixtures.run import Run
from tests_by_module.module_02_frontend.bad_requests import ExpectedErrors, expected_errors, plain_client

ANSWERED_WITHIN_S = 30
# the router of 1.4 and 1.5 does without a worker that it takes for lost for 5 s
SERVED_AGAIN_WITHIN_S = 15


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


@pytest.fixture
def served_again(deployment: Deployment) -> Iterator[None]:
    """Waits after the check until requests are served: what a defect takes down for seconds fails no other check."""
    yield
    with suppress(ServiceFailed):  # the next check says so
        wait_until_serving(deployment, Deadline(SERVED_AGAIN_WITHIN_S, "requests to be served again"))


@pytest.fixture(scope="package")
def errors(run: Run) -> ExpectedErrors:
    """What this version answers to wrong requests."""
    return expected_errors(run.product_version())
