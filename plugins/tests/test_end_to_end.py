"""The suite as its users run it, end to end: bad input, neighbours, sudden ends, and a deployment that is kept."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.cli.soak import CACHE_HERE, left_behind, processes_of
from fixtures.clients.etcd import Etcd
from fixtures.tests.sshd import free_port
from plugins.tests.children import ROOT, Child, installed, inventory, nothing_left, start, tree

pytestmark = pytest.mark.slow

__all__ = ["installed", "inventory", "start", "tree"]

ALL = ("tests_by_module/module_00_architecture", "tests_by_module/module_01_first_inference")

# --- wrong before a node is touched ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "args", "told"),
    [
        (["dynamo_workerz: 3"], [], r"site-\w+\.yaml:\d+: unknown variable dynamo_workerz.*dynamo_workers"),
        (["dynamo_workers: 3"], [], r"site-\w+\.yaml:\d+: .*dynamo_workers"),
        ([], ["--plant", "worker_absend"], "there is no plant 'worker_absend'; did you mean worker_absent or "),
    ],
    ids=["unknown variable", "duplicate key", "unknown plant"],
)
def test_what_is_wrong_before_a_node_is_touched(start, inventory, tree, lines, args, told):
    before = set(os.listdir(tree / "reports"))
    cache = tree / "untouched"
    child = start(*ALL, "--inventory", inventory(*lines, f"dynamo_cache: {cache}"), *args).ended(4)
    assert re.search(told, child.text) and len(child.text.strip().splitlines()) < 5, child.text
    assert set(os.listdir(tree / "reports")) == before and not cache.exists()


def test_a_dry_run_prints_the_commands_and_touches_nothing(start, inventory, tree):
    before, cache = set(os.listdir(tree / "reports")), tree / "dry"
    text = start("tests_by_module", "--dry-run", "--inventory", inventory(f"dynamo_cache: {cache}")).ended(0).text
    for part in (
        "# local\n",
        "uv pip install",
        "etcd --name",
        "-m dynamo.frontend",
        "-m dynamo.mocker",
        f"{cache}/runs/",
    ):
        assert part in text
    assert set(os.listdir(tree / "reports")) == before and not cache.exists()


def test_what_a_dry_run_shows_serves_when_it_is_pasted(start, inventory, tree):
    mine = inventory(f"dynamo_cache: {tree / 'pasted'}")
    lines = start("tests_by_module", "--dry-run", "--inventory", mine).ended(0).text.splitlines()
    port = next(found[1] for line in lines if (found := re.search(r"dynamo\.frontend .*--http-port (\d+)", line)))
    script = "\n".join([*(f"{line}\nsleep 1" if line.endswith("&") else line for line in lines), "wait"])
    shell = subprocess.Popen(["bash"], stdin=subprocess.PIPE, text=True, start_new_session=True, cwd=tree)
    try:
        shell.stdin.write(script)
        shell.stdin.close()

        def look() -> tuple[bool | None, object]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                    return json.load(answer)["data"] or None, "no model"
            except OSError as error:
                return None, error

        wait_until(look, Deadline(90, "pasted commands to serve a model"))
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


# --- wrong on a node -------------------------------------------------------------------------------------------------


def refused(child: Child, check_id: str, told: str, cache: Path) -> None:
    """REJECTED by one check with one message; all others are blocked by it, and nothing is left."""
    child.ended(1)
    assert child.last_line.startswith("REJECTED")
    reasons = child.reasons()
    assert re.match(f"failed: [^$]*{told}", reasons.pop(check_id)), child.text
    others = {reason for reason in reasons.values() if not reason.startswith("passed")}
    assert others and all(reason.startswith(f"error: blocked by {check_id}: ") for reason in others), others
    nothing_left(child.run_id, cache)


def test_an_unreachable_node_blocks_everything_once(start, inventory, tree):
    port = free_port()
    lines = ("ansible_host: 127.0.0.1", f"ansible_port: {port}", "dynamo_host_key_checking: false")
    child = start(*ALL[:1], "--inventory", inventory(*lines, ansible_connection="ssh"))
    refused(child, "M00-01", rf"Unreachable: .*local.*127\.0\.0\.1.*{port}", CACHE_HERE)
    assert len(set(child.reasons().values())) == 2  # the failure, and one line for all that it blocks


def test_a_missing_server_that_cannot_be_had_is_told(start, inventory, tree):
    path = tree / "path-without-servers"
    path.mkdir()
    for name in ("env", "sh", "ls", "mkdir", "cat"):
        (path / name).symlink_to(shutil.which(name))
    (path / "python3").symlink_to(Path(sys.executable).resolve())
    cache = tree / "cache-without-servers"
    site = inventory(f"dynamo_cache: {cache}", dynamo_runtime="installed")
    child = start(*ALL[:1], "--inventory", site, PATH=str(path)).ended(1)
    told = {reason for reason in child.reasons().values() if not reason.startswith(("passed", "not_covered"))}
    (whole,) = (reason for reason in told if "no apt-get to unpack etcd-server with: install etcd" in reason)
    assert len(told) == 2 and all("blocked by M01-01: see M00-" in reason for reason in told - {whole}), told
    assert "blocked by M01-01" in whole
    nothing_left(child.run_id, cache)


def test_a_runtime_that_cannot_be_installed_is_told(start, inventory, tree):
    runtime = {"engine": "mocker", "packages": {"ai-dynamo": "1.6.99"}, "imports": ["dynamo.llm"]}
    (tree / "inventory" / "runtimes" / "no-such.yaml").write_text(json.dumps(runtime))
    cache = tree / "cache-of-no-such"
    child = start(
        ALL[1],
        "--inventory",
        inventory(f"dynamo_cache: {cache}", dynamo_runtime="no-such"),
        "-k",
        "not room and not gpus and not greedy",
    )
    refused(child, "M01-01", r"local: no-such cannot be provisioned: installing ai-dynamo==1\.6\.99 failed", cache)


def test_a_cache_that_cannot_be_written_is_told(start, inventory, tree):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    cache = tree / "read-only"
    cache.mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", str(cache), str(cache)], check=True)
    try:
        child = start(*ALL[:1], "--inventory", inventory(f"dynamo_cache: {cache}"))
        refused(child, "M00-01", r"cannot write in the cache folder .*Read-only file system.*dynamo_cache", cache)
    finally:
        subprocess.run(["umount", str(cache)], check=True)


# --- runs beside each other, and runs that are ended -----------------------------------------------------------------


def test_two_runs_at_once_and_two_runners_give_what_one_gives(start):
    alone, second = start(*ALL), start(*ALL)
    for child in (alone.ended(0), second.ended(0)):
        assert child.last_line.startswith("ACCEPTED for the part selected")
    assert alone.run_id != second.run_id and alone.outcomes() == second.outcomes()
    shared = start(*ALL, "-n", "2").ended(0)
    assert shared.last_line == alone.last_line and shared.outcomes() == alone.outcomes()
    for child in (alone, second, shared):
        assert child.record["tear_down_errors"] == []
        nothing_left(child.run_id)


def test_nothing_is_left_when_pytest_is_killed(start):
    child = start("tests_by_module/module_04_service_discovery")
    child.until_it_serves()
    run_id = child.run_id
    assert any("etcd" in line for line in left_behind(run_id))  # the look sees what it must see gone
    child.process.kill()
    child.process.wait()
    nothing_left(run_id, killed=True)


def test_two_runners_share_a_node_where_no_check_can_run_that_needs_it_alone(start):
    """Destructive checks and those of speed are selected, and need an engine that is not declared."""
    child = start(*ALL, "tests_by_module/module_10_disaggregated_serving", "-n", "2").ended(0)
    timeline = child.record["timeline"]
    took = {entry["what"]: entry["duration_s"] for entry in timeline if entry["what"].endswith(": nodes")}
    assert sorted(took) == ["gw0: nodes", "gw1: nodes"] and max(took.values()) < 5, took
    assert not [entry for entry in timeline if ": wait: " in entry["what"]]


KILLS_ITS_RUNNER = """
import os, signal

def pytest_runtest_call(item):
    if item.user_properties == [("check", "M00-03")]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_runner_had_is_gone_and_another_brings_up_its_own(start, tree):
    (tree / "kills_its_runner.py").write_text(KILLS_ITS_RUNNER)
    child = start(*ALL, "-n", "2", "-p", "kills_its_runner").ended(1)
    reasons = child.reasons()
    assert reasons.pop("M00-03") == (
        "error: the runner ended while this check ran (call): killed by signal 9 (SIGKILL)"
    )
    assert {reason for reason in reasons.values() if not reason.startswith(("passed", "not_covered"))} == set()
    assert len(child.record["tear_down_errors"]) == 1
    nothing_left(child.run_id, killed=True)


def test_ctrl_c_leaves_the_record_and_nothing_else(start):
    child = start("tests_by_module/module_04_service_discovery")
    child.until_it_serves()
    child.process.send_signal(signal.SIGINT)
    child.ended(2)
    assert child.last_line.startswith("INCOMPLETE")
    record = child.record
    assert (record["verdict"], record["exit_status"], record["tear_down_errors"]) == ("INCOMPLETE", 2, [])
    assert (child.tree / "reports" / child.run_id / "report.html").is_file()
    nothing_left(child.run_id)


# --- a deployment that is kept, and attached to ----------------------------------------------------------------------


def keys(url: str) -> list[tuple[str, bytes, int, int]]:
    client = Etcd(url)
    try:
        return [(key.name, key.value, key.lease_id, key.revision) for key in client.prefix("")]
    finally:
        client.close()


def test_a_kept_deployment_is_attached_to_undisturbed_and_taken_down(start, inventory):
    kept = start(ALL[0], "--keep").ended(0)
    commands = {line.split(":")[0]: shlex.split(line.partition(": ")[2]) for line in kept.record["kept"]}
    try:
        shown = subprocess.run(commands["reach it"], capture_output=True, text=True, timeout=20, check=True)
        assert json.loads(shown.stdout)["data"][0]["id"] == "tiny-qwen3"
        assert all(command in kept.text for command in kept.record["kept"])
        address = {c["kind"]: c["address"] for c in kept.record["topology"]["components"]}
        etcd_url = f"http://{address['etcd']}"
        cluster = (
            "dynamo_managed: false",
            "dynamo_attached_load: 1000",
            f"dynamo_etcd_url: {etcd_url}",
            f"dynamo_nats_url: nats://{address['nats']}",
            f"dynamo_frontend_url: http://{address['frontend']}",
            f"dynamo_namespace: acc_{kept.run_id.replace('-', '_').lower()}",
        )
        cache = kept.tree / "cache-of-attached"
        site = inventory(f"dynamo_cache: {cache}", cluster=cluster, dynamo_runtime="installed")
        before = processes_of(kept.run_id), keys(etcd_url)
        assert len(before[0]) >= 5 and len(before[1]) >= 4  # etcd, NATS, frontend, two workers, and their keys
        attached = start(*ALL, "tests_by_module/module_04_service_discovery", "--inventory", site).ended(0)
        counts = {word: list(attached.outcomes().values()).count(word) for word in ("passed", "not_covered")}
        assert sum(counts.values()) == len(attached.outcomes()) and min(counts.values()) > 5, attached.text
        reasons = attached.reasons()
        for check_id in ("M01-05", "M04-05", "M04-09", "M04-10"):
            assert "(dynamo_managed: false)" in reasons[check_id]
        nothing_left(attached.run_id, cache)
        assert not {"runtimes", "binaries", "models"} & set(os.listdir(cache))  # nothing is installed either
        site = inventory(f"dynamo_cache: {cache}", cluster=cluster)
        unknown = start(ALL[1], "-k", "pinned", "--inventory", site).ended(6).reasons()
        assert unknown["M01-01"].startswith("not_covered: ") and "do not say where they are (path)" in unknown["M01-01"]
        assert (processes_of(kept.run_id), keys(etcd_url)) == before
        subprocess.run(commands["reach it"], capture_output=True, timeout=20, check=True)
    finally:
        assert commands["take down"][:3] == ["uv", "run", "python"]
        down = [sys.executable, *commands["take down"][3:]]
        done = subprocess.run(down, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    nothing_left(kept.run_id)
