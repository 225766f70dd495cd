"""What is installed on the nodes, and what the nodes are."""

from collections import defaultdict

import pytest

from fixtures.basics.check import check
from fixtures.basics.deadline import Deadline
from fixtures.basics.errors import CouldNotLook
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Finding, Findings
from fixtures.basics.measure import Measure
from fixtures.basics.merged import by_value, only_other
from fixtures.basics.parallel import in_parallel
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import CommandResult
from fixtures.product.deployments.deployment import Equipment
from fixtures.run import Run

IMPORT_WITHIN_S = 120
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        print(name, "imports")
    except Exception as error:
        print(name, "does not import:", type(error).__name__, error)
        sys.exit(3)
"""


@check(
    "M01-01",
    judged="version of every pinned package in each node's environment equals the pin",
    evidence="table of packages",
    by_hand="uv pip list --python VENV/bin/python",
    causes=[12],
)
@pytest.mark.needs("runtime")
@pytest.mark.smoke
def test_runtime_is_installed_as_pinned(run: Run, inventory: Inventory, evidence: Evidence):
    """On every node the packages that the inventory pins are installed in exactly the pinned versions."""
    rows, wrong = [], Findings()
    for name, equipment in run.equipment().items():
        spec = inventory.node(name)
        of_workers = [(spec.worker_runtime, equipment.worker_runtime)] if equipment.worker_runtime else []
        for declared, runtime in [(spec.dynamo_runtime, equipment.runtime), *of_workers]:
            for package, pinned in inventory.runtime(declared).packages.items():
                found = runtime.versions.get(package)
                rows.append([name, package, pinned, found or "absent"])
                if found != pinned:
                    wrong.add(f"expected {package} {pinned} in {runtime.path}, got {found or 'none'}", node=name)
    evidence.table("packages", ["node", "package", "pinned", "installed"], rows)
    assert rows, "the inventory pins no package: nothing to compare"
    wrong.judge()


@check(
    "M01-02",
    judged="every module that the runtime declares imports in a fresh interpreter on the node",
    evidence="what the imports printed",
    by_hand="VENV/bin/python -c 'import dynamo.frontend'",
)
@pytest.mark.needs("runtime")
def test_runtime_imports(run: Run, inventory: Inventory, evidence: Evidence):
    """Every module that the runtime declares can be imported in a fresh interpreter."""

    def tried(equipment: Equipment) -> CommandResult:
        name = equipment.node.name
        modules = inventory.runtime(inventory.node(name).dynamo_runtime).imports
        assert modules, f"the runtime of {name} declares no imports: nothing to try"
        argv = [equipment.runtime.python, "-c", IMPORT, *modules]
        return equipment.node.run(argv, deadline=Deadline(IMPORT_WITHIN_S, f"imports on {name}"), expect=None)

    wrong, there = Findings(), run.equipment()
    for name, done in zip(there, in_parallel(tried, list(there.values())), strict=True):
        evidence.text(f"imports on {name}", done.stdout + done.stderr)
        if done.rc:
            wrong.add(done.last_words, node=name)
    wrong.judge()


@check(
    "M01-03",
    judged="the smallest node's processors, available memory and free disk against thresholds",
    evidence="measurements",
    by_hand="nproc; free -g; df -h ~",
)
def test_nodes_have_room(run: Run, inventory: Inventory, measure: Measure):
    """The smallest node has the processors, memory and disk that a deployment needs."""
    found = run.facts()
    for name, facts in found.items():
        for part in ("cpu", "memory", "disk"):
            if "error" in facts[part]:
                raise CouldNotLook(f"{name}: {part}: {facts[part]['error']}")
    measure("cpu_count_min", min(f["cpu"]["count"] for f in found.values()), n=len(found))
    measure("memory_available_gb_min", min(f["memory"]["available_gb"] for f in found.values()), n=len(found))
    measure("disk_free_gb_min", min(f["disk"]["free_gb"] for f in found.values()), n=len(found))
    measure.judge()


@check(
    "M01-04",
    judged="a GPU with a driver that speaks CUDA on each, all of one kind and driver",
    evidence="table of GPUs, measurement",
    by_hand="nvidia-smi",
)
@pytest.mark.needs("gpu", "cuda", role="worker")
def test_gpus_of_worker_nodes_are_alike(run: Run, inventory: Inventory, evidence: Evidence, measure: Measure):
    """Every node with workers has a GPU whose driver supports CUDA; GPU model and driver are the same on all."""
    found = {spec.name: run.facts()[spec.name] for spec in inventory.with_role("worker")}
    rows = [
        [n, g["name"], g["driver_version"], f["cuda"]["version"], g["memory.total"]]
        for n, f in found.items()
        for g in f["gpu"]["found"]
    ]
    evidence.table("GPUs", ["node", "GPU", "driver", "CUDA", "memory MiB"], rows)
    measure("gpu_count_per_node_min", min(len(f["gpu"]["found"]) for f in found.values()), n=len(found))
    assert rows, "no node with workers shows a GPU: nothing to compare"
    kinds: dict[str, set[str]] = defaultdict(set)
    for node, gpu, driver, cuda, _ in rows:
        kinds[node].add(f"{gpu} with driver {driver} and CUDA {cuda}")
    if (count := len(set.union(*kinds.values()))) > 1:
        on = {node: " and ".join(sorted(each)) for node, each in kinds.items()}
        seen = Findings([Finding(by_value(on), node=only_other(on))])
        seen.judge(f"expected one kind of GPU, driver and CUDA, got {count}")
    measure.judge()
