"""One worker's greedy answers against another's, where neither is known to be right."""

from fixtures.answers.ask import answered, ask
from fixtures.answers.compare import apart
from fixtures.answers.prompts import prompt_set
from fixtures.basics.require import require
from fixtures.product.deployments.deployment import Deployment
from tests_by_module.module_03_workers_and_backends.peers import Peers

TOKENS, LONGEST_BLOCKS = 16, 8
# prompt, worker, the type's first worker, the first token that differs (None: none does), how far apart, what of both
# answers was not told
Distance = tuple[str, str, str, int | None, float, str]


def distances(deployment: Deployment, type_: Peers, nonce: str) -> list[Distance]:
    """Of each worker from the type's first one, for each prompt. Raises CouldNotLook for an answer without tokens."""
    first, *others = type_.workers
    card = require(first.card, f"model card of worker {first.hex_id}")
    size = card["kv_cache_block_size"]
    longest = min(LONGEST_BLOCKS * size, card["context_length"] - TOKENS)
    found: list[Distance] = []
    for prompt in prompt_set(deployment.tokenizer(), block_size=size, max_prompt_tokens=longest, nonce=nonce):
        told = {
            each.hex_id: answered(
                f"worker {each.hex_id}, {prompt.name}",
                ask(deployment.endpoint, prompt, max_tokens=TOKENS, pinned_to=each.instance_id),
                partly=True,
            )
            for each in type_.workers
        }
        found += [
            (
                prompt.name,
                each.hex_id,
                first.hex_id,
                *apart(told[first.hex_id], told[each.hex_id]),
                told[first.hex_id].untold or told[each.hex_id].untold,
            )
            for each in others
        ]
    return found
