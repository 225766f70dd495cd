"""What any runner saw of all answers turns the check red that judges them, wherever that one ran."""

import json
from dataclasses import asdict

import pytest

from fixtures.answers.of_all import CHECKS, OfAll
from fixtures.clients.judge import FORM
from fixtures.clients.ledger import Alike

CHECK = """
    @pytest.mark.at_end
    @pytest.mark.check("M02-40")
    def test_every_answer_is_well_formed():
        "Every answer is well formed."
"""
OTHER = """
    @pytest.mark.check("M01-01")
    def test_other():
        "Another."
"""


@pytest.mark.parametrize("wrong", [0, 3])
def test_a_flaw_that_a_runner_saw_fails_the_check(suite, monkeypatch, wrong):
    found = {kind: asdict(OfAll(50)) for kind in CHECKS}
    alike = {"constant": Alike(wrong, ["7: answer cmpl-7: it holds NaN"] * wrong)} if wrong else {}
    found[FORM] = asdict(OfAll(50, wrong, alike))
    monkeypatch.setenv("FAKE_ANSWERS", json.dumps({"found": found, "ids": []}))
    suite.module(1, OTHER)
    suite.requires("M02-*")
    suite.module(2, CHECK)
    result = suite.run("-n", "2")
    assert result.ret == (1 if wrong else 0)
    assert suite.outcomes() == {"M01-01": "passed", "M02-40": "failed" if wrong else "passed"}
    if wrong:
        (check,) = (each for each in suite.record()["checks"] if each["id"] == "M02-40")
        # both runners saw as much
        assert check["reason"].startswith("6 of 100 answers: 7: answer cmpl-7: it holds NaN")
        assert [each["text"] for each in check["findings"]][-1] == "and 1 more like it"


def test_answers_that_cannot_be_judged_are_no_good_answers(suite, monkeypatch):
    monkeypatch.setenv("FAKE_ANSWERS", "{")
    suite.requires("M02-*")
    suite.module(2, CHECK)
    assert suite.run("-n", "2").ret == 1
    assert any("the answers were not judged" in each for each in suite.record()["tear_down_errors"])
