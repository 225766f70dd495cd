"""Prefill really ran elsewhere, and its KV came over the link that was meant, fast enough for it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32

import pytest

from fixtures.answers.ask import ask
from fixtures.answers.oracle import LONGEST_TOKENS
from fixtures.answers.prompts import Prompt
from fixtures.basics.check import check
from fixtures.basics.deadline import DeadlineExceeded
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.require import require
from fixtures.cluster.inventory.dtypes import served_kv_dtype
from fixtures.cluster.inventory.model import Inventory
from fixtures.cluster.nodes import Node, RemoteError
from fixtures.cluster.probes.probe import carriers, data_interface
from fixtures.kv.counters import carried, loaded
from fixtures.kv.floor import Link, judge_transfers, kv_bytes_per_token, netdev_link, rdma_link, unused_kv
from fixtures.kv.pair import plain_copy
from fixtures.kv.side import Refused
from fixtures.kv.ucx_log import parse
from fixtures.kv.witness import Witness, witness
from fixtures.product.runtimes.model_files import ModelFiles
from fixtures.product.services.dynamo import Worker
from fixtures.run import Run
from tests_by_module.module_10_disaggregated_serving.prefill_decode import (
    Asked,
    Counted,
    Found,
    Sides,
)
from tests_by_module.module_10_disaggregated_serving.running import context_tokens

pytestmark = pytest.mark.needs("real_engine", "system_port", "runtime")

# of KV that is moved for the witness: far above what else a deployment says meanwhile
LEAST_WITNESSED_BYTES = 4_000_000
COPIED_BYTES = 64 * 2**20
UCX_SAYS_NOTHING = (
    "within a node only UCX says which way KV goes: it needs UCX_PROTO_INFO=y, UCX_LOG_LEVEL=info and "
    "UCX_LOG_FILE=stderr for the workers, and their logs in dynamo_logs"
)
HEADERS = (
    "prompt",
    "tokens",
    "prefill computed",
    "prefill had cached",
    "decode computed",
    "decode had cached",
    "KV came",
    "MB",
)


@pytest.fixture(scope="module")
def bytes_per_token(run: Run, sides: Sides, files: ModelFiles) -> int:
    args = run.equipment()[sides.decode[0].node.name].runtime.spec.settings.args
    return kv_bytes_per_token(files.config, served_kv_dtype(files.config, args))


@check(
    "M10-06",
    judged="for each prompt of `M10-02`, what each side computed, had cached and received; decode's own share; bytes "
    "moved against those of the prompts",
    evidence="table by length",
    by_hand="vllm:prompt_tokens_by_source_total and vllm:nixl_bytes_transferred of both workers",
    causes=[38, 48, 49],
)
def test_prefill_ran_on_the_prefill_worker(
    cold: dict[str, Asked], bytes_per_token: int, run: Run, sides: Sides, measure: Measure, evidence: Evidence
):
    """At every prompt length, prefill computes the prompt and decode receives its KV."""
    for asked in cold.values():
        sides.require_alone(asked.counted, asked.tokens)
    block = run.equipment()[sides.decode[0].node.name].runtime.spec.settings.block_size or 16
    rows, wrong = [], Findings()
    total = {"prefill": Counted(), "decode": Counted()}
    for name, asked in cold.items():
        prefill, decode = asked.counted["prefill"], asked.counted["decode"]
        for side, counted in asked.counted.items():
            total[side] = total[side] + counted
        megabytes = f"{sides.moved(asked.counted).nixl_bytes / 1e6:.3g}"
        rows.append(
            (
                name,
                asked.tokens,
                prefill.computed,
                prefill.cached,
                decode.computed,
                decode.cached,
                decode.transferred,
                megabytes,
            )
        )
        if asked.tokens > block and decode.computed > block:
            wrong.add(f"{name}: decode computed {decode.computed:g} of {asked.tokens} tokens itself")
        wrong.extend(
            f"{name}: the {side} side counted {counted.tokens:g} of {asked.tokens} tokens"
            for side, counted in asked.counted.items()
            if counted.tokens < asked.tokens
        )
    evidence.table("where prompts were computed", HEADERS, rows)
    tokens = sum(asked.tokens for asked in cold.values())
    measure("decode_computed_share", total["decode"].computed / tokens, n=tokens)
    measure("prefill_counted_share", total["prefill"].tokens / tokens, n=tokens)
    expected = [int(each.counted["decode"].transferred) for each in cold.values()]
    if why := unused_kv(sides.moved(total).nixl_bytes, expected, bytes_per_token):
        wrong.add(why)
    wrong.judge()
    measure.judge()


@dataclass(frozen=True)
class Moved:
    """A known amount of KV: what the witness says, what decode counted, and what each of decode's RDMA ports carried.

    As a share of the KV, `on_data`: bytes on the data link, `on_rails`: on the declared RDMA devices of the side where
    these carried least.
    """

    told: Witness
    counted: Counted
    rdma: dict[str, float]
    on_data: float
    on_rails: float


@pytest.fixture(scope="module")
def moved(run: Run, sides: Sides, bytes_per_token: int, files: ModelFiles) -> Moved:
    """A known amount of KV, and what every look says of it."""
    settings = run.equipment()[sides.decode[0].node.name].runtime.spec.settings
    longest = settings.max_model_len or 4096
    if sides.deployment.shared:
        longest = min(context_tokens(sides.deployment), LONGEST_TOKENS)
    longest -= 64
    ids = files.tokenizer().plain_ids
    many = max(1, -(-LEAST_WITNESSED_BYTES // (longest * bytes_per_token)))
    # a deployment that runs already may hold those of an earlier run with the same seed
    first = crc32(run.run_id.encode()) if sides.deployment.shared else run.seed
    prompts = [
        Prompt(f"witness {n}", [ids[(7 * k + 13 * n + first) % len(ids)] for k in range(longest)], ())
        for n in range(many)
    ]
    workers = sides.workers.values()
    nodes = {worker.node.name: worker.node for worker in workers}
    pids = {name: [pid_of(each) for each in workers if each.node.name == name] for name in nodes}
    before, counted = {name: carriers(node) for name, node in nodes.items()}, sides.counted()
    for prompt in prompts:
        # the first one may compile kernels, and on emulated processors each takes minutes
        answer = ask(sides.deployment.endpoint, prompt, max_tokens=1, timeout_s=settings.ready_within_s)
        if not answer.ok:
            raise CouldNotLook(f"{prompt.name}: {answer.describe()}")
    both = sides.counted_since(counted, longest * many)
    sides.require_alone(both, longest * many)
    now = sides.moved(both)
    after = {name: carriers(node, pids[name]) for name, node in nodes.items()}
    seen = [carried(name, before[name], after[name]) for name in nodes]
    told = witness(
        expected_bytes=longest * many * bytes_per_token,
        counted_bytes=now.nixl_bytes,
        carried=seen,
        ucx=[parse(worker.log()) for worker in workers],
        loaded=[each for state in after.values() for each in loaded(state["processes"])],
        memory="cuda" if all(map(run.inventory.kv_is_on_gpu, nodes)) else "host",
        operation=sides.counters.operation,
    )
    of_sides = [{worker.node.name for worker in side} for side in sides.both.values()]
    on_data = {each.node: each.netdevs.get(data_interface(nodes[each.node]), 0.0) for each in seen}
    on_rails = {each.node: on_declared(each.rdma, nodes[each.node].spec.rdma_ports) for each in seen}
    rdma = next(each.rdma for each in seen if each.node == sides.decode[0].node.name)
    data, rails = (shares_of(now.nixl_bytes, each, of_sides) for each in (on_data, on_rails))
    return Moved(told, now, rdma, max(data), min(rails))


def on_declared(rdma: Mapping[str, float], ports: Collection[str]) -> float:
    return sum(count for port, count in rdma.items() if port in ports)


def shares_of(kv_bytes: float, counted: Mapping[str, float], of_sides: Iterable[Collection[str]]) -> list[float]:
    """Of each side the bytes of its nodes, as a share of the KV: what one side sends, the other receives."""
    return [sum(counted[node] for node in side) / kv_bytes if kv_bytes else 0.0 for side in of_sides]


@pytest.mark.needs("kv_transport")
@check(
    "M10-07",
    judged="bytes by NIXL's count, by interface, by RDMA port, UCX's own words and the loaded libraries for a known "
    "amount of KV, against `dynamo_kv_transport`; over tcp the data link's share, over rdma the declared devices'",
    evidence="the witness",
    by_hand="UCX_PROTO_INFO=y; /proc/net/dev before and after a known amount of KV",
    causes=[44, 79],
)
def test_kv_goes_by_the_declared_transport(moved: Moved, inventory: Inventory, measure: Measure, evidence: Evidence):
    """KV takes the declared transport, by the counts of NIXL, interfaces and RDMA ports and by UCX's own log."""
    evidence.note("the witness", "\n".join(moved.told.sentences))
    if not inventory.cluster.dynamo_managed and moved.told.transport == "unknown":
        raise NotOffered(UCX_SAYS_NOTHING)
    declared = require(inventory.cluster.dynamo_kv_transport, "dynamo_kv_transport")
    wrong = moved.told.against(declared)
    Findings(wrong).judge()
    if declared == "tcp":
        measure("data_link_of_kv_bytes", moved.on_data)
    if declared == "rdma":
        measure("declared_devices_of_kv_bytes", moved.on_rails)
    measure.judge()


@check(
    "M10-08",
    judged="time of a transfer against the floor (`fixtures/kv/floor.yaml`) that follows from the link, or on one node "
    "from a copy within the memory that KV is in; recorded in a lab",
    evidence="sentence",
    by_hand="vllm:nixl_bytes_transferred and vllm:nixl_xfer_time_seconds, against the link's rate",
    causes=[43],
)
def test_kv_moves_as_fast_as_its_link_allows(
    moved: Moved, run: Run, sides: Sides, inventory: Inventory, measure: Measure, evidence: Evidence
):
    """A KV transfer takes no longer than the link between prefill and decode allows."""
    counted, decode = moved.counted, sides.decode[0].node
    within = {near.node is far.node for near in sides.prefill for far in sides.decode}
    if len(within) > 1:
        raise NotOffered("some of the KV stays on its node and some takes a link: the two have no floor in common")
    link = _copy(run, decode) if True in within else _link(inventory, decode, moved.rdma)
    judged = judge_transfers(counted.transfers(), link)
    ends = sorted({decode.name, *(near.node.name for near in sides.prefill)})
    staged = ", ".join(name for name in ends if _is_staged(inventory, name))
    more = f". Without the copies between GPU and host memory on {staged}" if staged else ""
    evidence.note("the floor", f"{judged.sentence}{more}")
    measure("kv_of_link_share", judged.share, n=int(counted.nixl_count))
    measure(
        "transfer_time_of_allowed", judged.time_over_allowed if counted.nixl_count else None, n=int(counted.nixl_count)
    )
    measure.judge()


@check(
    "M10-15",
    judged="after the prompts of `M10-02` and `M10-07`, what both workers count since their start as failed "
    "transfers (in vLLM 0.31 failed handshakes and notifications are among them) and as failed notifications, "
    "before a side is lost; of workers that ran already what they count since the run has found them",
    evidence="table",
    by_hand="vllm:nixl_num_failed_transfers_total and vllm:nixl_num_failed_notifications_total of both workers",
)
def test_no_transfer_and_no_notification_failed(
    cold: dict[str, Asked], moved: Moved, sides: Sides, measure: Measure, evidence: Evidence
):
    """Neither side counts a failed transfer or a failed notification."""
    rows, counters = [], sides.counters
    for name, workers in sides.both.items():
        pages, before = [sides.page(worker) for worker in workers], sides.before.get(name, Counted())
        failed = sum(map(counters.failed.require, pages)) - before.failed
        untold = sum(map(counters.unnotified.require, pages)) - before.untold if counters.unnotified else 0
        rows.append((name, failed, untold, before.failed, before.untold))
    headers = ["side", "transfers", "notifications", "transfers before", "notifications before"]
    evidence.table("what failed", headers, rows)
    transfers = int((sides.moved(sides.counted()) - sides.before.get(counters.moved_by, Counted())).nixl_count)
    measure("failed_transfers", sum(row[1] for row in rows), n=transfers)
    if counters.unnotified:
        measure("failed_notifications", sum(row[2] for row in rows), n=transfers)
    measure.judge()
    counters.require("unnotified")


def pid_of(worker: Worker | Found) -> int:
    return worker.pid if isinstance(worker, Found) else worker.require_process().pgid


def _is_staged(inventory: Inventory, node: str) -> bool:
    """Whether KV goes by memory of the host although a GPU computes it."""
    return "gpu" in inventory.node(node).dynamo_capabilities and not inventory.kv_is_on_gpu(node)


def _copy(run: Run, node: Node) -> Link:
    """A copy between the memories that KV is in, on a node that has prefill and decode. Raises CouldNotLook."""
    if run.inventory.kv_is_on_gpu(node.name) and not run.inventory.cluster.dynamo_managed:
        raise NotOffered("the floor is that of a copy on the GPU, which would take memory and time of who serves there")
    try:
        runtime = run.equipment()[node.name].runtime
        return plain_copy(node, runtime, COPIED_BYTES, on_gpu=run.inventory.kv_is_on_gpu(node.name))
    except (Refused, RemoteError, DeadlineExceeded) as error:
        raise CouldNotLook(f"{node.name}: no plain copy to compare with: {error}") from error


def _link(inventory: Inventory, node: Node, carried: dict[str, float]) -> Link:
    """The link that the inventory declares for KV, whose RDMA ports carried so many bytes each.

    Raises CouldNotLook where it tells no rate.
    """
    state, ports = carriers(node), inventory.node(node.name).rdma_ports
    try:
        if ports and inventory.cluster.dynamo_kv_transport in ("rdma", None):
            return rdma_link(state["rdma"], ports, carried)
        name = data_interface(node)
        return netdev_link(name, state["netdevs"][name])
    except ValueError as error:
        raise CouldNotLook(f"{node.name}: {error}") from None
