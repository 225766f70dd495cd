"""The pages of made-up runs in a real browser: none complains, and each can be read in the dark, on paper, without
scripts, and without the files that checks have kept."""

import asyncio
import html
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from fixtures.cli import report
from fixtures.nights.history import History
from fixtures.tests.made_up_run import made_up_run
from plugins.against import night
from plugins.tests.browser import typed_at

MOST_TABS = 200


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    """Two runs of one module, and what `python -m fixtures report` makes of them."""
    reports = tmp_path_factory.mktemp("reports")
    runs = [reports / "20260101T000000Z-0001", reports / "20260102T000000Z-0002"]
    for run in runs:
        History(reports).add(night(made_up_run(run, modules=1)), reference=False)
    for asked in (runs[:1], runs, []):
        report.main(Namespace(runs=asked, reports=reports))
    return reports


@pytest.fixture
def again(reports) -> Path:
    return reports / "20260101T000000Z-0001" / "again.html"


@pytest.mark.parametrize("name", ["*/again.html", "*/compared-with-*.html", "index.html"])
def test_none_complains(reports, opened, name):
    (page,) = reports.glob(name)
    shown = opened(page)
    assert "CONSOLE" not in shown.stderr
    assert '<main class="acceptance">' in shown.stdout and "latency_0_ms" in shown.stdout


def seen(opened, tmp_path, page: Path, script: str, *options: str, frame: str = "") -> dict:
    """What `script` gives in a page around a frame with `page`, whose document it gets as `of`."""
    inside = html.escape(page.read_text(encoding="utf-8"))
    told = f"top.document.title = JSON.stringify((of => ({script}))(frames[0].document))"
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<title></title><iframe {frame} srcdoc="{inside}"></iframe><script>onload = () => {{{told}}}</script>'
    )
    shown = opened(probe, *options)
    return json.loads(html.unescape(re.search(r"<title[^>]*>(.*?)</title>", shown.stdout)[1]))


@pytest.mark.parametrize(("theme", "setting"), [("dark", 0), ("light", 1)])
def test_it_is_as_dark_as_its_reader_likes(again, opened, tmp_path, theme, setting):
    script = "{ground: getComputedStyle(of.body).backgroundColor, ink: getComputedStyle(of.body).color}"
    colours = seen(opened, tmp_path, again, script, f"--blink-settings=preferredColorScheme={setting}")
    ground, ink = (sum(map(int, re.findall(r"\d+", colours[part]))) for part in ("ground", "ink"))
    assert (ground < 150 and ink > 600) if theme == "dark" else (ground > 600 and ink < 150), colours


def test_all_of_it_is_read_without_scripts(again, opened, tmp_path):
    script = """{
        form: of.querySelector("form.search").checkVisibility(),
        hidden: [...of.querySelectorAll("[data-outcome]")].filter(
            each => !each.closest("details") && !each.checkVisibility()).length,
        checks: of.querySelectorAll("tbody[data-outcome], #not-covered tr").length,
    }"""
    there = seen(opened, tmp_path, again, script, frame='sandbox="allow-same-origin"')
    assert there == {"form": False, "hidden": 0, "checks": 23}


def test_on_paper_all_is_open_and_nothing_is_to_be_typed(again, opened, tmp_path):
    probe, paper = tmp_path / "probe.html", tmp_path / "paper.pdf"
    script = """<script>matchMedia("print").onchange = printed => console.log(
        printed.matches ? "on paper" : "on screen", document.querySelectorAll("details:not([open])").length > 0,
        getComputedStyle(document.querySelector("form.search")).display)</script></main>"""
    probe.write_text(again.read_text(encoding="utf-8").replace("</main>", script), encoding="utf-8")
    printed = opened(probe, f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF-")
    assert re.findall(r'CONSOLE:\d+\S* "([^"]*)"', printed.stderr) == ["on paper false none", "on screen true flex"]


def test_keys_alone_lead_to_a_check(again, opened, tmp_path):
    """Tab comes to each gate in the order of the page, and Enter shows the check that it is of."""

    async def typed() -> tuple[list[str], dict]:
        focused, came = "document.activeElement.matches('a.gate') && document.activeElement.getAttribute('href')", []
        async with typed_at(again, tmp_path / "typed") as page:
            while await page.says("document.readyState") != "complete":
                await asyncio.sleep(0.1)
            for _ in range(MOST_TABS):
                await page.press("Tab")
                if href := await page.says(focused):
                    came.append(href)
                if len(came) == 2:
                    break
            await page.press("Enter")
            return came, await page.says("""{
                const check = document.querySelector(":target");
                ({place: `#${check?.id}`, top: check?.getBoundingClientRect().top, high: innerHeight})
            }""")

    gates = re.findall(r'<a class="gate [^>]*href="([^"]*)"', again.read_text(encoding="utf-8"))
    came, shown = asyncio.run(typed())
    assert came == gates[:2]
    assert shown["place"] == came[1] and -1 < shown["top"] < shown["high"]


def test_without_its_evidence_a_page_says_what_is_not_there(reports, tmp_path, opened):
    run = tmp_path / "20260101T000000Z-0001"
    run.mkdir()
    shutil.copy(reports / run.name / "run.json", run)
    report.main(Namespace(runs=[run], reports=tmp_path))
    page = (run / "again.html").read_text(encoding="utf-8")
    assert "<i>mlx5_0</i> 200</span>" in page
    assert "latency over time (not in this folder)" in page and "evidence/" not in page
    assert "CONSOLE" not in opened(run / "again.html").stderr
