"""A deployment that somebody else has started is checked, and left exactly as it was."""

from __future__ import annotations

from fixtures.deadline import Deadline, wait_until
from plugins.tests.by_hand import NAMESPACE, by_hand
from plugins.tests.children import installed, inventory, nothing_left, start, tree

__all__ = ["installed", "inventory", "start", "tree"]

MODULES = ("module_02_frontend", "module_05_messaging", "module_06_kv_aware_routing")
SETTLES_WITHIN_S = 20


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
        )
        cache = run.tree / "cache-of-by-hand"
        site = inventory(f"dynamo_cache: {cache}", cluster=cluster, dynamo_runtime="installed")
        attached = start(*(f"tests_by_module/{name}" for name in MODULES), "--inventory", site).ended(0)
        outcomes = attached.outcomes()
        for module in MODULES:
            mine = [outcome for (check_id, _), outcome in outcomes.items() if check_id[1:3] == module[7:9]]
            assert mine.count("passed") > 3 and mine.count("not_covered") > 3, attached.text
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
