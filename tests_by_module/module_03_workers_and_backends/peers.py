"""Workers of one type against each other: who they are, and what their model cards say."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fixtures.basics.dynamo_versions import Dialect
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.printable import head
from fixtures.clients.answer import Answer, addressed_to
from fixtures.clients.inference import complete
from fixtures.product.deployments.deployment import Deployment
from fixtures.product.deployments.registry import RegisteredWorker
from tests_by_module.module_03_workers_and_backends.contract import contract

# a worker that computes prompts for others cannot be asked by name
NOT_ASKED = "prefill"
ABSENT = "not there"
LEASE_TTL = "TTL of the lease, s"
ANSWERS_WITHIN_S = 30
# so that a router which does not go by names is seen
TIMES_ASKED = 3
BY_NAME = "dynamo_router_mode: this router sends no request to a worker by name, as kv and direct do"


@dataclass(frozen=True)
class Peers:
    """The registered workers of one type: two or more, in the order of their ids."""

    type: str
    workers: tuple[RegisteredWorker, ...]

    @property
    def ids(self) -> list[int]:
        return [each.instance_id for each in self.workers]


def peers_of(workers: Sequence[RegisteredWorker]) -> list[Peers]:
    """The types of which there are two workers or more. Raises CouldNotLook where there is none."""
    types: dict[str, list[RegisteredWorker]] = {}
    for worker in sorted(workers, key=lambda each: each.instance_id):
        types.setdefault((worker.card or {}).get("worker_type") or worker.component, []).append(worker)
    found = [Peers(name, tuple(each)) for name, each in types.items() if len(each) > 1]
    if not found:
        there = ", ".join(f"{len(each)} {name}" for name, each in types.items()) or "no worker"
        raise CouldNotLook(f"registered are {there}: no two workers of one type, so that there is nothing to compare")
    return found


def fields_of(card: Mapping[str, Any], dialect: Dialect) -> dict[str, str]:
    """A model card as dotted names and JSON values, without what is each worker's own: where its files lie, and how
    many KV blocks its memory has room for."""
    own = (*dialect.model_card_own, dialect.model_card_kv_blocks)
    found = dict(_flat(card, ""))
    return {name: told for name, told in found.items() if not any(f"{name}.".startswith(f"{each}.") for each in own)}


def kv_blocks(card: Mapping[str, Any], dialect: Dialect) -> float | None:
    """That the card promises; None where it promises none."""
    found = dict(_flat(card, "")).get(dialect.model_card_kv_blocks, "null")
    return float(found) if found.replace(".", "").isdigit() else None


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key in value:
            told = str(key).removeprefix("hf_")  # else it is hidden in reports: keys of Hugging Face begin so
            yield from _flat(value[key], f"{name}.{told}" if name else told)
        return
    if isinstance(value, str) and value.startswith("http"):
        value = urlsplit(value).path  # each worker serves the files itself
    yield name, json.dumps(value, sort_keys=True, ensure_ascii=False)


def differences(told: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A sentence for each field that is not the same of all: each value with the workers that say so.

    `told` are the fields of each worker, by the worker's name.
    """
    names = sorted({name for fields in told.values() for name in fields})
    found = []
    for name in names:
        workers: dict[str, list[str]] = {}
        for worker, fields in told.items():
            workers.setdefault(fields.get(name, ABSENT), []).append(worker)
        if len(workers) > 1:
            values = ", ".join(f"{head(value)} of worker {' and '.join(each)}" for value, each in workers.items())
            found.append(f"{name} differs: {values}")
    return found


def refusal(deployment: Deployment, worker: RegisteredWorker) -> str | None:
    """Why a worker does not answer when it is asked by name; None: it does.

    Raises NotOffered where the router does not go by names, or answers do not say who gave them.
    """
    for _ in range(TIMES_ASKED):
        answer = by_name(deployment, worker.instance_id, "fox")
        if not answer.ok:
            return answer.describe()
        if not answer.worker_ids:
            raise NotOffered("answers do not say which worker has given them (nvext.worker_id)")
        if answer.worker_ids != {worker.instance_id}:
            others = " and ".join(f"{each:x}" for each in answer.worker_ids)
            if deployment.first_answer.kv_hit_rate is None:
                raise NotOffered(f"{BY_NAME}; asked for worker {worker.hex_id}, worker {others} answers")
            return f"worker {others} answers in its place"
    return None


def by_name(deployment: Deployment, worker: int, prompt: str | list[dict[str, str]]) -> Answer:
    limits = {"max_tokens": contract().max_tokens, "ignore_eos": True, "temperature": 0}
    return complete(deployment.endpoint, prompt, nvext=addressed_to(worker), timeout_s=ANSWERS_WITHIN_S, **limits)
