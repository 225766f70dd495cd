"""What on the nodes would keep a large engine from starting now."""

from fixtures.basics.check import check
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node
from fixtures.fit.guards import hazards, look
from fixtures.run import Run
from tests_by_module.module_13_large_models.sizing import GIB, Declared


@check(
    "M13-05",
    judged="of each node with workers: memory free and available against what its engines take; engines without a "
    "parent that hold memory; earlyoom and its kind where memory is unified; Ray's memory monitor",
    evidence="table of nodes",
    by_hand="uv run python -m fixtures fit MODEL --inventory PATH --look",
)
def test_nothing_there_keeps_an_engine_from_starting(
    declared: Declared, inventory: Inventory, nodes: dict[str, Node], run: Run, evidence: Evidence
):
    """Each node has the memory that its engines take, and nothing there would end them."""
    rows, findings = [], Findings()
    serves = run.steps.done(Run.deployment) is not None
    if serves:  # what serves already has its memory
        note = "The run's engines serve already, so free memory was not judged: run M13-05 by itself, before a start."
        evidence.note("Memory", note)
    for spec in declared.nodes:
        seen = run.at("module_13.guarded", look(nodes[spec.name].spec))
        needed = 0 if serves else declared.needed_bytes(inventory, spec)
        needed = run.at("module_13.needed", needed, available=seen.memory.available)
        findings.extend(hazards(seen, needed, declared.machine.unified and declared.machine.has_gpu), node=spec.name)
        needs = f"{needed / GIB:.1f}" if needed or not serves else "they serve"
        amounts = [needs, *(f"{each / GIB:.1f}" for each in (seen.memory.free, seen.memory.available))]
        others = [f"{each.name} ({each.pid})" for each in seen.engines] + list(seen.end_others)
        rows.append([spec.name, *amounts, ", ".join(others) or "-"])
    evidence.table("memory", ["node", "needed GiB", "free GiB", "available GiB", "there"], rows)
    findings.judge()
