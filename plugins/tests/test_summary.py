"""What the terminal says: each reason once, how to run a failed check again, and whole lines of its own."""

import re
import shlex
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from plugins import summary

BLOCKED = """
    from fixtures.basics.errors import BringUpFailed
    REASON = "etcd did not start\\nlast line of its log: " + "x" * 300

    @pytest.fixture
    def broken():
        raise BringUpFailed("M00-02", REASON)

    @pytest.mark.check("M00-01")
    def test_before(broken): pass

    @pytest.mark.check("M00-02")
    def test_owner(broken): pass

    @pytest.mark.check("M00-03")
    def test_after(broken): pass

    @pytest.mark.check("M00-04")
    @pytest.mark.parametrize("case", range(9))
    def test_cases(broken, case): pass
"""


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_blocked_check_says_by_what_in_few_words(suite, args):
    suite.module(0, BLOCKED)
    result = suite.run(*args)
    reasons = {check["id"]: check["reason"] for check in suite.record()["checks"]}
    assert reasons["M00-02"].startswith("etcd did not start\nlast line of its log: xxx")
    assert reasons["M00-01"] == "blocked by M00-02: etcd did not start"  # whoever comes first is not in the dark
    assert reasons["M00-03"] == reasons["M00-04"] == "blocked by M00-02: see M00-02"
    assert str(result.stdout).count("x" * 300) == 1


def test_what_many_checks_say_is_said_once_at_the_end(suite):
    suite.module(0, BLOCKED)
    same = {
        (): "1 check (9 cases) in module 00 (-v names each)",
        ("-v",): ", ".join(f"M00-04[{case}]" for case in range(9)),
    }
    for arguments, named in same.items():
        lines = suite.run(*arguments).outlines
        (at,) = (i for i, line in enumerate(lines) if line.startswith("M00-03 ") and line.endswith(": see M00-02"))
        assert lines[at + 1] == f"  the same: {named}"
    summary = (suite.latest / "summary.md").read_text(encoding="utf-8")
    assert "| M00-03, and 1 check (9 cases) in module 00 |" in summary


def test_a_reason_whose_own_check_is_not_selected_is_told_whole_once(suite):
    suite.module(0, BLOCKED)
    suite.run("-k", "not owner")
    reasons = {check["id"]: check["reason"] for check in suite.record()["checks"]}
    assert reasons["M00-01"].startswith("blocked by M00-02: etcd did not start\nlast line of its log: xxx")
    assert reasons["M00-03"] == "blocked by M00-02: see M00-01"


NOT_COVERED = """
    @pytest.mark.check("M00-01")
    def test_green(): pass

    @pytest.mark.check("M00-02")
    @pytest.mark.needs("real_engine")
    def test_tokens(): "Two runs give the same tokens."

    @pytest.mark.check("M00-03")
    @pytest.mark.needs("real_engine")
    def test_seeds(): "A seed gives the same answer."

    @pytest.mark.check("M00-04")
    @pytest.mark.needs("rdma", role="prefill")
    def test_link(): "The link is used."
"""


def test_what_is_not_covered_is_grouped_by_its_reason(suite):
    suite.requires("M00-*", "!M00-04")
    suite.module(0, NOT_COVERED)
    engine = (suite.path / "inventory" / "local.yaml").read_text().replace("[etcd", "[prefill, etcd")
    suite.write("inventory/engine.yaml", engine + "      dynamo_capabilities: [real_engine]\n")
    lines = suite.run().outlines
    at = next(i for i, line in enumerate(lines) if "not covered, by reason (-v names each check)" in line)
    groups = [
        "real_engine: 2 checks in module 00   try --inventory inventory/engine.yaml",
        "no node of the inventory has the role 'prefill': 1 check in module 00   no inventory in inventory/ covers it",
    ]
    assert lines[at + 1 : at + 3] == groups
    assert "M00-02, M00-03 are required and not covered: real_engine: looked on all nodes, not_declared" in lines
    assert not any("same tokens" in line for line in lines)
    listed = suite.run("-v").outlines
    at = next(i for i, line in enumerate(listed) if "= not covered, by reason =" in line)
    assert listed[at + 1 : at + 5] == [
        groups[0],
        "  real_engine: looked on all nodes, not_declared",
        "    M00-02 Two runs give the same tokens.",
        "    M00-03 A seed gives the same answer.",
    ]


SCREEN, WIDTH = 24, 80  # of the smallest terminal


def test_the_end_of_a_run_fits_on_a_screen(suite):
    """Whatever number of checks is not covered, and however long the reason of a known defect is."""
    tests = [
        f'@pytest.mark.check("M00-{n:02}")\n@pytest.mark.needs("real_engine")\ndef test_{n}(): "A title."\n'
        for n in range(10, 99)
    ]
    defect = """
        @pytest.mark.check("M00-01")
        @pytest.mark.known_defect(issue="dynamo#3493", versions="<1.7", shows="lost", reason="long " * 60)
        def test_known(): assert 0, "lost"
    """
    suite.requires("M00-01")
    suite.module(0, textwrap.dedent(defect) + "\n".join(tests))
    result = suite.run()
    end = result.outlines[next(i for i, line in enumerate(result.outlines) if "[100%]" in line) :]
    assert sum(1 + len(line) // WIDTH for line in end) <= SCREEN, end
    assert end[-1].startswith("ACCEPTED")
    assert any(line.startswith("M00-01 dynamo#3493: long") and line.endswith("…") for line in end), end
    assert any("long " * 60 in line for line in suite.run("-v").outlines)


def test_check_ids_select(suite):
    suite.module(0, NOT_COVERED)
    suite.module(1, '@pytest.mark.check("M01-01")\n@pytest.mark.parametrize("n", [1, 2])\ndef test_other(n): pass\n')
    for expression, ids in (
        ("M00-01", {"M00-01"}),
        ("m01-01", {"M01-011", "M01-012"}),
        ("M00-01 or M00-04", {"M00-01", "M00-04"}),
        ("M00 and not M00-01", {"M00-02", "M00-03", "M00-04"}),
    ):
        suite.run("-k", expression)
        assert set(suite.outcomes()) == ids, expression


def test_a_failed_check_says_how_to_run_it_again(suite):
    suite.module(0, '@pytest.mark.check("M00-07")\ndef test_red(): assert 0, "it is lost"\n')
    suite.write("inventory/my site.yaml", (suite.path / "inventory" / "local.yaml").read_text())
    result = suite.run("--inventory", "inventory/my site.yaml", "--seed", "7", "-n", "2")
    again = [line.removeprefix("  again: ") for line in result.outlines if line.startswith("  again: ")]
    expected = "uv run pytest tests_by_module/module_00_fake -k M00-07 --inventory 'inventory/my site.yaml' --seed 7"
    assert again == [expected]
    assert suite.run(*shlex.split(again[0])[3:]).ret == 1
    assert set(suite.outcomes()) == {"M00-07"}
    page = (suite.latest / "report.html").read_text(encoding="utf-8")
    assert expected.replace("'", "&#39;") in page


def test_an_inventory_outside_the_checkout_is_given_with_an_equals_sign(tmp_path):
    outside = SimpleNamespace(path=Path("/etc/my racks.yaml"))
    settings = SimpleNamespace(inventory=outside, site_checks=None, plant=None, seed=7)
    command = summary.again(settings, {"id": "M00-07", "module": "module_00_fake"}, tmp_path)
    assert command == "uv run pytest tests_by_module/module_00_fake -k M00-07 '--inventory=/etc/my racks.yaml' --seed 7"


PROGRESS = """
    @pytest.mark.check("M00-01")
    def test_first(): pass

    @pytest.mark.check("M00-02")
    def test_second(pytestconfig):
        from plugins.output import show_at_once
        show_at_once(pytestconfig, "local: etcd is unpacked")
"""


@pytest.mark.parametrize("args", [(), ("-v",), ("-n", "2")], ids=["alone", "verbose", "xdist"])
def test_progress_has_lines_of_its_own(suite, args):
    suite.module(0, PROGRESS)
    command = ["sh", "-c", 'exec "$@" 2>&1', "sh", *suite.pytester._getpytestargs(), "-p", "no:cacheprovider", *args]
    result = suite.pytester.run(*command)
    lines = str(result.stdout).splitlines()
    assert "local: etcd is unpacked" in lines, lines
    assert result.ret == 0 and not [line for line in lines if re.fullmatch(r"\.+ *\[.*%\].*etcd.*", line)]


def test_a_plant_that_does_not_exist_is_refused_also_when_checks_are_only_listed(suite):
    suite.module(0, PROGRESS)
    for only in ("--collect-only", "--dry-run"):
        result = suite.run("--plant", "nosuch", only)
        assert result.ret == 4
        assert "there is no plant 'nosuch'" in str(result.stderr) + str(result.stdout)


FINDINGS = """
    from fixtures.basics.findings import Findings

    @pytest.mark.check("M00-01")
    def test_two():
        "Every key has a lease."
        findings = Findings(["the key <a> has none"])
        findings.add("the key b has none", node="local")
        findings.judge(about="of 2 keys")

    @pytest.mark.check("M00-02")
    def test_one():
        "Every key is there."
        Findings(["the key c is gone"]).judge()

    @pytest.mark.check("M00-03")
    @pytest.mark.known_defect(issue="x#1", versions="<1.7", shows="key d", reason="r")
    def test_known():
        Findings(["the key d is gone", "the key e is gone"]).judge()
"""


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_findings_are_a_line_each(suite, args):
    suite.module(0, FINDINGS)
    result = suite.run(*args)
    at = result.outlines.index("M00-01 Every key has a lease:")
    assert result.outlines[at + 1 : at + 3] == [
        "  of 2 keys: the key <a> has none",
        "  local: the key b has none",
    ]
    assert "M00-02 Every key is there: the key c is gone" in result.outlines
    checks = {check["id"]: check for check in suite.record()["checks"]}
    assert checks["M00-01"]["reason"] == "of 2 keys: the key <a> has none\nlocal: the key b has none"
    assert checks["M00-01"]["findings"][1] == {"text": "the key b has none", "node": "local"}
    assert checks["M00-03"]["outcome"] == "known_defect"
    page = (suite.latest / "report.html").read_text(encoding="utf-8")
    assert "<li>of 2 keys: the key &lt;a&gt; has none</li><li>local: the key b has none</li></ul>" in page
    assert '<pre class="reason">the key c is gone</pre>' in page
