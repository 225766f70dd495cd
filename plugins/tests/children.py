"""Child runs of a copy of the suite, as its users start them, with real etcd, NATS and Dynamo on this machine."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.cli.soak import CACHE_HERE, RUN_ID, left_behind
from fixtures.cluster.inventory import load
from fixtures.cluster.nodes import Transcript, connect
from fixtures.product.runtimes.provision import provision_runtime

ROOT = Path(__file__).parents[2]
LOCAL_INVENTORY = ROOT / "inventory" / "local.yaml"
LOCAL = LOCAL_INVENTORY.read_text(encoding="utf-8")
ENDS_WITHIN_S = 180


def environment(*without: str) -> dict[str, str]:
    """For a run that is none of the runners that these tests go on; `without` variables that begin so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", *without))}


class Child:
    """One run of the suite in a process of its own."""

    def __init__(self, tree: Path, args: tuple[str, ...], env: dict[str, str]) -> None:
        self.tree = tree
        self.output = tree / f"output-{secrets.token_hex(4)}"
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args]
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                argv, cwd=tree, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment() | env
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def run_id(self) -> str:
        return RUN_ID.search(self.text)[0]

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.tree / "reports" / self.run_id / "run.json").read_text())

    @property
    def last_line(self) -> str:
        return self.text.strip().splitlines()[-1]

    def outcomes(self) -> dict[tuple[str, str], str]:
        return {(check["id"], check["case"]): check["outcome"] for check in self.record["checks"]}

    def reasons(self) -> dict[str, str]:
        return {check["id"]: f"{check['outcome']}: {check['reason']}" for check in self.record["checks"]}

    def ended(self, status: int) -> Child:
        assert self.process.wait(ENDS_WITHIN_S) == status, self.text
        assert "INTERNALERROR" not in self.text
        return self

    def until_it_serves(self, cache: Path = CACHE_HERE) -> None:
        """Wait until its workers are started: something is there that can be left behind."""

        def look() -> tuple[bool | None, object]:
            assert self.process.poll() is None, self.text
            found = RUN_ID.search(self.text)
            started = found and (cache / "runs" / found[0] / "groups" / "worker-2.json").exists()
            return (True if started else None), self.text[-300:]

        wait_until(look, Deadline(60, "the workers of a child to be started"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite, so that these runs leave nothing among the reports of whoever works here."""
    tree = tmp_path_factory.mktemp("suite")
    for name in ("fixtures", "plugins", "tests_by_module", "inventory"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "reports" / "templates", tree / "reports" / "templates")
    for name in ("conftest.py", "pyproject.toml", "reports/run.schema.json"):
        shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture
def start(tree: Path) -> Iterator[Callable[..., Child]]:
    """Starts a child run; at the end none of them runs any more."""
    children: list[Child] = []

    def start(*args: str, **env: str) -> Child:
        children.append(Child(tree, args, env))
        return children[-1]

    yield start
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGINT)
            child.process.wait(60)


@pytest.fixture(scope="module")
def installed() -> str:
    """Folder of the default runtime on this machine."""
    inventory = load(ROOT / "inventory" / "local.yaml")
    spec = inventory.nodes[0]
    node = connect(spec, run_id=f"t{secrets.token_hex(4)}", transcript=Transcript(), watchdog_grace_s=30)
    try:
        return provision_runtime(node, inventory.runtime(spec.dynamo_runtime), Deadline(600, "the runtime")).path
    finally:
        assert node.close() == []


@pytest.fixture
def inventory(tree: Path, installed: str) -> Callable[..., str]:
    """Writes an inventory: local.yaml with replacements, and lines that are added to its node."""

    def write(*lines: str, cluster: tuple[str, ...] = (), **replaced: str) -> str:
        text = LOCAL + "".join(f"      {line}\n" for line in lines)
        if cluster:  # an attached deployment is never disturbed, so only what needs no disturbing can be required
            text = re.sub(r"dynamo_requires: .*", 'dynamo_requires: [M00-*, "!multi_node"]', text)
        text = text.replace("  vars:\n", "  vars:\n" + "".join(f"    {line}\n" for line in cluster))
        for name, value in replaced.items():
            text = re.sub(rf"(?m)^(\s+{name}:).*$", lambda found, v=value: f"{found[1]} {v}", text)
        path = tree / "inventory" / f"site-{secrets.token_hex(4)}.yaml"
        path.write_text(text)
        runtime = {"engine": "mocker", "packages": {"ai-dynamo": "1.6.1"}, "path": installed, "imports": ["dynamo.llm"]}
        (tree / "inventory" / "runtimes" / "installed.yaml").write_text(json.dumps(runtime))
        return str(path)

    return write


def nothing_left(run_id: str, cache: Path = CACHE_HERE, *, killed: bool = False) -> None:
    """All that a run had is gone: what is no process at once, unless it was `killed` and left it to the watchdog."""

    def look() -> tuple[bool | None, object]:
        left = left_behind(run_id, cache)
        stays = [each for each in left if not each.startswith("process ")]
        assert killed or not stays, stays
        return (None if left else True), left

    wait_until(look, Deadline(20, f"nothing of {run_id} to be left"), every_s=0.3)
