"""report.html: what it says, that nothing in it runs or is loaded, and that a browser opens it without a complaint."""

import re
import shutil
import subprocess

import pytest

XSS = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"

TESTS = f"""
    from fixtures.outcomes import BringUpFailed, BlockedByHardware
    XSS = {XSS!r}

    @pytest.mark.check("M00-01")
    @pytest.mark.smoke
    def test_green(measure, evidence):
        '''Every component of the picture is there.'''
        measure("cold_start_s", 12.5)
        measure("import_s", 0.8)
        evidence.table("Keys in etcd", ["key", "lease", XSS], [["v1/instances/a", 10, XSS], ["v1/mdc/b", 10, ""]])
        evidence.svg("Latency " + XSS, '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 10">'
                     '<script>alert(1)</script><rect width="30" height="8" fill="teal"/></svg>')

    @pytest.mark.check("M00-02", by_hand="etcdctl get --prefix v1/ # " + XSS, causes=[16, 27])
    @pytest.mark.parametrize("word", [XSS])
    def test_red(measure, evidence, word):
        evidence.text("etcd log hf_abcdefghijklmnopqrstuvwx", "token hf_abcdefghijklmnopqrstuvwx " + word)
        measure("lease_loss_s", 44)
        measure("gap_s", float("nan"), n=3)
        measure("wal_fsync_ms", 3, n=2)
        measure("unknown_s", 3)
        measure.judge()

    @pytest.fixture
    def up(evidence):
        evidence.text("frontend log", "panicked at router.rs")
        raise BringUpFailed("M00-02", "the frontend died\\npanicked at router.rs")

    @pytest.mark.check("M00-03")
    def test_set_up_fails(up): "Set-up fails."

    @pytest.mark.check("M00-04")
    @pytest.mark.needs("real_engine")
    def test_token_equality(): "Two greedy runs give the same tokens."

    @pytest.mark.check("M00-05")
    def test_big(): raise BlockedByHardware("671 GB of weights > 2 x 128 GB")

    @pytest.mark.check("M00-06")
    @pytest.mark.known_defect(issue="dynamo#3493", versions="<1.7", shows="no worker", reason="it stays away")
    def test_back(): assert 0, "no worker after 30 s"

    @pytest.mark.check("M00-07")
    def test_forgotten_judgement(measure):
        measure("lease_loss_s", 45)
"""

THRESHOLDS = """
M00-01:
  cold_start_s: {max: 60, min: 0, unit: s, source: owner requirement}
  import_s: {recorded: true, unit: s, source: says nothing on a laptop}
M00-02: &limits
  lease_loss_s: {max: 30, unit: s, source: lease and watchdog}
  gap_s: {max: 30, unit: s, source: x}
  wal_fsync_ms: {max: 10, unit: ms, min_n: 100, source: etcd documentation}
M00-07: *limits
"""


@pytest.fixture
def reported(suite):
    suite.module(0, TESTS, THRESHOLDS)
    return suite


def test_the_page_says_all_and_runs_nothing_of_it(reported):
    result = reported.run()
    page = (reported.latest / "report.html").read_text(encoding="utf-8")
    assert result.ret == 1
    ours = page[page.index('<main class="acceptance">') : page.index("</main>")]
    assert "<script" not in ours and "<img src=x" not in page and "<img class" in ours
    assert "&lt;script&gt;" in ours
    assert not re.search(r"""(src|href)=["'](https?:)?//""", ours)
    for text in (
        "REJECTED",
        "profile</dt><dd>fake",
        "declared, not found",
        "the frontend died",
        "etcdctl get --prefix v1/",
        "Possible causes (known elsewhere)",
        "dynamo#1188",
        "lease_loss_s = 44 s (n=1), expected ≤ 30 s [source: lease and watchdog]; gap_s = nan s (n=3)",
        "Two greedy runs give the same tokens.",
        "671 GB of weights",
        "dynamo#3493",
        "no threshold",
        "too few",
    ):
        assert text in ours, text
    seen = {check["id"]: check for check in reported.record()["checks"]}
    assert seen["M00-07"]["outcome"] == "failed" and "lease_loss_s = 45 s" in seen["M00-07"]["reason"]
    judged = {m["name"]: m["judgement"] for m in seen["M00-02"]["measurements"]}
    assert judged == {"lease_loss_s": "fail", "gap_s": "fail", "wal_fsync_ms": "too_few", "unknown_s": "no_threshold"}
    assert seen["M00-02"]["measurements"][1]["value"] is None
    lines = (reported.latest / "measurements.jsonl").read_text().splitlines()
    assert len(lines) == 7
    assert "env A=1 true" in (reported.latest / "transcript.txt").read_text()
    log = reported.latest / seen["M00-03"]["evidence"][0]["path"]
    assert log.read_text() == "panicked at router.rs"
    assert seen["M00-03"]["evidence"][0]["path"] in page[page.index("</main>") :]  # the set-up failure's row links it
    everything = "".join(path.read_text() for path in reported.latest.rglob("*") if path.is_file())
    assert "hf_abcdefghijklmnopqrstuvwx" not in everything
    assert '<property name="check" value="M00-01"' in (reported.latest / "junit.xml").read_text()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_opens_it_without_a_complaint(reported, tmp_path):
    reported.run()
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    page = (reported.latest / "report.html").resolve().as_uri()
    command = [*browser, "--enable-logging=stderr", "--dump-dom", page]
    opened = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert "CONSOLE" not in opened.stderr
    assert "<title" in opened.stdout and "owned" not in re.search(r"<title.*?</title>", opened.stdout)[0]
