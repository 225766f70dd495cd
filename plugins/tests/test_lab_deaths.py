"""How runs on a lab end, in any way there is: nothing is left of the lab; what was not as it should be is told once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.on_nodes.agent.processes import stat
from plugins.tests.children import Child, start, tree

pytestmark = pytest.mark.slow

__all__ = ["start", "tree"]  # fixtures

# stands in for a module: a process runs on every node, and then something happens
CHECK = """
import json, os, signal, time
from pathlib import Path
import pytest

@pytest.mark.check("M00-01")
def test_it(run):
    for node in run.nodes().values():
        node.spawn("sleeper", ["sleep", "600"], env={{}})
    lab = run.lab()
    pids = [lab.about["daemon"][0], *(node.pid for node in lab.nodes.values())]
    Path({told!r} + ".new").write_text(json.dumps([str(lab.folder), pids, lab.about.get("groups", [])]))
    Path({told!r} + ".new").rename({told!r})
    {happens}
"""
WAITS = "time.sleep(60)"
DIES = """
    os.kill(lab.nodes["dgx-spark-02"].pid, signal.SIGKILL)
    while not lab.died:
        time.sleep(0.01)
"""
REJECTED, INTERRUPTED = 1, 2


@pytest.fixture
def run(tree: Path, start: Callable[..., Child], short_path: Path) -> Callable[[str], tuple[Child, list[int]]]:
    """Starts a run in which that happens; returns it and the processes of its lab once these are there."""

    def run(happens: str, inventory: str = "lab", within_s: float = 60) -> tuple[Child, list[int]]:
        package = tree / "tests_by_module" / "module_00_architecture"
        told = short_path / "lab.json"
        (package / "test_it.py").write_text(CHECK.format(happens=happens, told=str(told)))
        where = f"inventory/{inventory}.yaml"
        child = start(f"{package}/test_it.py", "--inventory", where, XDG_RUNTIME_DIR=str(short_path))

        def look() -> tuple[bool | None, object]:
            assert told.exists() or child.process.poll() is None, child.text
            return told.exists() or None, child.text[-300:]

        wait_until(look, Deadline(within_s, "a run to have its lab"))
        run.folder, pids, run.groups = json.loads(told.read_text())
        return child, pids

    yield run
    assert not os.path.exists(run.folder) and not [group for group in run.groups if os.path.exists(group)]
    assert run.folder not in Path("/proc/self/mounts").read_text()


def gone(pids: list[int]) -> None:
    def look() -> tuple[bool | None, object]:
        left = [pid for pid in pids if (found := stat(pid)) and found[0] not in "ZX"]
        return None if left else True, left

    wait_until(look, Deadline(10, "the processes of a lab to end"))


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        ("pass", []),
        ('lab.power_off("dgx-spark-02")', []),
        (DIES, ["dgx-spark-02: this node of the lab had ended"]),
        ('lab.stop_sshd("dgx-spark-02")', ["dgx-spark-02: not cleaned up, its watchdog will"]),
        ("os.kill(pids[0], signal.SIGKILL)", ["the lab ended before its time, with all its nodes"]),
    ],
    ids=["normal", "switched off", "a node died", "cut off", "daemon killed"],
)
def test_a_node_that_is_gone_is_told_once_unless_the_suite_switched_it_off(run, happens, told):
    child, pids = run(happens)
    child.process.wait(90)
    gone(pids)
    assert child.outcomes() == {("M00-01", ""): "passed"}, child.text
    errors = child.record["tear_down_errors"]
    assert len(errors) == len(told) and all(map(str.startswith, errors, told)), errors
    assert (child.process.returncode == REJECTED) == bool(told), child.text


def test_after_ctrl_c_nothing_is_left(run):
    child, pids = run(WAITS)
    child.process.send_signal(signal.SIGINT)
    child.ended(INTERRUPTED)
    gone(pids)
    assert child.record["tear_down_errors"] == []


def test_after_the_death_of_pytest_nothing_is_left(run):
    child, pids = run(WAITS)
    child.process.kill()
    gone(pids)


@pytest.mark.nightly
@pytest.mark.parametrize("end", ["normal", "ctrl-c", "killed"])
def test_nothing_is_left_of_virtual_nodes(run, end):
    # the image may have to be built first
    child, pids = run("pass" if end == "normal" else WAITS, "rdma-lab", 400)
    if end == "killed":
        child.process.kill()
        gone(pids)
        return
    if end == "ctrl-c":
        child.process.send_signal(signal.SIGINT)
    child.ended(INTERRUPTED if end == "ctrl-c" else 0)
    gone(pids)
    assert child.record["tear_down_errors"] == []
