"""Which runner does what, and how many there are."""

import pytest

LONG_WAIT = """
    import os, pytest, time

    def begins(name):
        with open("begun", "a") as file:
            print(os.getpid(), name, file=file)

    @pytest.mark.check("MNUMBER-01")
    @pytest.mark.parametrize("n", range(6))
    def test_short(n): begins("NUMBER short")

    @pytest.mark.check("MNUMBER-02")
    @pytest.mark.long_wait
    def test_waits(): begins("NUMBER waits")

    @pytest.mark.check("MNUMBER-03")
    def test_long():
        if "NUMBER" == "01":
            time.sleep(1.5)
"""


def begun(suite) -> list[tuple[str, str]]:
    """(process, check) in the order in which checks have begun; forgotten for the next run."""
    lines = (suite.path / "begun").read_text().splitlines()
    (suite.path / "begun").unlink()
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_what_takes_longest_begins_first_on_any_runner(suite):
    """A long wait, as long as nobody knows better; after that what took longest in the run before."""
    for number in range(2):
        suite.module(number, LONG_WAIT.replace("NUMBER", f"{number:02}"))
    assert suite.run("-n", "2").ret == 0
    first = dict(reversed(begun(suite)))
    assert sorted(first.values()) == ["00 waits", "01 waits"]
    assert len(suite.record()["checks"]) == 16
    assert suite.run("-n", "2").ret == 0
    assert "01 short" in dict(reversed(begun(suite))).values()


@pytest.mark.parametrize(
    ("args", "runners"),
    [
        ((), 2),
        (("tests_by_module",), 2),
        (("-n", "0"), 1),
        (("-n", "3"), 3),
        (("-s",), 1),
        (("-k", "M"), 1),
        (("-m", "single_node"), 1),
        (("tests_by_module/module_00_fake",), 1),
        (("--keep",), 1),
        (("-p", "no:xdist"), 1),
    ],
)
def test_a_run_of_all_has_as_many_runners_as_the_inventory_says(suite, args, runners):
    local = suite.path / "inventory" / "local.yaml"
    local.write_text(local.read_text().replace("  vars:\n", "  vars:\n    dynamo_runners: 2\n", 1))
    for number in range(3):
        suite.module(number, ALONE.replace("CAPABILITY", "real_engine").replace("M00", f"M{number:02}"))
    suite.run(*args)
    assert len(set((suite.path / "runners").read_text().split())) == runners


TOGETHER = """
    import os

    pytestmark = pytest.mark.long_wait(together=True)

    @pytest.mark.check("M00-05")
    @pytest.mark.parametrize("n", range(3))
    def test_one(n):
        with open("begun", "a") as file:
            print(os.getpid(), "together", file=file)
"""


def test_long_waits_of_a_file_stay_together_on_a_runner_that_need_not_be_their_module_s(suite):
    suite.module(0, LONG_WAIT.replace("NUMBER", "00"))
    suite.module(0, TOGETHER, name="test_together.py")
    assert suite.run("-n", "2").ret == 0
    there = begun(suite)
    together, module = ({process for process, name in there if name == of} for of in ("together", "00 short"))
    assert len(together) == len(module) == 1 and together != module


ALONE = """
    import os

    @pytest.mark.check("M00-01")
    @pytest.mark.destructive
    @pytest.mark.needs("CAPABILITY")
    def test_alone(): pass

    @pytest.mark.check("M00-02")
    def test_where():
        with open("runners", "a") as file:
            print(os.environ.get("PYTEST_XDIST_WORKER"), file=file)
"""


@pytest.mark.parametrize(("capability", "runners"), [("managed", 1), ("real_engine", 2)])
def test_checks_that_have_their_nodes_for_themselves_keep_all_on_one_runner(suite, capability, runners):
    """Where they can run: what the inventory does not declare disturbs nobody."""
    for number in (0, 1):
        suite.module(number, ALONE.replace("CAPABILITY", capability).replace("M00", f"M{number:02}"))
    result = suite.run("-n", "2")
    assert result.ret == (0 if runners == 1 else 6), result.stdout.str()
    assert len(set((suite.path / "runners").read_text().split())) == runners
    told = [line for line in result.outlines if line.startswith("all checks stay on one runner: ")]
    assert len(told) == (runners == 1)
    assert {check["outcome"] for check in suite.record()["checks"]} <= {"passed", "not_covered"}
    assert not list(suite.latest.glob(".*"))
