"""The end of the run against its start: what processes take and count, a request, the stores, disks and clocks."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from fixtures.basics.check import check
from fixtures.basics.errors import CouldNotLook, NotOffered
from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measure import Measure
from fixtures.basics.parallel import in_parallel
from fixtures.basics.printable import head
from fixtures.drift import judges, kernel
from fixtures.drift.chart import numbers, over_the_run
from fixtures.drift.history import fixed_request
from fixtures.drift.sample import FIXED_REQUEST, Sample
from fixtures.product.deployments.deployment import Deployment
from fixtures.run import Run
from tests_by_module.module_00_architecture.growth import most, shown, too_much

pytestmark = pytest.mark.at_end

# stretches of equal requests: besides those of other checks, or alone where this module runs alone
ROUNDS, REQUESTS = 5, 12


@pytest.fixture(scope="module")
def samples(run: Run, deployment: Deployment) -> Sequence[Sample]:
    """The samples of the run, the last of them between rounds of one request."""
    deployment = run.at("module_00.at_end", deployment)
    for number in range(1, ROUNDS + 1):
        for _ in range(REQUESTS):
            if not fixed_request(deployment).ok:
                break  # the sample says why
        run.history.take(f"round {number}")
    return run.history.samples


def require_all(what: str, seen: Sequence[str], unseen: dict[str, str]) -> None:
    """Raises NotOffered with what could not be looked at, and why: nothing is said of it."""
    if unseen or not seen:
        why = ", ".join(f"{name}: {said}" for name, said in unseen.items()) or "nothing reports them"
        raise NotOffered(f"{what} could not be looked at: {why}; well: {', '.join(seen) or 'none'}")


@check(
    "M00-18",
    judged="resident memory, descriptors and threads of each process with those that it started, in samples over the "
    "whole run, against the requests that it served: the growth by request, in the median over the stretches between "
    "samples",
    evidence="chart; tables of its numbers, of growth, of restarts and of what was not seen",
    by_hand="ls /proc/PID/fd | wc -l; grep -E 'VmRSS|Threads' /proc/PID/status",
)
def test_requests_leave_nothing_in_processes(samples: Sequence[Sample], measure: Measure, evidence: Evidence):
    """Each process is there at the end, and keeps no memory, descriptors or threads of requests that it has served."""
    memory, descriptors, threads = (judges.of_processes(samples, what) for what in ("memory", "descriptors", "threads"))
    evidence.svg("over the run", over_the_run(samples))
    evidence.table("over the run", *numbers(samples))
    shown(evidence, "resident memory", "MB", memory)
    shown(evidence, "descriptors", "descriptors", descriptors)
    shown(evidence, "threads", "threads", threads)
    restarts = [[name, ", ".join(seen)] for name, seen in judges.restarts(samples).items()]
    evidence.table("started again", ["process", "new process seen"], restarts)
    unseen = judges.unseen_processes(samples[-1])
    evidence.table("not seen at the end", ["process", "why"], unseen.items())
    wrong = Findings()
    for part in judges.ended(samples[-1]):
        wrong.add(f"{part.name}: its process {part.pid} has ended, and nobody has started it again", node=part.node)
    if most(memory) is not None:
        bound = measure("memory_mb_a_request", most(memory), n=len(memory))
        too_much(wrong, bound, memory, "resident memory grows")
    if most(descriptors) is not None:
        bound = measure("descriptors_a_request", most(descriptors), n=len(descriptors))
        too_much(wrong, bound, descriptors, "descriptors grow")
    if most(threads) is not None:
        bound = measure("threads_a_request", most(threads), n=len(threads))
        too_much(wrong, bound, threads, "threads grow")
    wrong.judge()
    told = [each.of for each in memory if each.by_request is not None]
    require_all("memory, descriptors and threads", told, unseen)


@check(
    "M00-19",
    judged="every counter and bucket of every /metrics, and NATS's /varz where the suite has started it, in each "
    "sample against those before, as long as the process is the same by its number and start",
    evidence="table: counters compared, by process",
    by_hand="curl FRONTEND/metrics, twice",
)
def test_no_counter_falls(samples: Sequence[Sample], evidence: Evidence):
    """No counter of a process falls while the process runs."""
    found = judges.counters(samples)
    evidence.table("counters compared", ["process", "series"], [[name, each.compared] for name, each in found.items()])
    wrong = Findings()
    for name, each in found.items():
        if each.falls:
            first, more = each.falls[0], len(each.falls) - 1
            wrong.add(
                f"{name} is one process all the time, and its counter {head(first.series)} falls from "
                f"{first.before.value:.10g} ({first.before.when}) to {first.after.value:.10g} ({first.after.when})"
                + (f", as {more} others do" if more else ""),
                node=first.node,
            )
    wrong.judge()
    require_all("counters", list(found), judges.unseen_counters(samples[-1]))


@check(
    "M00-20",
    judged="the shortest time of one short request in the first and in the last third of the samples",
    evidence="table of times",
    by_hand="curl -w '%{time_total}' FRONTEND/v1/completions -d '{…, \"max_tokens\": 1}', early and late",
)
def test_a_request_takes_as_long_as_at_first(samples: Sequence[Sample], measure: Measure, evidence: Evidence):
    """One and the same request takes no longer at the end of the run than at its start."""
    rows = [[each.when, each.at_s, *(1000 * seconds for seconds in sorted(each.latencies_s))] for each in samples]
    evidence.table("one request", ["when", "at s", "shortest ms", "ms", "ms"], rows)
    last = samples[-1]
    assert last.latencies_s, f"at the end {FIXED_REQUEST} is not answered: {last.unseen.get(FIXED_REQUEST)}"
    found = judges.latency(samples)
    if found is None:
        raise CouldNotLook(f"{FIXED_REQUEST} was answered in fewer than three samples: nothing to compare")
    at_first = measure("at_first_ms", found.first_s * 1000, n=found.samples)
    at_the_end = measure("at_the_end_ms", found.last_s * 1000, n=found.samples)
    times = measure("as_long_times", found.last_s / found.first_s, n=found.samples)
    wrong = Findings()
    if times.judgement == "fail":
        wrong.add(
            f"{FIXED_REQUEST} takes {at_the_end.value:.0f} ms at the end and took {at_first.value:.0f} ms at first: "
            f"{times.value:.1f} times as long, expected {times.threshold}"
        )
    wrong.judge()


@check(
    "M00-21",
    judged="etcd's alarms; the bytes that it uses, of its quota and their growth by request",
    evidence="table of etcd",
    by_hand="etcdctl alarm list; etcdctl endpoint status -w table",
)
def test_etcd_has_room(samples: Sequence[Sample], measure: Measure, evidence: Evidence):
    """etcd has raised no alarm, has room below its quota, and keeps nothing of requests."""
    growth = judges.of_store(samples, "etcd")
    told = [(each.when, store) for each in samples if (store := each.stores.get("etcd"))]
    rows = [[when, store.used_bytes, store.most_bytes, " ".join(store.alarms)] for when, store in told]
    evidence.table("etcd", ["when", "used bytes", "quota bytes", "alarms"], rows)
    wrong = Findings()
    for name, when in judges.alarms(samples, "etcd").items():
        wrong.add(f"etcd has raised the alarm {name} (seen first {when}): with NOSPACE it takes no more writes")
    if growth and growth.by_request is not None:
        bound = measure("etcd_kb_a_request", growth.by_request, n=growth.stretches)
        too_much(wrong, bound, [growth], "the bytes that it uses grow")
    if told and (quota := told[-1][1].most_bytes):
        share = 100 * told[-1][1].used_bytes / quota
        if measure("etcd_percent_of_quota", share).judgement == "fail":
            wrong.add(f"etcd uses {share:.0f} % of its quota of {quota / 1e6:.0f} MB: compact and defragment it")
    wrong.judge()
    require_all(
        "etcd", ["etcd"] if growth and growth.by_request is not None else [], judges.unseen_store(samples[-1], "etcd")
    )


@check(
    "M00-22",
    judged="growth by request of what JetStream keeps and of the files that Dynamo's processes have open to write; the "
    "free space at the end",
    evidence="tables of JetStream, files and disks",
    by_hand="df; nats account info; ls -lL /proc/PID/fd",
    causes=[11],
)
def test_disks_have_room(samples: Sequence[Sample], measure: Measure, evidence: Evidence):
    """Requests fill neither JetStream nor the logs and files of Dynamo's processes, and disks have room at the end."""
    files, stream = judges.of_processes(samples, "files", judges.DYNAMO), judges.of_store(samples, "JetStream")
    shown(evidence, "files open to write", "kB", files)
    shown(evidence, "JetStream", "kB", [stream] if stream else [])
    disks = {name: node.disk for name, node in samples[-1].nodes.items()}
    evidence.table(
        "disks", ["node", "free bytes", "of bytes"], [[n, d.free_bytes, d.total_bytes] for n, d in disks.items()]
    )
    evidence.table("JetStream not asked", ["what", "why"], judges.unseen_store(samples[-1], "JetStream").items())
    wrong = Findings()
    if most(files) is not None:
        too_much(
            wrong, measure("files_kb_a_request", most(files), n=len(files)), files, "the files that it writes grow"
        )
    if stream and stream.by_request is not None:
        bound = measure("jetstream_kb_a_request", stream.by_request, n=stream.stretches)
        too_much(wrong, bound, [stream], "what it keeps grows")
    if disks:
        bound = measure("free_gb", min(disk.free_bytes for disk in disks.values()) / 1e9, n=len(disks))
        if bound.judgement == "fail":
            fullest = min(disks, key=lambda name: disks[name].free_bytes)
            wrong.add(f"the disk of the cache has {bound.value:.1f} GB left ({bound.threshold})", node=fullest)
    wrong.judge()
    require_all("disks and files", list(disks), judges.unseen_processes(samples[-1]))


@check(
    "M00-23",
    judged="each node's clock of the day less the time since it booted, in each sample against the one before",
    evidence="table of clocks",
    by_hand="chronyc tracking; journalctl -g 'Time has been changed'",
    causes=[80],
)
def test_no_clock_is_set(samples: Sequence[Sample], measure: Measure, evidence: Evidence):
    """Nobody sets the clock of a node while the run goes on."""
    steps = judges.clock_steps(samples)
    rows = [[each.node, each.step_s * 1000, each.after, each.samples] for each in steps]
    evidence.table("largest step of each clock", ["node", "ms", "after", "samples"], rows)
    wrong = Findings()
    if steps:
        bound = measure("clock_step_ms", max(abs(each.step_s) for each in steps) * 1000, n=len(steps))
        for each in steps:
            if replace(bound, value=abs(each.step_s) * 1000).judgement == "fail":
                wrong.add(
                    f"the clock of {each.node} is set by {each.step_s * 1000:+.6g} ms after the sample {each.after!r} "
                    f"(expected {bound.threshold})",
                    node=each.node,
                )
    wrong.judge()
    require_all("clocks", [each.node for each in steps], judges.unseen_nodes(samples[-1]))


@pytest.mark.endurance  # what kernels say while a load goes on
@check(
    "M00-24",
    judged="what the kernel of each node has said since the run began, against sentences of faults (Xid, PCIe, memory, "
    "disks, adapters); and that no node has started again. A corrected error or a stuck task is shown only",
    evidence="table of messages; of a node that started again, the last that its kernel had said",
    by_hand="dmesg -T | grep -E 'Xid|AER|NV_ERR_NO_MEMORY|Hardware Error'; journalctl -k -b -1 -n 50; uptime",
)
def test_no_kernel_reports_a_fault(run: Run, deployment: Deployment, evidence: Evidence):
    """No node's kernel reports that hardware, a driver or memory failed, and no node starts again in mid-run."""
    since_s = run.history.age_s
    nodes = run.nodes()
    said = dict(zip(nodes, in_parallel(lambda node: kernel.look(node, since_s), list(nodes.values())), strict=True))
    said = run.at("module_00.kernel", said)
    wrong, rows = Findings(), []
    for name, each in said.items():
        rows += [[name, row.means, message.times, message.text] for row, message in each.told()]
        failed = [kernel.describe(row, message) for row, message in each.told() if row.fails]
        wrong.extend((f"{name}: {fault}" for fault in failed), node=name)
        if each.up_s < since_s:
            why = kernel.last_fault(each.before) or "nothing is kept of why"
            wrong.add(f"{name} started again {each.up_s:.0f} s ago, while the run went on: {why}", node=name)
            evidence.text(f"{name}, before it started again", "\n".join(each.before) or "nothing is kept")
    evidence.table("what kernels said", ["node", "what it means", "times", "first"], rows)
    wrong.judge()
    seen = [name for name in said if said[name].readable]
    hidden = "its user may not read /dev/kmsg nor `journalctl -k` (group adm, or sysctl kernel.dmesg_restrict=0)"
    require_all("kernels' messages", seen, {name: hidden for name in said if name not in seen})
