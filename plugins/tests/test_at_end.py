"""Checks that judge the whole run come after all others, and samples are taken beside the checks."""

import pytest

from plugins.tests.conftest import CONFTEST

NOTES = """
    @MARKED
    @pytest.mark.check("ID")
    def test_notes():
        with open("order", "a") as file:
            print("ID", file=file)
"""


def notes(check_id: str, mark: str = "single_node") -> str:
    return NOTES.replace("ID", check_id).replace("MARKED", f"pytest.mark.{mark}")


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_what_is_marked_runs_after_all_modules(suite, args):
    suite.module(0, notes("M00-02", "at_end"), name="test_a.py")
    suite.module(0, notes("M00-01"))
    suite.module(1, notes("M01-01"))
    suite.module(2, notes("M02-01"))
    assert suite.run(*args).ret == 0
    order = (suite.path / "order").read_text().split()
    # each module stays on one runner, which has no word of what others still run
    assert order.index("M00-02") > (order.index("M00-01") if args else 2), order
    assert sorted(order) == ["M00-01", "M00-02", "M01-01", "M02-01"]


def test_it_is_selected_by_its_marker(suite):
    suite.module(0, notes("M00-02", "at_end"), name="test_a.py")
    suite.module(0, notes("M00-01"))
    assert suite.run("-m", "at_end").ret == 0
    assert suite.outcomes() == {"M00-02": "passed"}


@pytest.mark.parametrize("args", [(), ("-m", "not at_end")], ids=["all", "not at the end"])
def test_samples_are_taken_at_first_and_after_each_module_for_checks_at_the_end(suite, args):
    suite.write("conftest.py", CONFTEST + "\nfrom plugins import sampling\nsampling.AGAIN_AFTER_S = 0\n")
    several = "".join(notes(f"M00-0{number}").replace("test_notes", f"test_{number}") for number in (1, 2, 3))
    suite.module(0, several)
    suite.module(1, notes("M01-01"))
    suite.module(1, notes("M01-02", "at_end"), name="test_a.py")
    assert suite.run(*args).ret == 0
    taken = suite.path / "samples"
    told = taken.read_text().splitlines() if taken.exists() else []
    assert told == ([] if args else ["after M00-01", "after M00-03", "after M01-02"])
