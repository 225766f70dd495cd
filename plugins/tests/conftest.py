"""A child suite under pytester: real plugins, a real inventory file, and a Run that is a fake and says so."""

import json
import os
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from fixtures.tests.conftest import mark_tier, name_tiers, only_at_night
from fixtures.tests.here import short_path
from fixtures.tests.slurm import slurm

__all__ = ["short_path", "slurm"]

ROOT = Path(__file__).parents[2]
ENDS_WITHIN_S = 300  # a run of a child suite takes seconds: one that hangs ends here


def pytest_configure(config: pytest.Config) -> None:
    name_tiers(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only_at_night(config, items, Path(__file__).parent)


def pytest_itemcollected(item: pytest.Item) -> None:
    mark_tier(item, Path(__file__).parent)


CONFTEST = """
import dataclasses, json, os, time
import plugins

pytest_plugins = plugins.ALL

@dataclasses.dataclass
class Look:
    state: str
    text: str

LOOK = {"cores": 2, "busy_s": 0.0, "stolen_s": 0.0, "governor": "", "throttled": 0, "gpus": {}}
STATES = {"rdma": "missing", "cuda": "broken", "real_engine": "not_declared"}

class FakeTable:
    def look(self, needs, node_names=None):
        for name in needs:
            if state := STATES.get(name):
                return Look(state, f"{name}: looked on {node_names or 'all nodes'}, {state}")
        return Look("ready", "")

class FakeCauses:
    def found(self, reason, since_s, *, declared):
        assert since_s >= 0
        if "history" in reason:
            return [{"cause": f"in {since_s:.0f} s", "remedy": "", "where": "", "line": "", "times": 0}]
        if "descriptors" not in reason:
            return []
        where = "frontend.log on local"
        line = "accept error: Too many open files"
        return [{"cause": "frontend has 64", "remedy": "raise it", "where": where, "line": line, "times": 207}]

class FakeHistory:
    def take(self, when):
        with open("samples", "a") as file:
            print(when, file=file)
        return True

class FakeAnswers:
    def part(self):
        return json.loads(os.environ.get("FAKE_ANSWERS", "{}"))

class FakeSilence:
    def look_anew(self):
        pass

class FakeDeaths:
    def look(self, deployments, *, at_once):
        return []

class FakeRun:
    exclusive = False
    deaths = FakeDeaths()
    deployments = ()
    causes = FakeCauses()
    silence = FakeSilence()
    def __init__(self, settings):
        self.waits = []
        self.settings = settings
        self.history = FakeHistory()
    def share_no_node(self):
        self.exclusive = True
    def suspect(self, check_id):
        with open("suspects", "a") as file:
            print(check_id, file=file)
    def capabilities(self):
        return FakeTable()
    def record(self):
        return {
            "nodes": [{"name": "local", "roles": ["worker"], "address": "127.0.0.1", "facts": {"cpu": "2"},
                       "pace": {when: LOOK | {"at_s": at_s} for when, at_s in (("begin", 1.0), ("end", 2.0))}}],
            "left_out": os.environ.get("FAKE_LEFT_OUT", "").splitlines(),
            "versions": {"ai-dynamo": "1.6.1"},
            "topology": {
                "components": [
                    {"id": "client", "kind": "client", "node": None, "address": None, "version": None,
                     "declared": True, "found": True},
                    {"id": "worker-0", "kind": "worker", "node": "local", "address": "127.0.0.1:1", "version": "1.6.1",
                     "declared": True, "found": False},
                ],
                "edges": [{"source": "client", "target": "worker-0", "protocol": "http"}],
            },
            "transcript": [{"at": "2026-01-01T00:00:00+00:00", "node": "local", "command": "env A=1 true", "rc": 0,
                            "duration_s": 0.01}],
            "timeline": [{"what": "etcd", "start_s": time.monotonic(), "duration_s": 0.4}],
            "deployments": [{"name": "declared", "start_s": time.monotonic(), "up_s": None, "down_s": None,
                             "end_s": None}],
            "processor": [{"node": None, "kind": "etcd", "seconds": 1.5}],
        }
    def product_version(self):
        return "1.6.1"
    def worker_version(self):
        return os.environ.get("FAKE_WORKER_VERSION", "1.6.1")
    def answers(self):
        return FakeAnswers()
    def kept(self):
        return ["take it down: by hand"] if self.settings.keep else []
    def close(self):
        return os.environ.get("FAKE_TEAR_DOWN", "").split()

def pytest_acceptance_run(config, settings):
    return FakeRun(settings)
"""

INI = """
[pytest]
filterwarnings =
    error
    ignore:Call to deprecated create function:DeprecationWarning
addopts = --strict-markers
testpaths = tests_by_module
"""

INVENTORY = """
all:
  vars:
    dynamo_profile: fake
    dynamo_embedded: true
    dynamo_requires: {requires}
  hosts:
    local:
      ansible_connection: local
      dynamo_roles: [etcd, nats, frontend, worker]
      dynamo_data_address: 127.0.0.1
      dynamo_runtime: fake
      dynamo_model: tiny
"""


class Suite:
    """A child project with tests_by_module; `run` gives the result, `record` the last run.json."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        pytester.makeini(INI)
        pytester.makeconftest(CONFTEST)
        self.write("inventory/runtimes/fake.yaml", "engine: mocker\npackages: {ai-dynamo: 1.6.1}\n")
        self.write("inventory/models/tiny.yaml", "recipe: tiny\nserved_name: tiny\n")
        self.requires("M00-*")
        self.write("tests_by_module/__init__.py", "")

    def write(self, path: str, text: str) -> Path:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text), encoding="utf-8")
        return target

    def requires(self, *patterns: str) -> None:
        self.write("inventory/local.yaml", INVENTORY.replace("{requires}", json.dumps(patterns)))

    def module(self, number: int, tests: str, thresholds: str = "", name: str = "test_it.py") -> None:
        folder = f"tests_by_module/module_{number:02}_fake"
        self.write(f"{folder}/__init__.py", "")
        self.write(f"{folder}/thresholds.yaml", thresholds)
        self.write(f"{folder}/{name}", "import pytest\n" + textwrap.dedent(tests))

    def run(self, *args: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess("-p", "no:cacheprovider", *args, timeout=ENDS_WITHIN_S)

    @property
    def latest(self) -> Path:
        return self.path / "reports" / "latest"

    def record(self) -> dict:
        return json.loads((self.latest / "run.json").read_text(encoding="utf-8"))

    def outcomes(self) -> dict[str, str]:
        return {check["id"] + check["case"]: check["outcome"] for check in self.record()["checks"]}


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in ("CI", "BUILD_NUMBER"):  # pytest's summary holds whole reasons where one of them is set
        monkeypatch.delenv(name, raising=False)
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), inherited])))
    return Suite(pytester)


@pytest.fixture
def opened(tmp_path):
    """Opens a page in a browser of `width` pixels: its DOM, and what the browser complained of."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine")
    number = iter(range(9))

    def opened(page, *options):
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        profile = f"--user-data-dir={tmp_path}/profile-{next(number)}"
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *quiet, profile, *options]
        command = [*browser, "--enable-logging=stderr", "--dump-dom", page.resolve().as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)

    return opened
