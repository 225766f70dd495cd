"""summary.md: the verdict first, each red check with its reason, and no text of a node that becomes markup."""

import re

HOSTILE = "a | b <img src=x> `c` [d](javascript:e) *f* \x1b[2J"

TESTS = f"""
    HOSTILE = {HOSTILE!r}

    @pytest.mark.check("M00-01")
    def test_green(): "All is there."

    @pytest.mark.check("M00-02")
    @pytest.mark.parametrize("node", [HOSTILE])
    def test_red(node):
        "The node answers."
        assert not node, HOSTILE

    @pytest.mark.check("M00-03")
    @pytest.mark.needs("real_engine")
    def test_tokens(): "Two runs give the same tokens."
"""


def test_a_job_page_shows_the_verdict_and_each_reason(suite):
    suite.requires("M00-0[12]")
    engine = (suite.path / "inventory" / "local.yaml").read_text()
    suite.write("inventory/engine.yaml", engine + "      dynamo_capabilities: [real_engine]\n")
    suite.module(0, TESTS)
    suite.run("--seed", "7")
    summary = (suite.latest / "summary.md").read_text(encoding="utf-8")
    lines = summary.splitlines()
    assert lines[0] == "## REJECTED"
    assert "1 passed, 1 failed, 0 errors, 1 not covered" in lines[2]
    assert any(re.match(r"\| M00-02.* \| The node answers\. \| .*a \\\| b", line) for line in lines), summary
    assert "| real\\_engine | M00-03 | try --inventory inventory/engine.yaml |" in lines, summary
    assert "seed 7" in lines[-1]


def test_no_text_of_a_node_becomes_markup(suite):
    suite.module(0, TESTS)
    suite.run()
    summary = (suite.latest / "summary.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?<!\\)</?\w+", summary)) <= {"<details", "<summary", "</summary", "</details"}
    assert "\x1b" not in summary
    for row in (line for line in summary.splitlines() if line.startswith("|")):
        assert len(re.findall(r"(?<!\\)\|", row)) in (3, 4), row


def test_it_stands_on_the_page_of_the_job(suite, monkeypatch):
    page = suite.path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    suite.module(0, TESTS)
    suite.run()
    assert page.read_text() == "before\n" + (suite.latest / "summary.md").read_text()


def test_an_accepted_run_needs_few_lines(suite):
    suite.requires("M00-01")
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    suite.run()
    summary = (suite.latest / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith("## ACCEPTED\n") and len(summary.splitlines()) < 8, summary
