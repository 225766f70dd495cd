"""The engines that this module starts, each once: a model in a layout, with what was seen of it."""

import re
from typing import Any

from fixtures.answers.oracle import Oracle, oracle
from fixtures.basics.deadline import DeadlineExceeded
from fixtures.basics.errors import BringUpFailed, ProcessEnded
from fixtures.product.services.base import ServiceFailed
from fixtures.run import Run
from tests_by_module.module_13_large_models import over_nodes
from tests_by_module.module_13_large_models.over_nodes import Seen

SERVES_CHECK = "M13-10"
# around block boundaries, and some blocks long: what is compared is the architecture, not a long context
LONGEST_BLOCKS = 20


class Engines:
    """`devices`: GPUs of each node, 1 for its processors."""

    def __init__(self, run: Run, devices: int) -> None:
        self._run, self._devices = run, devices
        self._nodes = [node.name for node in run.inventory.with_role("worker")]
        self._seen: dict[tuple[str, str, str], Seen | BringUpFailed] = {}
        self._oracles: dict[str, Oracle] = {}

    def seen(self, model: str, layout: str, why: str = "", **changes: Any) -> Seen:
        """What was seen of it, now or before; `why` tells starts of the same apart. Raises BringUpFailed."""
        key = (model, layout, why)
        if key not in self._seen:
            try:
                self._seen[key] = self._begin(*key, **changes)
            except BringUpFailed as error:
                self._seen[key] = error
        found = self._seen[key]
        if isinstance(found, BringUpFailed):
            raise found
        return found

    def _oracle(self, model: str) -> Oracle:
        """Prompts and the reference's answers."""
        if model not in self._oracles:
            equipment = self._run.with_model(self._run.equipment()[self._nodes[0]], model)
            block = equipment.runtime.spec.settings.block_size or 16
            self._oracles[model] = oracle(equipment, self._run.seed, max_prompt_tokens=LONGEST_BLOCKS * block)
        return self._oracles[model]

    def _begin(self, model: str, layout: str, why: str, **changes: Any) -> Seen:
        run, answers = self._run, self._oracle(model)
        own = re.sub(r"[^a-z0-9]+", "_", f"{model}-{layout}-{why}".rstrip("-"))
        name = f"module_13.{own}"
        before = over_nodes.available(run, self._nodes)
        try:
            with over_nodes.served(run, name, model, layout, self._devices, **changes) as deployment:
                logs = {worker.name: worker.log() for worker in deployment.workers}
                startup, asked = over_nodes.started(deployment), over_nodes.asked(deployment, answers)
                seen = Seen(model, layout, startup, asked, over_nodes.speed_of(deployment), logs)
                there = run.at("module_13.serving", over_nodes.members(deployment))
                serving = over_nodes.available(run, self._nodes)
                seen.left = [*deployment.stop(deployment.workers), *over_nodes.left_of(there)]
        except ProcessEnded as error:
            error.is_failure_of(SERVES_CHECK)
            raise
        except (ServiceFailed, DeadlineExceeded) as error:
            raise BringUpFailed(SERVES_CHECK, f"{model}, {layout}, does not serve: {error}") from None
        after = over_nodes.available(run, self._nodes)
        seen.memory = {each: [before[each], serving[each], after[each]] for each in self._nodes}
        return seen
