"""Every row of the table of outcomes, with the exit status; alone and under xdist."""

import pytest

GREEN = """
    @pytest.mark.check("M00-01")
    def test_green():
        '''The green one.'''
"""

ROWS = """
    from fixtures.basics.errors import BlockedByHardware, BringUpFailed
    from fixtures.cluster.nodes.errors import RemoteError

    @pytest.fixture
    def broken():
        raise BringUpFailed("M00-06", "etcd did not start: last log line")

    @pytest.fixture
    def never():
        raise RuntimeError("a fixture of a check that cannot run was set up")

    @pytest.mark.check("M00-01")
    @pytest.mark.needs("gpu")
    def test_ready(): pass

    @pytest.mark.check("M00-02")
    @pytest.mark.needs("rdma", role="worker")
    def test_missing(never): pass

    @pytest.mark.check("M00-03")
    @pytest.mark.needs("cuda")
    def test_broken_probe(never): pass

    @pytest.mark.check("M00-04")
    @pytest.mark.needs("real_engine")
    def test_not_declared(never): pass

    @pytest.mark.check("M00-05")
    def test_hardware(): raise BlockedByHardware("671 GB > 2 x 128 GB")

    @pytest.mark.check("M00-06")
    def test_owner(): raise BringUpFailed("M00-06", "etcd did not start: last log line")

    @pytest.mark.check("M00-07")
    def test_dependant(broken): pass

    @pytest.mark.check("M00-08")
    def test_dependant_in_call(): raise BringUpFailed("M00-06", "etcd did not start")

    @pytest.mark.check("M00-09")
    def test_could_not_look(): raise RemoteError("node a: connection lost")

    @pytest.mark.check("M00-10")
    @pytest.mark.known_defect(issue="dynamo#1", versions="<1.7", shows="lost: [1-9]", reason="loses it")
    def test_defect(): assert 0, "lost: 3"

    @pytest.mark.check("M00-11")
    @pytest.mark.known_defect(issue="dynamo#1", versions="<1.7", shows="lost", reason="loses it")
    def test_defect_gone(): pass

    @pytest.mark.check("M00-12")
    @pytest.mark.known_defect(issue="dynamo#1", versions="<1.6", shows="seen", reason="loses it")
    def test_defect_of_another_version(): assert 0, "seen"

    @pytest.mark.check("M00-13")
    def test_own_skip(): pytest.skip("I would rather not")

    @pytest.mark.check("M00-14")
    @pytest.mark.parametrize("n", [1, 2])
    def test_cases(n): assert n == 1

    @pytest.mark.check("M00-15")
    @pytest.mark.needs("rdma", role="prefill")
    def test_role_of_nobody(): pass

    @pytest.fixture
    def leaks():
        yield
        raise RuntimeError("would not stop")

    @pytest.mark.check("M00-16")
    def test_tear_down(leaks): pass

    @pytest.mark.check("M00-17")
    @pytest.mark.xfail(reason="not mine", strict=False)
    def test_own_xfail(): assert 0

    @pytest.mark.check("M00-18")
    @pytest.mark.known_defect(issue="dynamo#1", versions="<1.7", shows="lost: [1-9]", reason="loses it")
    def test_not_the_known_failure(): assert 0, "lost: 0, and nothing was sent"

    @pytest.mark.check("M00-19")
    @pytest.mark.known_defect(issue="dynamo#1", versions="<1.7", shows="seen", reason="loses it", engine="vllm")
    @pytest.mark.known_defect(issue="dynamo#2", versions="<1.7", shows="lost", reason="loses it", engine="mocker")
    def test_defect_of_the_engine_here(): assert 0, "lost"

    @pytest.mark.check("M00-20")
    @pytest.mark.known_defect(issue="dynamo#1", versions="<1.7", shows="seen", reason="loses it", engine="vllm")
    def test_defect_of_another_engine(): pass
"""

EXPECTED = {
    "M00-01": ("passed", ""),
    "M00-02": ("failed", "declared, but not there: rdma: looked on ['local']"),
    "M00-03": ("error", "could not look: cuda"),
    "M00-04": ("not_covered", "real_engine"),
    "M00-05": ("blocked_by_hardware", "671 GB"),
    "M00-06": ("failed", "etcd did not start: last log line"),
    "M00-07": ("error", "blocked by M00-06: see M00-06"),
    "M00-08": ("error", "blocked by M00-06: etcd did not start"),
    "M00-09": ("error", "could not look: node a: connection lost"),
    "M00-10": ("known_defect", "dynamo#1: loses it"),
    "M00-11": ("failed", "unexpectedly passes"),
    "M00-12": ("failed", "seen"),
    "M00-13": ("error", "not the capability plugin: Skipped: I would rather not"),
    "M00-141": ("passed", ""),
    "M00-142": ("failed", "assert 2 == 1"),
    "M00-15": ("not_covered", "no node of the inventory has the role 'prefill'"),
    "M00-16": ("error", "tear-down: RuntimeError: would not stop"),
    "M00-17": ("error", "not the capability plugin: not mine"),
    "M00-18": ("failed", "and nothing was sent — not the known defect dynamo#1, which says: lost: [1-9]"),
    "M00-19": ("known_defect", "dynamo#2: loses it"),
    "M00-20": ("passed", ""),
}


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_every_row_of_the_table(suite, args):
    suite.module(0, ROWS)
    suite.module(1, GREEN.replace("M00-01", "M01-01"))
    result = suite.run(*args)
    record = suite.record()
    seen = {check["id"] + check["case"]: check for check in record["checks"]}
    assert seen.pop("M01-01")["title"] == "The green one."
    assert {key: check["outcome"] for key, check in seen.items()} == {key: row[0] for key, row in EXPECTED.items()}
    for key, (_, text) in EXPECTED.items():
        assert text in seen[key]["reason"]
    assert seen["M00-02"]["nodes"] == ["local"]
    assert result.ret == 1
    assert record["verdict"] == "REJECTED"
    assert result.outlines[-1] == (
        "REJECTED (profile fake): 4 passed, 6 failed, 7 errors, 2 not covered, 1 blocked by hardware, 2 known defects"
    )
    assert "real_engine: 1 check in module 00   no inventory in inventory/ covers it" in result.outlines


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ("pass", 0, "ACCEPTED"),
        ("from fixtures.basics.errors import BlockedByHardware as B; raise B('x')", 6, "INCOMPLETE"),  # no check ran
        ("raise KeyboardInterrupt", 2, "INCOMPLETE"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 2, "INCOMPLETE"),
        ("pytest.exit('enough')", 2, "INCOMPLETE"),
    ],
    ids=["green", "nothing-ran", "ctrl-c", "sigterm", "exit"],
)
def test_exit_status_of_one_check(suite, body, status, word):
    suite.module(0, f'@pytest.mark.check("M00-01")\ndef test_it(measure):\n    {body}\n')
    result = suite.run()
    assert result.ret == status
    assert result.outlines[-1].startswith(f"{word} (profile fake):")
    assert suite.record()["verdict"] == word


def test_a_known_defect_and_a_hardware_limit_do_not_reject(suite):
    suite.module(
        0,
        """
        from fixtures.basics.errors import BlockedByHardware
        @pytest.mark.check("M00-01")
        def test_green(): pass
        @pytest.mark.check("M00-02")
        def test_hardware(): raise BlockedByHardware("too big")
        @pytest.mark.check("M00-03")
        @pytest.mark.known_defect(issue="dynamo#1", versions=">=1.6", shows="it is lost", reason="loses it")
        def test_defect(): assert 0, "it is lost"
        """,
    )
    result = suite.run()
    assert result.ret == 0
    assert result.outlines[-1].endswith("0 not covered, 1 blocked by hardware, 1 known defect")


@pytest.mark.parametrize(("requires", "status"), [("M00-*", 6), ("M00-01", 0)], ids=["required", "not-required"])
def test_only_what_the_profile_requires_makes_incomplete(suite, requires, status):
    suite.requires(requires)
    suite.module(
        0,
        GREEN
        + """
    @pytest.mark.check("M00-02")
    @pytest.mark.needs("real_engine")
    def test_not_declared(): pass
        """,
    )
    result = suite.run()
    assert result.ret == status
    if status == 6:
        result.stdout.fnmatch_lines(["M00-02 is required and not covered: real_engine*"])


def test_all_not_covered_is_not_accepted(suite):
    suite.requires("M00-*", "!M00-01")
    suite.module(0, '@pytest.mark.check("M00-01")\n@pytest.mark.needs("real_engine")\ndef test_it(): pass\n')
    assert suite.run().ret == 6
    assert suite.record()["incomplete"] == ["no check ran"]


@pytest.mark.parametrize("runners", [(), ("-n", "2")])
def test_a_selection_of_nothing_is_named(suite, runners):
    suite.module(0, GREEN)
    result = suite.run("-m", "multi_node and nightly", "-k", "green", *runners)
    said = "no check ran: -k green -m 'multi_node and nightly' selects none in "
    assert result.ret == 6
    assert [line for line in result.outlines if line.startswith(said)], result.outlines
    assert suite.record()["incomplete"][0].startswith(said)


def test_a_part_is_called_a_part(suite):
    suite.module(0, GREEN + '    @pytest.mark.check("M00-02")\n    def test_other(): assert 0\n')
    one = "tests_by_module/module_00_fake/test_it.py::test_green"
    for args in (["-k", "green"], [one], ["-n", "2", "-k", "green"]):
        result = suite.run(*args)
        assert result.ret == 0
        assert result.outlines[-1].startswith("ACCEPTED for the part selected (profile fake): 1 passed")
    assert suite.run("-k", "nothing").ret == 6


def test_tear_down_that_fails_rejects(suite, monkeypatch):
    monkeypatch.setenv("FAKE_TEAR_DOWN", "etcd-still-there")
    suite.module(0, GREEN)
    for args in ((), ("-n", "2")):
        result = suite.run(*args)
        assert result.ret == 1
        assert "etcd-still-there" in suite.record()["tear_down_errors"]
        result.stdout.fnmatch_lines(["etcd-still-there", "REJECTED*tear-down error*"])


def test_a_runner_that_dies_rejects(suite):
    suite.module(0, GREEN + '    @pytest.mark.check("M00-02")\n    def test_dies():\n        import os; os._exit(3)\n')
    result = suite.run("-n", "2")
    assert result.ret == 1
    assert suite.outcomes() == {"M00-01": "passed", "M00-02": "error"}
    assert any("in M00-02 (exit status 3)" in error for error in suite.record()["tear_down_errors"])


def test_a_file_that_cannot_be_collected_rejects(suite):
    suite.module(0, GREEN)
    suite.module(1, "import no_such_module", name="test_broken.py")
    assert suite.run().ret == 1
    assert "no_such_module" in suite.record()["problems"][0]


def test_outside_tests_by_module_pytest_keeps_its_own_exit_status(suite):
    suite.module(0, GREEN)
    suite.write("elsewhere/test_x.py", "def test_x(): assert 0\n")
    result = suite.run("elsewhere")
    assert result.ret == 1
    assert not (suite.path / "reports").exists()
    assert suite.run(".").ret == 1  # together with the checks: a failure there is no acceptance
    assert "elsewhere/test_x.py::test_x" in suite.record()["problems"][0]


def test_where_versions_are_mixed_a_defect_of_either_may_show_and_need_not(suite, monkeypatch):
    monkeypatch.setenv("FAKE_WORKER_VERSION", "1.5.1")
    suite.module(
        0,
        """
        import pytest

        OF_ONE = pytest.mark.known_defect(issue="dynamo#1", versions="<1.6", shows="lost", reason="loses it")
        OF_BOTH = pytest.mark.known_defect(issue="dynamo#2", versions="<1.7", shows="lost", reason="loses it")

        @pytest.mark.check("M00-01")
        @OF_ONE
        def test_shows(): assert 0, "lost"

        @pytest.mark.check("M00-02")
        @OF_ONE
        def test_does_not_show(): pass

        @pytest.mark.check("M00-03")
        @OF_BOTH
        def test_of_both_does_not_show(): pass

        NOT_ALWAYS = pytest.mark.known_defect("dynamo#3", "<1.7", "lost", "loses it by chance", sometimes=True)

        @pytest.mark.check("M00-04")
        @NOT_ALWAYS
        def test_by_chance_does_not_show(): pass

        @pytest.mark.check("M00-05")
        @NOT_ALWAYS
        def test_by_chance_shows(): assert 0, "lost"
        """,
    )
    suite.run()
    expected = {"M00-01": "known_defect", "M00-02": "passed", "M00-03": "failed", "M00-04": "passed"}
    assert suite.outcomes() == expected | {"M00-05": "known_defect"}


@pytest.mark.parametrize("runners", [[], ["-n", "2"]], ids=["alone", "over-runners"])
def test_nodes_that_were_left_out_reject_the_run_once(suite, monkeypatch, runners):
    silent = "left out, since it does not answer: node-7: connection refused"
    monkeypatch.setenv("FAKE_LEFT_OUT", silent)
    suite.module(0, CHECK_OF_NODES.format(check="M00-02"))
    assert suite.run(*runners).ret == 1 and suite.record()["problems"] == [silent]
    suite.module(0, CHECK_OF_NODES.format(check="M00-01").replace("pass", "assert 0, 'left out: node-7'"))
    assert suite.run(*runners).ret == 1 and suite.record()["problems"] == []


CHECK_OF_NODES = """
    @pytest.mark.check("{check}")
    def test_nodes():
        "Every node answers."
        pass
"""
