"""--compare and --save-reference: what got slower is rejected; a stale reference, and another machine's, is refused."""

import json
import os
from datetime import datetime, timedelta

import pytest

from fixtures.nights.history import History

MEASURES = """
    import os
    from fixtures.basics.measure import Measure

    @pytest.mark.check("M00-01")
    def test_speed(measure: Measure):
        "Requests are served as fast as before."
        slower = float(os.environ.get("FAKE_SLOWER", 1))
        repeats = [100 * slower * step for step in (0.99, 1, 1.01, 1.02, 0.98)]
        measure("latency_ms", repeats[0], n=100, repeats=repeats)
        measure("tokens_per_s", 5000 / slower, n=100, repeats=[5000 / slower * step for step in (0.99, 1, 1.01)])
        measure("alone_ms", 5)
        measure("not_compared_ms", 10 * slower)
"""
BOUNDS = """
    M00-01:
      latency_ms: {max: 1000, unit: ms, better: lower, source: made up}
      tokens_per_s: {recorded: true, unit: tokens/s, better: higher, tolerance_percent: 30, source: made up}
      alone_ms: {recorded: true, unit: ms, better: lower, source: made up}
      not_compared_ms: {recorded: true, unit: ms, source: made up}
"""

PLANTS = """
from fixtures.plants.plant import Plant
class Slow(Plant):
    "All takes longer."
    catches = {"M00-01": "slower than allowed"}
    compared = True
"""


@pytest.fixture
def nightly(suite):
    suite.module(0, MEASURES, BOUNDS)
    return suite


def test_what_got_slower_rejects_the_run_and_names_the_metric(nightly, monkeypatch):
    missing = nightly.run("--compare", "latest")
    assert missing.ret == 4
    missing.stderr.fnmatch_lines(["ERROR: --compare latest: no reference of the profile fake*with --save-reference"])
    assert os.listdir(nightly.path / "reports") == []

    saved = nightly.run("--save-reference")
    assert saved.ret == 0
    reference = nightly.record()["run_id"]
    saved.stdout.fnmatch_lines([f"saved as a reference: {reference}", "ACCEPTED*"])

    same = nightly.run("--compare", "latest")
    assert same.ret == 0
    same.stdout.fnmatch_lines([f"3 metrics compared with {reference}: 1 inconclusive, 2 no change shown"])
    same.stdout.fnmatch_lines(["M00-01 alone_ms is 5 ms, 5 in the reference: *; inconclusive. *spread not known*"])

    monkeypatch.setenv("FAKE_SLOWER", "1.2")
    slow = nightly.run("--compare", reference)
    assert slow.ret == 1 and nightly.record()["verdict"] == "REJECTED"
    found = {each["name"]: each for each in nightly.record()["comparison"]["metrics"]}
    words = {"latency_ms": "slower than allowed", "tokens_per_s": "slower", "alone_ms": "inconclusive"}
    assert {name: each["word"] for name, each in found.items()} == words
    assert found["tokens_per_s"]["slower_percent"] == pytest.approx(20, abs=0.1)
    [problem] = nightly.record()["problems"]
    assert problem.startswith("M00-01 latency_ms is 120 ms, 99.99 in the reference: 20 % slower (+1")
    slow.stdout.fnmatch_lines([problem, "REJECTED*"])


def edited(suite, name: str, **changes: object) -> str:
    """A folder of another name with the newest run's record, changed."""
    folder = suite.path / "reports" / name
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(suite.record() | changes), encoding="utf-8")
    return str(folder)


def test_a_plant_that_a_comparison_shows_needs_one_and_is_caught_by_it(nightly, monkeypatch):
    nightly.write("tests_by_module/module_00_fake/plants.py", PLANTS)
    refused = nightly.run("--plant", "slow")
    assert refused.ret == 4 and not os.listdir(nightly.path / "reports")
    refused.stderr.fnmatch_lines(["ERROR: --plant slow: a comparison shows it: save a reference, then add --compare*"])

    nightly.run("--save-reference", "-n", "2")
    same = nightly.run("--compare", "latest", "-n", "2", "--plant", "slow")
    same.stdout.fnmatch_lines(["plant slow: NOT CAUGHT: M00-01 stays passed; the verdict is ACCEPTED, exit status 0"])
    monkeypatch.setenv("FAKE_SLOWER", "1.2")
    slow = nightly.run("--compare", "latest", "-n", "2", "--plant", "slow")
    slow.stdout.fnmatch_lines(["plant slow: CAUGHT by M00-01, as expected"])


def test_a_stale_reference_and_one_of_another_machine_are_refused_by_name(nightly):
    nightly.run("-n", "2")
    record = nightly.record()
    began = datetime.fromisoformat(record["started"]) - timedelta(days=45)
    stale = edited(nightly, "stale", started=began.isoformat())
    there = os.listdir(nightly.path / "reports")
    refused = nightly.run("--compare", stale)
    assert refused.ret == 4 and os.listdir(nightly.path / "reports") == there
    refused.stderr.fnmatch_lines(
        [f"ERROR: --compare {stale}: reference {record['run_id']} is stale: 45 days old, 30 *"]
    )

    other = {"cpu": {"count": 64, "model": "Other"}}
    elsewhere = edited(nightly, "elsewhere", nodes=[node | {"facts": other} for node in record["nodes"]])
    assert nightly.run("--compare", elsewhere, "-n", "2").ret == 6
    sentence = f"reference {record['run_id']} has other hardware: cpu of local is 64 x Other there, not known here"
    assert nightly.record()["verdict"] == "INCOMPLETE" and sentence in nightly.record()["incomplete"]
    assert nightly.record()["comparison"] | {"confidence": 0} == {
        "reference": record["run_id"],
        "line": f"not compared: {sentence}",
        "unanswered": [sentence],
        "confidence": 0,
        "metrics": [],
    }


def test_what_cannot_be_kept_is_said_and_costs_no_verdict(suite):
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_red(): assert False\n')
    result = suite.run("--save-reference")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["not saved as a reference: it ended REJECTED with exit status 1"])
    history = History(suite.path / "reports")
    assert history.references() == [] and len(history.nights()[0]) == 1
    assert history.path.stat().st_mode & 0o777 == 0o600
    history.path.write_text("no database")
    suite.module(0, '@pytest.mark.check("M00-01")\ndef test_green(): pass\n')
    result = suite.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["this run is not in the history: *history.sqlite3: cannot be written: file is not a*"])
