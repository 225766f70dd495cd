"""SIGTERM at each step of a real run: everything is taken down, and the word is INCOMPLETE."""

import signal
import time

import pytest

from fixtures.basics.deadline import Deadline, wait_until
from fixtures.cli.soak import CACHE_HERE, RUN_ID
from plugins.tests.children import nothing_left, start, tree

pytestmark = pytest.mark.slow

__all__ = ["start", "tree"]  # fixtures

MODULE = "tests_by_module/module_00_architecture"
# what has just appeared in the run's folder on the node
MOMENTS = {"connected": "", "etcd starts": "groups/etcd.json", "workers start": "groups/worker-1.json"}


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_during_the_bring_up(start, moment, args):
    child = start(MODULE, *args)

    def look() -> tuple[bool | None, object]:
        assert child.process.poll() is None, child.text
        found = RUN_ID.search(child.text)
        there = found and list((CACHE_HERE / "runs").glob(f"{found[0]}*/{MOMENTS[moment]}"))
        return (True if there else None), child.text[-300:]

    wait_until(look, Deadline(60, f"a run in which {moment}"), every_s=0.01)
    for _ in range(3):  # from the service manager, from a launcher, by the terminal
        child.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    child.ended(2)
    assert child.last_line.startswith("INCOMPLETE")
    assert child.record["incomplete"][0] == "interrupted" and child.record["tear_down_errors"] == []
    nothing_left(child.run_id)
