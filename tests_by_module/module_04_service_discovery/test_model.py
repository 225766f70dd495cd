"""What model cards and frontend report of the model, against the inventory's model as it is read on a node."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import httpx
import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.clients import http
from fixtures.cluster.inventory.model import Inventory
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_04_service_discovery.cards import fetched, named_files

pytestmark = pytest.mark.needs("system_port")

CONFIG, GENERATION = "config.json", "generation_config.json"
CONTEXT, VOCABULARY, END = "context length", "vocabulary", "end of text"
Truths = dict[str, object]


@pytest.fixture(scope="module")
def files_by_worker(deployment: Deployment) -> dict[str, dict[str, bytes]]:
    """The files that each worker serves for its card, by their names. Raises CouldNotLook.

    M04-17 judges whether it serves them: a worker that does not is left out.
    """
    found = {}
    for worker in deployment.registered_workers():
        with suppress(httpx.HTTPError):
            files = named_files(worker.card or {})
            found[worker.hex_id] = {file["path"].rpartition("/")[2]: fetched(file, deployment) for file in files}
    if not any(found.values()):
        raise CouldNotLook(
            f"no worker of {deployment.settings.namespace} serves a file of its card: nothing to look at"
        )
    return found


@check(
    "M04-18",
    judged="sha256 of configuration, tokenizer and template, as each worker serves them for its card, against the "
    "files of the inventory's model, read on a node",
    evidence="table of files",
    by_hand="on a node: sha256sum MODEL/*.json; curl each path of the model card | sha256sum",
)
def test_cards_name_the_files_of_the_inventorys_model(
    deployment: Deployment, files_by_worker: dict[str, dict[str, bytes]], evidence: Evidence
):
    """The files behind each model card are those of the inventory's model, byte for byte."""
    model, wrong, rows = deployment.model_files(), Findings(), []
    for worker, files in files_by_worker.items():
        for name, content in files.items():
            served, own = hashlib.sha256(content).hexdigest(), model.files.get(name)
            rows.append([worker, name, served[:12], own and own[:12]])
            if served != own:
                there = f"that of {model.folder} is {own[:12]}" if own else f"{model.folder} has no such file"
                wrong.add(f"worker {worker} serves another {name} than the inventory's model: {served[:12]}, {there}")
    evidence.table("files of model cards", ["worker", "file", "sha256 served", "of the inventory's model"], rows)
    wrong.judge()


def declared(inventory: Inventory, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Truths:
    """What an engine of this inventory serves of a model; its length is the runtime's where that sets one."""
    runtime = inventory.runtime(inventory.with_role("worker")[0].worker_runtime)
    shape = config.get("text_config", config)
    return {
        CONTEXT: runtime.settings.max_model_len or shape.get("max_position_embeddings"),
        VOCABULARY: shape.get("vocab_size"),
        END: generation.get("eos_token_id", shape.get("eos_token_id")),
    }


def json_object(content: bytes) -> dict[str, Any]:
    """Empty for what is none: M04-18 finds that it is another file."""
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def context_of_frontend(deployment: Deployment) -> int:
    """Tokens, as /v1/models reports them; 0 where it does not. Raises CouldNotLook."""
    try:
        listed = http.get(f"{deployment.endpoint.url}/v1/models", timeout_s=5).raise_for_status().json()["data"]
        return next(each.get("context_window") or 0 for each in listed if each["id"] == deployment.settings.model_name)
    except (httpx.HTTPError, ValueError, KeyError, StopIteration) as error:
        raise CouldNotLook(f"{deployment.endpoint.url}/v1/models: {error!r}") from error


@check(
    "M04-19",
    judged="context length in card and `/v1/models` (0: not given), vocabulary and end of text in the served files, "
    "against the inventory's model and `max_model_len` of its runtime",
    evidence="table of lengths",
    by_hand="curl FRONTEND/v1/models; etcdctl get --prefix v1/mdc/; on a node: cat MODEL/config.json",
)
def test_lengths_are_those_of_the_inventorys_model(
    deployment: Deployment, inventory: Inventory, files_by_worker: dict[str, dict[str, bytes]], evidence: Evidence
):
    """Model cards and frontend report the context length, vocabulary and end of text of the inventory's model."""
    model = deployment.model_files()
    truths = declared(inventory, model.config, json.loads(model.texts.get(GENERATION, "{}")))
    told: dict[str, Truths] = {"the frontend": {CONTEXT: context_of_frontend(deployment)}}
    cards = {worker.hex_id: worker.card for worker in deployment.registered_workers() if worker.card}
    for worker, files in files_by_worker.items():
        served = [json_object(files.get(name, b"")) for name in (CONFIG, GENERATION)]
        card = cards.get(worker, {})
        told[f"worker {worker}"] = declared(inventory, *served) | {CONTEXT: card.get("context_length")}
    rows = [[who, *(lengths.get(name) for name in truths)] for who, lengths in told.items()]
    evidence.table("lengths", ["who reports", *truths], [["the inventory's model", *truths.values()], *rows])
    runtime_sets_it = inventory.runtime(inventory.with_role("worker")[0].worker_runtime).settings.max_model_len
    wrong = Findings()
    for who, lengths in told.items():
        for name, length in lengths.items():
            # the mocker reports no context length unless it is given one, and the frontend then refuses no prompt
            unsaid = name == CONTEXT and not length and not runtime_sets_it
            if length != truths[name] and not unsaid:
                wrong.add(f"{who} reports the {name} {length}, the inventory's model has {truths[name]}")
    wrong.judge()
