"""The Gantt of a run: what is drawn, that it stays small, and that names cannot break out."""

import xml.etree.ElementTree as ET

from fixtures.tests.test_times import check, deployment, on_two_runners, record, wait
from fixtures.times.record import parsed
from plugins.gantt import MOST_RUNNERS, gantt_svg

BAD = '"><script>alert(1)</script>'


def drawn(data):
    svg = gantt_svg(parsed(data, "made up"))
    return svg, ET.fromstring(svg)


def classes(root):
    return [rect.get("class") for rect in root.iter("rect")]


def test_deployments_checks_and_waits_of_each_runner_are_drawn():
    svg, root = drawn(on_two_runners())
    assert classes(root).count("take-down") == classes(root).count("serves") == 2
    assert classes(root).count("bring-up") == 4  # with the steps before
    assert classes(root).count("passed") == 2 and root.get("role") == "img"
    assert [text.text for text in root.iter("text") if text.get("class") == "runner"] == ["gw0", "gw1"]
    assert "2 checks and 2 deployments over 11 s" in root.get("aria-label")
    assert "M08-46: passed, 6.0 s" in svg and ">M08-46<" in svg


def test_a_bar_lies_where_its_check_ran():
    _, root = drawn(record())
    [bar] = [rect for rect in root.iter("rect") if rect[0].text.startswith("M08-46")]
    ticks = {text.text: float(text.get("x")) for text in root.iter("text") if text.get("class") == "second"}
    x, width = float(bar.get("x")), float(bar.get("width"))
    assert abs(x - ticks["10 s"]) < 0.2 and abs(x + width - ticks["18 s"]) < 0.2


def test_a_thousand_checks_stay_small_and_a_red_one_is_seen():
    many = [check(f"M00-{n:04}", n / 5, 0.1, waited=[wait("it", n / 5, 0.05)]) for n in range(1000)]
    many[500]["outcome"] = "failed"
    lives = [deployment(f"module_00.d{n}", n, n + 0.2, n + 0.4, n + 0.5) for n in range(150)]
    svg, root = drawn(record(duration_s=20_000.0, checks=many, deployments=lives))
    assert len(svg) < 20_000 and "failed" in classes(root)
    svg, root = drawn(record(duration_s=200.0, checks=many, deployments=lives))
    assert len(svg) < 300_000 and "failed" in classes(root)


def test_many_runners_and_deployments_at_once_stay_small():
    many = [check("M00-01", 1, 1, f"gw{n}") for n in range(100)]
    lives = [deployment(f"d{n}", 1, 2, 8, 9, "gw0") for n in range(100)]
    svg, root = drawn(record(checks=many, deployments=lives, timeline=[]))
    assert f"and {100 - MOST_RUNNERS} more runners" in svg
    assert float(root.get("viewBox").split()[3]) < 100 * MOST_RUNNERS


def test_waits_that_are_spread_are_fainter():
    spread = wait("it", 5.0, 2.0, n=4) | {"end_s": 9.0}
    _, root = drawn(record(checks=[check("M00-01", 5.0, 4.0, waited=[spread])], waits=[]))
    [bar] = [rect for rect in root.iter("rect") if rect.get("class") == "waits"]
    assert bar.get("fill-opacity") == "0.50" and bar[0].text == "it: 4 times, 2.0 s"


def test_names_cannot_break_out():
    bad = check(BAD, 1, 8, outcome=BAD, runner=BAD, waited=[wait(BAD, 1, 5)])
    svg, _ = drawn(record(checks=[bad], deployments=[deployment(BAD, 1, 2, 8, 9, BAD)]))
    assert "<script" not in svg


def test_a_run_without_a_check_draws_nothing():
    assert gantt_svg(parsed(record(checks=[]), "made up")) == ""
