"""A deployment that somebody else has started is checked, and left exactly as it was."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.cluster.inventory import load
from fixtures.cluster.nodes import Transcript, connect
from fixtures.product.deployments.equipping import equip
from fixtures.product.deployments.run_stages import RunStages
from fixtures.product.runtimes.provision import to_terminal
from plugins.tests.by_default import ByDefault, by_default
from plugins.tests.by_hand import NAMESPACE, by_hand
from plugins.tests.children import LOCAL_INVENTORY, installed, inventory, nothing_left, start, tree

pytestmark = pytest.mark.slow

__all__ = ["installed", "inventory", "start", "tree"]

# somebody else: a proxy that leaves a connection to the frontend open for each of its clients, and writes to etcd
LEAVES_SOMETHING = """
import asyncio, base64, json, urllib.request
kept = []
async def carry(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def serve(reader, writer):
    kept.append(await asyncio.open_connection("127.0.0.1", 8000))
    up_reader, up_writer = await asyncio.open_connection("127.0.0.1", 8000)
    await asyncio.gather(carry(reader, up_writer), carry(up_reader, writer), return_exceptions=True)
def put(number):
    pair = {"key": f"else/{number}".encode(), "value": b"x" * 20_000}
    body = json.dumps({name: base64.b64encode(value).decode() for name, value in pair.items()}).encode()
    urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:2379/v3/kv/put", body), timeout=5).read()
async def main():
    await asyncio.start_server(serve, "127.0.0.1", 8001)
    print("ready", flush=True)
    for number in range(10**6):
        await asyncio.to_thread(put, number)
        await asyncio.sleep(0.05)
asyncio.run(main())
"""
# somebody else's gateway: it sends one POST in ten twice, and goes on with a request after its client has left
SENDS_TWICE = """
import threading
from types import SimpleNamespace
from fixtures.plants.proxy import CorruptingProxy
class SendsTwice(CorruptingProxy):
    lingers_s, posts = 8.0, 0
    async def received(self, request):
        self.posts += request.method == "POST"
        self.times_sent = 2 if request.method == "POST" and self.posts % 10 == 0 else 1
        return await request.read()
frontend = SimpleNamespace(endpoint=SimpleNamespace(url="http://127.0.0.1:8000"))
SendsTwice().serving(frontend)
print(frontend.request_url, flush=True)
threading.Event().wait()
"""
# somebody else: opens connections to the frontend once others' clients have left it, and keeps them
LEAVES_CONNECTIONS = """
import re, socket, time, urllib.request
def left():
    page = urllib.request.urlopen("http://127.0.0.1:8000/metrics", timeout=5).read().decode()
    return sum(map(float, re.findall(r"(?m)^dynamo_frontend_model_cancellation_total.* (\\S+)$", page)))
before = left()
print("ready", flush=True)
while left() < before + 3:
    time.sleep(0.02)
kept = [socket.create_connection(("127.0.0.1", 8000)) for _ in range(60)]
time.sleep(600)
"""
MODULES = (
    "module_02_frontend",
    "module_03_workers_and_backends",
    "module_05_messaging",
    "module_06_kv_aware_routing",
)
# those that need many at once, files of the model, or KV events on NATS
SEEN_HERE = ("M03-07", "M03-09", "M05-11", "M05-26", "M05-27", "M06-08", "M06-16", "M06-17", "M06-25")
SETTLES_WITHIN_S = 20
# the mocker's 100 tokens take 0.65 s, and two workers are to have 12 requests at once
ENOUGH_AT_ONCE_PER_S = 40
TESTS = LOCAL_INVENTORY.parents[1] / "tests_by_module"
# those that the frontend counts: for an answer of the model; inventory/README.md counts the others as well
SMOKE_REQUESTS = 20
# those that count, or send many at once, and need no port of a worker
OPENED = (
    *("M02-21", "M02-23", "M02-24", "M02-25", "M02-30", "M02-36", "M03-02", "M03-03", "M03-04", "M03-10"),
    *("M04-11", "M04-24", "M04-25", "M05-19", "M05-20", "M05-21"),
)
LOAD_PER_S = 20


def test_what_was_started_by_hand_is_checked_and_left_as_it_was(start, inventory, tmp_path):
    run = start("tests_by_module/module_01_first_inference", "-m", "smoke").ended(0)
    transcript = (run.tree / "reports" / run.run_id / "transcript.txt").read_text()
    with by_hand(transcript, run.run_id, tmp_path / "by-hand") as theirs:
        before, workers = theirs.settled(), theirs.served_by()
        assert len(before.processes) >= 7 and len(before.keys) >= 4  # two shells and what they started, and its keys
        cluster = (
            "dynamo_managed: false",
            f"dynamo_etcd_url: {theirs.etcd_url}",
            f"dynamo_nats_url: {theirs.nats_url}",
            f"dynamo_frontend_url: {theirs.endpoint.url}",
            f"dynamo_namespace: {NAMESPACE}",
            f"dynamo_attached_load: {ENOUGH_AT_ONCE_PER_S}",
        )
        cache = run.tree / "cache-of-by-hand"
        site = inventory(f"dynamo_cache: {cache}", cluster=cluster, dynamo_runtime="installed")
        attached = start(*(f"tests_by_module/{name}" for name in MODULES), "--inventory", site).ended(0)
        outcomes = attached.outcomes()
        for module in MODULES:
            mine = [outcome for (check_id, _), outcome in outcomes.items() if check_id[1:3] == module[7:9]]
            assert mine.count("passed") > 3 and mine.count("not_covered") > 3, attached.text
        assert {outcomes[check, ""] for check in SEEN_HERE} == {"passed"}, attached.text
        assert set(outcomes.values()) == {"passed", "not_covered", "known_defect"}, attached.text
        nothing_left(attached.run_id, cache)

        def grown() -> tuple[bool | None, object]:
            pairs = {number: (before.open_files.get(number, 0), files) for number, files in theirs.open_files().items()}
            more = {number: pair for number, pair in pairs.items() if pair[1] > pair[0]}
            return (None if more else True), f"open files of processes, before and now: {more}"

        wait_until(grown, Deadline(SETTLES_WITHIN_S, "connections to be closed"))
        after = theirs.state()
        assert (after.processes, after.keys) == (before.processes, before.keys)
        assert theirs.served_by() == workers


@pytest.fixture(scope="module")
def defaults(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByDefault]:
    """A Dynamo that was started with its own defaults."""
    site = load(LOCAL_INVENTORY)
    node = connect(site.nodes[0], run_id=f"t{secrets.token_hex(4)}", transcript=Transcript(), watchdog_grace_s=30)
    try:
        equipment = equip(node, site, RunStages(), to_terminal)
        with by_default(equipment, tmp_path_factory.mktemp("by-default") / "folder", tree) as theirs:
            yield theirs
    finally:
        assert node.close() == []


def attach(theirs: ByDefault, tree: Path, *arguments: str, **changed: str) -> tuple[int, dict[str, str], str]:
    """(exit status, "outcome: reason" by check id, output) of a run on attached.yaml, with lines of it `changed`."""
    text = (tree / "inventory" / "attached.yaml").read_text()
    for name, line in changed.items():
        (old,) = (each for each in text.splitlines() if each.strip().startswith(f"{name}:"))
        text = text.replace(old, line and f"{old.partition(name)[0]}{name}: {line}")
    site = tree / "inventory" / f"attached-{secrets.token_hex(4)}.yaml"
    site.write_text(text)
    done = theirs.run("-m", "pytest", "-p", "no:cacheprovider", *arguments, "--inventory", str(site))
    record = json.loads((tree / "reports" / "latest" / "run.json").read_text())
    # of a check with several cases, one that ran
    checks = sorted(record["checks"], key=lambda check: check["outcome"] != "not_covered")
    told = {check["id"]: f"{check['outcome']}: {check['reason']}" for check in checks}
    return done.returncode, told, done.stdout


def modules(*numbers: str) -> list[str]:
    return [f"tests_by_module/{each.name}" for each in sorted(TESTS.glob("module_*")) if each.name[7:9] in numbers]


def test_a_frontend_that_has_spoken_to_no_worker_yet_is_found_connected_to_each(defaults, tree):
    """First of all: what was asked of the frontend so far has opened no connection."""
    assert defaults.asked() == 0
    status, told, text = attach(defaults, tree, *modules("00"), "-k", "connected")
    assert (status, told["M00-06"][:6]) == (0, "passed"), text


def test_a_dynamo_with_its_own_defaults_is_accepted_and_what_it_does_not_offer_is_named(defaults, tree):
    before = defaults.revision()
    status, told, text = attach(defaults, tree, *modules("00", "01", "04", "05", "06"))
    assert status == 0 and "ACCEPTED" in text.strip().splitlines()[-1], text
    assert defaults.revision() == before, "something was written into etcd"
    offered_by = {
        "M00-07": "DYN_SYSTEM_PORT",
        "M01-08": "DYN_SYSTEM_PORT",
        "M04-17": "DYN_SYSTEM_PORT",
        "M04-18": "DYN_SYSTEM_PORT",
        "M05-09": "DYN_EVENT_PLANE=nats",
        "M05-10": "DYN_EVENT_PLANE=nats",
        "M06-01": "--router-mode kv",
        "M06-17": "--router-mode kv",
    }
    for check, variable in offered_by.items():
        assert told[check].startswith("not_covered") and variable in told[check], told[check]
    passed = (
        "M00-03",
        "M00-06",
        "M00-16",
        *(f"M00-{number}" for number in range(18, 24)),
        "M04-01",
        "M05-07",
        "M06-24",
    )
    assert {check: told[check] for check in passed if not told[check].startswith("passed")} == {}


def test_what_requests_leave_behind_is_found(defaults, tree):
    proxied = "http://127.0.0.1:8001\n    dynamo_frontend_direct_url: http://127.0.0.1:8000"
    with defaults.in_the_background(LEAVES_SOMETHING):
        status, told, text = attach(defaults, tree, *modules("00"), "-m", "at_end", dynamo_frontend_url=proxied)
    assert status == 1, text
    assert "frontend: descriptors grow by" in told["M00-18"], told["M00-18"]
    assert "etcd: the bytes that it uses grow by" in told["M00-21"], told["M00-21"]
    others = {check: each for check, each in told.items() if check not in ("M00-18", "M00-21", "M00-24")}
    assert all(each.startswith("passed") for each in others.values()), others
    # these namespaces do not show the kernel's messages
    assert told["M00-24"].startswith(("passed", "not_covered: kernels' messages could not be looked at")), told[
        "M00-24"
    ]


def test_what_a_gateway_does_to_requests_is_found(defaults, tree):
    direct = "http://127.0.0.1:8000"
    with defaults.in_the_background(SENDS_TWICE) as gateway:
        proxied = f"{gateway}\n    dynamo_frontend_direct_url: {direct}"
        chosen = (*modules("02"), "-k", "M02-44 or M02-23")
        status, told, text = attach(
            defaults, tree, *chosen, dynamo_frontend_url=proxied, dynamo_attached_load=str(LOAD_PER_S)
        )
    assert status == 1, text
    twice = f"requests that were sent once, through the proxy at {gateway} to the frontend at {direct}, it has counted"
    assert told["M02-44"].startswith("failed") and twice in told["M02-44"], told
    late = (
        f"failed: the proxy at {gateway} does not pass on in time to the frontend at {direct} that its client has left"
    )
    assert told["M02-23"].startswith(late), told


def test_what_disturbs_nobody_runs_within_the_declared_load(defaults, tree):
    before, revision, began = defaults.asked(), defaults.revision(), time.monotonic()
    status, told, text = attach(
        defaults,
        tree,
        *modules("02", "03", "04", "05"),
        "-k",
        " or ".join((*OPENED, "M02-20", "M03-09")),
        dynamo_attached_load=str(LOAD_PER_S),
    )
    took_s = time.monotonic() - began
    assert status == 0, text
    assert {check: told[check].partition(":")[0] for check in OPENED} == dict.fromkeys(OPENED, "passed"), text
    assert 100 < defaults.asked() - before <= 1 + LOAD_PER_S * took_s
    assert defaults.revision() == revision, "something was written into etcd"
    assert "on the worker's own disk" in told["M03-09"], told
    assert "it needs a deployment with settings" in told["M02-20"], told


def test_an_etcd_that_stalls_is_seen_by_reads_alone(defaults, tree):
    revision = defaults.revision()
    with defaults.stalling(defaults.etcd):
        status, told, text = attach(defaults, tree, *modules("04"), "-k", "M04-11")
    assert status == 1 and "read_ms_max" in told["M04-11"], text
    assert defaults.revision() == revision, "something was written into etcd"


def test_connections_that_stay_after_a_storm_are_found(defaults, tree):
    with defaults.in_the_background(LEAVES_CONNECTIONS):
        status, told, text = attach(defaults, tree, *modules("02"), "-k", "M02-24")
    assert status == 1 and "open_files_more" in told["M02-24"], text


def test_what_is_left_out_is_found_out(defaults, tree):
    planes = dict.fromkeys(("dynamo_request_plane", "dynamo_event_plane", "dynamo_router_mode"), "")
    status, told, text = attach(defaults, tree, *modules("00", "05", "06"), "-k", "plane or kv_mode", **planes)
    assert status == 0, text
    assert told["M00-16"].startswith("passed") and told["M05-07"].startswith("passed"), told
    assert told["M06-01"].startswith("not_covered"), told


def test_a_router_of_another_mode_than_the_declared_one_is_found(defaults, tree):
    status, told, text = attach(defaults, tree, *modules("06"), "-k", "M06-24", dynamo_router_mode="random")
    assert status == 1 and "expected that workers are taken by chance" in told["M06-24"], text


def test_planes_that_are_declared_and_not_there_fail_with_what_was_found(defaults, tree):
    status, told, text = attach(
        defaults, tree, *modules("00"), *modules("05"), "-k", "plane", dynamo_event_plane="nats"
    )
    assert status == 1, text
    assert "dynamo_event_plane is declared nats, and etcd shows zmq" in told["M00-16"], told


def test_what_listens_on_every_address_is_told_with_the_declaration_that_accepts_it(defaults, tree):
    status, told, text = attach(defaults, tree, *modules("00"), "-k", "listen", dynamo_capabilities="[]")
    assert status == 1, text
    assert "ZMQ publishers of events, which bind every address" in told["M00-04"], told
    assert told["M00-04"].count("declare private_network") == 2, told


def test_a_smoke_run_asks_little(defaults, tree):
    before = defaults.asked()
    status, _, text = attach(defaults, tree, "tests_by_module", "-m", "smoke")
    assert status == 0, text
    assert defaults.asked() - before <= SMOKE_REQUESTS


def test_a_cause_is_named_from_a_log_that_the_inventory_declares(defaults, tree):
    logs = f"2\n      dynamo_logs: [{defaults.logs}]"
    with defaults.without_descriptors("dynamo.frontend"):
        status, told, text = attach(defaults, tree, *modules("00"), "-k", "answers", dynamo_workers=logs)
    assert status == 1 and told["M00-02"].startswith("failed"), text
    assert 'cause: the process of frontend.log has no file descriptors left: "Too many open files"' in text
    assert "accept error: Too many open files (os error 24)" in text
    status, _, text = attach(defaults, tree, *modules("00"), "-k", "answers", dynamo_workers=logs)
    assert status == 0 and "cause:" not in text, text
