"""Prefill and decode that somebody else has started: judged where they run, and what is wrong with them is found."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures.cluster.inventory import load
from fixtures.cluster.nodes import Transcript, connect
from fixtures.on_nodes import SCRIPTS
from fixtures.product.deployments.deployment import Equipment
from fixtures.product.deployments.equipping import equip
from fixtures.product.deployments.run_stages import RunStages
from fixtures.product.runtimes.provision import to_terminal
from plugins.tests.by_default import ByDefault, by_default
from plugins.tests.children import ROOT, tree
from plugins.tests.test_attached import modules

__all__ = ["tree"]

pytestmark = pytest.mark.nightly

RUNTIME, MODEL = "dynamo-1.6.1-vllm-cpu", "there"
LOAD_PER_S = 20
# PLANTED and CONNECTED are of the decode worker
START = """
worker() {
  python -m dynamo.vllm --model "$MODEL" --served-model-name tiny-qwen3 --block-size 32 --max-model-len 8192 \\
    --gpu-memory-utilization 0.2 --enforce-eager --dtype float32 --disaggregation-mode "$@" > "$1.log" 2>&1 &
}
moves() { echo '{"kv_connector": "NixlConnector", "kv_role": "'$1'", "kv_buffer_device": "cpu"}'; }
export DYN_SYSTEM_HOST=127.0.0.1 VLLM_HOST_IP=127.0.0.1 VLLM_NIXL_SIDE_CHANNEL_HOST=127.0.0.1
export GLOO_SOCKET_IFNAME=lo VLLM_RPC_BASE_PATH=.
export UCX_PROTO_INFO=y UCX_LOG_LEVEL=info UCX_LOG_FILE=stderr
python -m dynamo.frontend > frontend.log 2>&1 &
export DYN_SYSTEM_PORT=18081 VLLM_NIXL_SIDE_CHANNEL_PORT=18091
worker prefill --kv-transfer-config "$(moves kv_producer)"
export DYN_SYSTEM_PORT=18082 VLLM_NIXL_SIDE_CHANNEL_PORT=18092
export PYTHONPATH="$PLANTS" PLANTED_IN_ENGINE="$PLANTED"
if [ "$CONNECTED" ]; then worker decode --kv-transfer-config "$(moves kv_consumer)"; else worker decode; fi
wait
"""
SITE = """
all:
  vars:
    dynamo_profile: attached
    dynamo_managed: false
    dynamo_etcd_url: http://127.0.0.1:2379
    dynamo_nats_url: nats://127.0.0.1:4222
    dynamo_frontend_url: http://127.0.0.1:8000
    dynamo_attached_load: {load}
    dynamo_kv_transport: shm
    dynamo_embedded: true
    dynamo_requires: [{requires}]
  hosts:
    local:
      ansible_connection: local
      dynamo_roles: [etcd, nats, frontend, prefill, decode]
      dynamo_data_address: 127.0.0.1
      dynamo_capabilities: [real_engine]
      dynamo_runtime: {runtime}
      dynamo_model: {model}
      dynamo_logs: ["{logs}"]
"""
# two workers that share a machine's processors: a transfer waits for one longer than for memory
RECORDED = 'M10-08: {transfer_time_of_allowed: {recorded: true, unit: x, source: "two workers on two processors"}}'
OPENED = (*(f"M10-0{number}" for number in range(1, 9)), "M10-15", "M02-33", "M03-11")


@pytest.fixture(scope="module")
def equipment() -> Iterator[Equipment]:
    site = load(ROOT / "inventory" / "local-vllm-disagg.yaml")
    node = connect(site.nodes[0], run_id=f"t{secrets.token_hex(4)}", transcript=Transcript(), watchdog_grace_s=30)
    try:
        yield equip(node, site, RunStages(), to_terminal)
    finally:
        assert node.close() == []


@contextmanager
def disaggregated(
    equipment: Equipment, folder: Path, tree: Path, planted: str = "", connected: str = "yes"
) -> Iterator[ByDefault]:
    plants = folder.with_name("plants")
    plants.mkdir()
    shutil.copy(SCRIPTS / "engine_plants.py", plants / "sitecustomize.py")
    env = equipment.runtime.spec.settings.env | {"PLANTS": str(plants), "PLANTED": planted, "CONNECTED": connected}
    with by_default(equipment, folder, tree, START, **env) as theirs:
        yield theirs


def judged(theirs: ByDefault, tree: Path, equipment: Equipment, *checks: str) -> tuple[int, dict[str, str], str]:
    """(exit status, "outcome: reason" by check id, output) of a run of these checks."""
    folder = tree / "inventory"
    text = (folder / "runtimes" / f"{RUNTIME}.yaml").read_text()
    (folder / "runtimes" / "installed.yaml").write_text(f"{text}path: {equipment.runtime.path}\n")
    (folder / "models" / f"{MODEL}.yaml").write_text(f"path: {equipment.model.path}\nserved_name: tiny-qwen3\n")
    site = folder / "attached-disaggregated.yaml"
    names = {"runtime": "installed", "model": MODEL, "logs": theirs.logs, "load": LOAD_PER_S}
    site.write_text(SITE.format(requires=", ".join(checks), **names))
    site.with_suffix(".thresholds.yaml").write_text(RECORDED)
    chosen = (*modules("02", "03", "10"), "-k", " or ".join(checks), "-m", "not nightly")
    done = theirs.run("-m", "pytest", "-p", "no:cacheprovider", *chosen, "--inventory", str(site))
    record = json.loads((tree / "reports" / "latest" / "run.json").read_text())
    return done.returncode, {c["id"]: f"{c['outcome']}: {c['reason']}" for c in record["checks"]}, done.stdout


def test_what_disturbs_nobody_judges_what_runs_already(equipment, tree, tmp_path):
    with disaggregated(equipment, tmp_path / "theirs", tree) as theirs:
        before, revision, began = theirs.asked(), theirs.revision(), time.monotonic()
        status, told, text = judged(theirs, tree, equipment, *OPENED)
        assert status == 0 and {each.partition(":")[0] for each in told.values()} == {"passed"}, text
        assert theirs.asked() - before <= 1 + LOAD_PER_S * (time.monotonic() - began)
        assert theirs.revision() == revision, "something was written into etcd"


def test_damaged_blocks_and_lost_aborts_are_found(equipment, tree, tmp_path):
    with disaggregated(equipment, tmp_path / "theirs", tree, planted="aborts_lost corrupt_blocks") as theirs:
        status, told, text = judged(theirs, tree, equipment, "M10-02", "M10-03", "M10-04", "M10-05")
    assert status == 1 and all("gap_of_allowed" in told[f"M10-0{number}"] for number in (2, 3, 4)), text
    assert "decode" in told["M10-05"], told


def test_a_decode_worker_that_computes_the_prompts_itself_is_found(equipment, tree, tmp_path):
    with disaggregated(equipment, tmp_path / "theirs", tree, connected="") as theirs:
        status, told, text = judged(theirs, tree, equipment, "M10-06", "M10-07", "M10-08")
        assert status == 1 and "decode computed" in told["M10-06"] and "decode computed" in told["M10-07"], text
        assert "transfer_time_of_allowed" in told["M10-08"], text
