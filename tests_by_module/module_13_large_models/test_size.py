"""Whether a model fits on the nodes, by arithmetic, and whether its launch can be right. No engine is started."""

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import BlockedByHardware, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.cluster.inventory.model import Inventory
from fixtures.fit.headers import headers_on, other_shapes, tensors
from fixtures.fit.launches import NATIVE, RAY, commands, shell
from fixtures.fit.model_config import FitError, config_of
from fixtures.fit.models import require_whole
from fixtures.fit.plans import Fit
from fixtures.run import Run
from tests_by_module.module_13_large_models.launching import declared_mistakes, other_kv
from tests_by_module.module_13_large_models.sizing import Declared, arithmetic, served_files


@check(
    "M13-01",
    judged="weights, overheads and KV of the fullest rank against the memory that an engine may take, for every layout "
    "of TP, PP, EP and DP; BLOCKED BY HARDWARE when it does not fit in 4 bits either",
    evidence="the sum, line by line",
    by_hand="uv run python -m fixtures fit MODEL --inventory PATH",
)
def test_model_fits_with_room_for_a_request(counted: Fit, measure: Measure, evidence: Evidence):
    """The model fits on these nodes, with room for the KV of one request."""
    screen = "\n".join(arithmetic(counted))
    evidence.text("does it fit", screen)
    if not counted.fits:
        raise BlockedByHardware(screen)
    measure("requests_at_once", max(plan.at_once for plan in counted.working))
    measure("gib_left_for_kv", counted.first.budget.for_kv / 2**30)
    measure.judge()


@check(
    "M13-02",
    judged="the arguments that the runtime declares, and the launches of every layout that fits, native and by Ray: "
    "what vLLM refuses to divide, what its sockets need, what is known to hang, to fail or to be slow",
    evidence="commands",
    by_hand="uv run python -m fixtures fit MODEL --inventory PATH --layout TP2",
)
def test_launches_have_no_known_mistake(counted: Fit, declared: Declared, evidence: Evidence):
    """Every layout that fits can be launched: heads, experts and layers divide, and no known mistake is in it."""
    rows, findings = [], Findings(declared_mistakes(counted, declared.settings.args))
    if not counted.fits and not len(findings):
        raise BlockedByHardware(f"{counted.model.name} does not fit, so nothing of it is launched: see M13-01")
    wrong: dict[str, None] = {}
    for plan in counted.working:
        for how in dict.fromkeys((NATIVE, RAY if plan.nodes > 1 else NATIVE)):
            made = commands(counted, plan, declared.nodes, declared.settings.args, how)
            rows += [[plan.layout.name, how, each.node, shell(each)] for each in made.launches]
            wrong |= dict.fromkeys(made.mistakes)
            rows += [[plan.layout.name, how, "", each] for each in made.advice]
    evidence.table("launches", ["layout", "how", "node", "command or advice"], rows)
    findings.extend(wrong)
    findings.judge()


@pytest.mark.needs("multi_node")
@check(
    "M13-03",
    judged="`--kv-cache-dtype`, `--dtype` and `--block-size` of the engines on all nodes with workers",
    evidence="table of engines",
    by_hand="compare `settings` of the runtimes in inventory/runtimes/",
)
def test_engines_keep_kv_alike(declared: Declared, inventory: Inventory, run: Run, evidence: Evidence):
    """Engines that may hand KV to each other keep it in the same form."""
    engines = {
        node.name: run.at("module_13.engine", inventory.runtime(node.worker_runtime).settings, node=node)
        for node in declared.nodes
    }
    rows, wrong = other_kv(engines)
    evidence.table("KV of each engine", ["node", "dtype of KV", "tokens in a block"], rows)
    Findings(wrong).judge()


@check(
    "M13-04",
    judged="names, shapes and bytes in the headers of the safetensors files on each node, against config.json: layers, "
    "shapes, quantization; the same on all nodes",
    evidence="table of files",
    by_hand="python3 fixtures/on_nodes/weight_headers.py FOLDER, on the node",
)
def test_weights_are_those_that_the_config_declares(declared: Declared, run: Run, evidence: Evidence):
    """On each node the weights are whole, and have the shapes and the quantization that config.json declares."""
    files = served_files(run)
    config = config_of(run.at("module_13.config", files.config), "config.json")
    rows, findings, digests = [], Findings(), {}
    for node in declared.nodes:
        there = run.nodes()[node.name]
        folder = run.at("module_13.folder", files.folder, node=there)
        headers = headers_on(there, folder)
        if not headers.files and not headers.damaged:
            continue
        rows += [[node.name, name, len(each), sum(row[3] for row in each)] for name, each in headers.files.items()]
        try:
            found = tensors(headers, folder)
            require_whole(config, found, folder)
            findings.extend(other_shapes(config, found), node=node.name)
        except FitError as error:
            findings.add(str(error), node=node.name)
        digests[node.name] = headers.files
    evidence.table("files of weights", ["node", "file", "tensors", "bytes"], rows)
    if not digests:
        raise NotOffered("dynamo_model has no safetensors files: there are no weights to look at")
    first = next(iter(digests.values()))
    if any(digests.get(node.name) != first for node in declared.nodes):
        findings.add(f"the files of weights differ between {', '.join(node.name for node in declared.nodes)}")
    findings.judge()
