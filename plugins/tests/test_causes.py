"""A cause that was found stands with its check: in terminal, record and page, and in a plant's judgement."""

import pytest

from fixtures.plants.plant import Plant
from plugins.plants import CAUGHT, NOT_CAUGHT, judge

TESTS = """
    from fixtures.basics.errors import BringUpFailed

    LINE = {"line": "alarm <b>NOSPACE</b>", "times": 1}
    CAUSES = [{"cause": "etcd is full", "remedy": "defrag", "where": "etcd.log", **LINE}]

    @pytest.mark.check("M00-01")
    def test_green(): "It is green."

    @pytest.mark.check("M00-02")
    def test_red(): assert 0, "no answer, descriptors are short"

    @pytest.mark.check("M00-03")
    def test_red_for_another_reason(): assert 0, "no answer"

    @pytest.mark.check("M00-04")
    def test_owner(): raise BringUpFailed("M00-04", "descriptors", causes=CAUSES)

    @pytest.mark.check("M00-05")
    def test_blocked(): raise BringUpFailed("M00-04", "descriptors", causes=CAUSES)

    @pytest.fixture
    def leaks():
        yield
        raise RuntimeError("descriptors are left")

    @pytest.mark.check("M00-06")
    def test_tear_down(leaks): assert 0, "no answer"

    @pytest.mark.check("M00-07")
    @pytest.mark.known_defect(issue="dynamo#1", versions="<1.7", shows="short", reason="it leaks")
    def test_defect(): assert 0, "descriptors are short"
"""


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_cause_is_told_everywhere_and_looked_for_once(suite, args):
    suite.module(0, TESTS)
    result = suite.run(*args)
    found = {check["id"]: check["found_causes"] for check in suite.record()["checks"]}
    # a check whose call has failed is not looked into again for its tear-down
    assert [name for name, causes in found.items() if causes] == ["M00-02", "M00-04"]
    assert found["M00-02"][0]["times"] == 207
    assert result.ret == 1
    text = "\n".join(result.outlines)
    again = text[text.index("failed, or could not look") :]
    assert "  cause: frontend has 64 (frontend.log on local)\n    accept error: Too many open files\n" in again
    assert (
        "    what to do: raise it\n" in again and "  cause: etcd is full (etcd.log)\n    alarm <b>NOSPACE</b>" in again
    )
    page = (suite.latest / "report.html").read_text(encoding="utf-8")
    assert "cause: frontend has 64 <small>(frontend.log on local)</small>" in page
    assert "<pre>alarm &lt;b&gt;NOSPACE&lt;/b&gt;</pre>" in page and "<b>NOSPACE" not in page
    summary = (suite.latest / "summary.md").read_text(encoding="utf-8")
    assert "; cause: frontend has 64" in summary


HISTORY = """
    import time

    @pytest.fixture(scope="package")
    def history():
        time.sleep(1.6)

    @pytest.fixture(scope="session")
    def longer():
        time.sleep(2)

    @pytest.mark.check("M00-01")
    def test_first(longer, history): "It is green."

    @pytest.mark.check("M00-02")
    def test_second(longer, history): assert 0, "history"

    @pytest.mark.check("M00-03")
    def test_without(longer): assert 0, "history"
"""


def test_what_a_check_looks_at_began_with_the_fixtures_that_it_shares(suite):
    suite.module(0, HISTORY)
    assert suite.run().ret == 1
    found = {check["id"]: [each["cause"] for each in check["found_causes"]] for check in suite.record()["checks"]}
    assert found["M00-02"] in (["in 2 s"], ["in 3 s"], ["in 4 s"]) and found["M00-03"] == ["in 0 s"], found


class Filled(Plant):
    """Fills something."""

    catches = {"M90-01": "etcd is full"}  # noqa: RUF012


@pytest.mark.parametrize(("cause", "word"), [("etcd is full", CAUGHT), ("NATS is full", NOT_CAUGHT)])
def test_a_plant_may_be_caught_by_the_cause_that_is_named(cause, word):
    entry = {"id": "M90-01", "case": "", "outcome": "failed", "reason": "no lease", "found_causes": [{"cause": cause}]}
    record = {"verdict": "REJECTED", "exit_status": 1, "problems": [], "tear_down_errors": [], "checks": [entry]}
    assert judge(Filled, record).word == word
