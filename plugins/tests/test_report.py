"""report.html: what it says, that nothing in it runs or is loaded, and that a browser opens it without a complaint."""

import html
import json
import re

import pytest

from plugins.report import rounded
from plugins.tests.conftest import ROOT

FILTER = (ROOT / "reports" / "templates" / "filter.js").read_text(encoding="utf-8")
XSS = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"

TESTS = f"""
    from fixtures.basics.deadline import pause
    from fixtures.basics.errors import BringUpFailed, BlockedByHardware
    XSS = {XSS!r}

    @pytest.mark.check("M00-01")
    @pytest.mark.smoke
    def test_green(measure, evidence):
        '''Every component of the picture is there.'''
        pause(0.25, XSS)
        measure("cold_start_s", 12.5)
        measure("import_s", 0.8)
        evidence.table("Keys in etcd", ["key", "lease", XSS], [["v1/instances/a", 10, XSS], ["v1/mdc/b", 10, ""]])
        evidence.svg("Latency " + XSS, '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 10">'
                     '<script>alert(1)</script><rect width="30" height="8" fill="teal"/></svg>', overview=True)

    @pytest.mark.check("M00-02", by_hand="etcdctl get --prefix v1/ # " + XSS, causes=[16, 25, 27])
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
    assert "<img src=x" not in page and "<img class" in ours
    assert ours.count("<script") == 1 and f"<script>{FILTER}</script>" in ours
    assert "&lt;script&gt;" in ours
    assert not re.search(r"""(src|href)=["'](https?:)?//""", ours)
    for text in (
        "REJECTED",
        "profile</dt><dd>fake",
        "declared, not found",
        "the frontend died",
        "etcdctl get --prefix v1/",
        "Possible causes, known elsewhere",
        "It is this if: the 99th percentile of etcd_disk_wal_fsync_duration_seconds",
        "lease_loss_s = 44 s (n=1), expected ≤ 30 s [source: lease and watchdog]; gap_s = nan s (n=3)",
        "Two greedy runs give the same tokens.",
        "671 GB of weights",
        "dynamo#3493",
        "no threshold",
        "too few",
        '<svg class="gantt" role="img"',
        "with 1 runner. It takes",
        "Waits by reason",
    ):
        assert text in ours, text
    assert "dynamo#1188" not in ours  # a cause between nodes, and the inventory has one
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


def test_each_check_has_its_place_in_the_picture_of_all(reported):
    reported.run()
    page = (reported.latest / "report.html").read_text(encoding="utf-8")
    gates = re.findall(r'<a class="gate (\w+)" href="#(check-[^"]*)" title="(M00-\d\d)', page)
    assert sorted((check, outcome) for outcome, _, check in gates) == sorted(
        (each["id"], each["outcome"]) for each in reported.record()["checks"]
    )
    assert {"passed", "failed", "error", "not_covered", "known_defect"} <= {outcome for outcome, _, _ in gates}
    assert all(page.count(f'id="{place}"') == 1 for _, place, _ in gates)


def test_the_page_begins_with_why_and_has_the_rest_of_it_after_the_cluster(reported):
    reported.run()
    page = (reported.latest / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section (?:class="module" )?id="([\w-]+)"', page)
    order = [
        "why",
        "not-covered",
        "cluster",
        "all-checks",
        "overview",
        "failed",
        "known-defects",
        "nodes",
        "module_00_fake",
        "time",
    ]
    assert [each for each in sections if each in order] == order
    why, failed = (page[page.index(f'<section id="{name}"') :].partition("</section>")[0] for name in ("why", "failed"))
    links = re.findall(r'href="#(failure-[^"]*)"', why)
    assert "<i>RDMA</i> not known" in page  # the fake node says nothing of it
    assert links and all(f'id="{link}"' in failed for link in links)
    assert page.count('src="data:image/svg') == 2  # in the overview and at its check
    overview = page[page.index('<section id="overview"') :].partition("</section>")[0]
    assert '<th scope="col">lease</th>' in overview and "<td>v1/mdc/b</td>" in overview  # its numbers beneath it


SHARED = """
    import time

    @pytest.fixture(scope="module")
    def replayed():
        time.sleep(1.2)

    @pytest.mark.check("M01-01")
    def test_first(replayed): "The first judges what was replayed."

    @pytest.mark.check("M01-02")
    def test_second(replayed): "The second judges the same."

    @pytest.mark.check("M01-03")
    @pytest.mark.needs("real_engine")
    def test_tokens(): "Two runs give the same tokens again."
"""

# asked of the page in a browser
PROBE = """<script>addEventListener("load", () => {
  const seen = {width: innerWidth, wide: document.documentElement.scrollWidth};
  const beyond = (e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".wide");
  seen.beyond = [...document.querySelectorAll("body *")].filter(beyond).map((e) => `${e.tagName} ${e.className}`);
  const widths = (which) => [...document.querySelectorAll(which)].map((e) => e.getBoundingClientRect().width);
  seen.behaviour = Math.min(...widths(".checks > tbody > tr:not(.under) > td:nth-child(2)"));
  const form = document.querySelector("form.search");
  const rows = () => [...document.querySelectorAll(".acceptance table [data-outcome]")]
    .filter((row) => row.checkVisibility({contentVisibilityAuto: true}))
    .map((row) => row.querySelector(".id").textContent);
  seen.form = form.checkVisibility();
  seen.all = rows().length;
  const groups = document.querySelector("#not-covered");
  seen.groups = [...groups.querySelectorAll("summary")].map((line) => line.textContent.trim());
  const follows = (table) => groups.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING;
  seen.before = [...document.querySelectorAll(".acceptance table")].filter((table) => !follows(table)).length;
  form.elements.text.value = "JUDGES"; form.dispatchEvent(new Event("input")); seen.text = rows();
  form.elements.text.value = "";
  for (const box of form.querySelectorAll("[name=outcome]")) box.checked = box.value == "known_defect";
  form.dispatchEvent(new Event("input")); seen.outcome = rows();
  const links = [...document.querySelectorAll("nav.contents a")].map((link) => link.hash);
  seen.links = links.filter((hash) => !document.querySelector(hash));
  form.elements.text.value = "greedy runs";
  for (const box of form.querySelectorAll("[name=outcome]")) box.checked = true;
  form.dispatchEvent(new Event("input")); seen.collapsed = rows();
  top.document.title = JSON.stringify(seen);
});</script>"""


def test_a_browser_opens_it_without_a_complaint(reported, opened):
    reported.run()
    shown = opened(reported.latest / "report.html")
    assert "CONSOLE" not in shown.stderr
    assert "<title" in shown.stdout and "owned" not in re.search(r"<title.*?</title>", shown.stdout)[0]


def test_a_phone_finds_its_way_on_it(reported, opened):
    reported.module(1, SHARED)
    reported.run()
    page = (reported.latest / "report.html").read_text(encoding="utf-8")
    assert '<meta name="viewport" content="width=device-width' in page[: page.index("<body")]
    assert page.count("Two runs give the same tokens again.") == 1
    first, second = [each for each in reported.record()["checks"] if each["id"] in ("M01-01", "M01-02")]
    assert first["duration_s"] >= 1.2 and first["shared_setup_s"] == 0
    assert second["duration_s"] < 1.2 <= second["shared_setup_s"]
    assert f"set-up {second['shared_setup_s']:.2f} s" in page
    probed = reported.latest / "probed.html"
    inside = html.escape(page.replace("</main>", f"{PROBE}</main>"))  # chromium's own least width is 500
    probed.write_text(f'<title></title><iframe width="390" height="800" srcdoc="{inside}"></iframe>', encoding="utf-8")
    shown = opened(probed)
    seen = json.loads(html.unescape(re.search(r"<title[^>]*>(.*?)</title>", shown.stdout)[1]))
    assert seen["wide"] <= seen["width"] == 390, seen["beyond"]
    assert seen["behaviour"] > 0.8 * seen["width"]  # text that one reads without scrolling in it
    assert seen["form"] and seen["all"] == 10
    [group] = seen["groups"]
    assert re.sub(r"\s+", " ", group) == "real_engine: 2 checks in modules 00 01 no inventory in inventory/ covers it"
    assert seen["before"] == 0 and seen["collapsed"] == ["M00-04"]
    assert seen["text"] == ["M01-01", "M01-02"]
    assert seen["outcome"] == ["M00-06", "M00-06"]
    assert seen["links"] == []


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("188.61153126789168", "188.61"),
        ("1.609771248374609", "1.6098"),
        ("-20892700.128246208", "-20892700"),
        ("5.9257865e-05", "5.9258e-05"),
        ("0.25", "0.25"),
        ("1234567", "1234567"),
        ("198.18.0.11", "198.18.0.11"),
        ("32 at once", "32 at once"),
        ("", ""),
    ],
)
def test_a_cell_of_a_table_has_five_digits_of_a_long_fraction(cell: str, shown: str) -> None:
    assert rounded(cell) == shown
