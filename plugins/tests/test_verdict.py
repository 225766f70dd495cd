"""The verdict as a pure function of the record, row by row."""

import pytest

from fixtures.basics.check_source import KnownCheck
from plugins.checks import required_ids
from plugins.verdict import decide


def check(check_id="M00-01", outcome="passed", required=True, judgements=()):
    measured = [
        {"name": "x", "n": 1, "judgement": judgement, "threshold": {"min_n": 9} if judgement == "too_few" else None}
        for judgement in judgements
    ]
    case = {
        "id": check_id,
        "case": "",
        "outcome": outcome,
        "required": required,
        "reason": "",
        "measurements": measured,
    }
    return case


def data(*checks, **other):
    empty = {"required": ["M00-01"], "problems": [], "tear_down_errors": [], "profile": "p", "plant": None}
    return (
        empty
        | {
            "selection": {"part": False, "keyword": "", "markers": "", "arguments": ["tests_by_module"]},
            "checks": list(checks),
        }
        | other
    )


@pytest.mark.parametrize(
    ("record", "word", "status"),
    [
        (data(check()), "ACCEPTED", 0),
        (data(check(judgements=("pass", "recorded"))), "ACCEPTED", 0),
        (data(check(outcome="known_defect")), "ACCEPTED", 0),
        (data(check(), check("M00-02", "blocked_by_hardware")), "ACCEPTED", 0),
        (data(check(), check("M00-02", "not_covered", required=False)), "ACCEPTED", 0),
        (data(check(), check("M00-02", required=False, judgements=("no_threshold",))), "ACCEPTED", 0),
        (data(check(outcome="failed")), "REJECTED", 1),
        (data(check(), check("M00-02", "error", required=False)), "REJECTED", 1),
        (data(check(), problems=["could not be collected"]), "REJECTED", 1),
        (data(check(), tear_down_errors=["etcd"]), "REJECTED", 1),
        (data(check(outcome="failed"), check("M00-02", "not_covered")), "REJECTED", 1),
        (data(check(), check("M00-02", "not_covered")), "INCOMPLETE", 6),
        (data(check(judgements=("no_threshold",))), "INCOMPLETE", 6),
        (data(check(judgements=("too_few",))), "INCOMPLETE", 6),
        (data(check(outcome="blocked_by_hardware")), "INCOMPLETE", 6),
        (data(), "INCOMPLETE", 6),
    ],
)
def test_verdict(record, word, status):
    verdict = decide(record, [], interrupted=False, pytest_failed=False)
    assert (verdict.word, verdict.exit_status) == (word, status)
    assert bool(verdict.incomplete) == (word == "INCOMPLETE") or word == "REJECTED"


def test_what_was_selected_and_never_ran_is_incomplete_whether_required_or_not():
    verdict = decide(data(check()), ["M00-02", "M00-03[a]"], interrupted=False, pytest_failed=False)
    assert (verdict.word, verdict.exit_status) == ("INCOMPLETE", 6)
    assert verdict.incomplete == ["selected, and never run: M00-02, M00-03[a]"]


def test_interrupted_and_pytests_own_failure_are_never_accepted():
    assert decide(data(check()), [], interrupted=True, pytest_failed=False).exit_status == 2
    assert decide(data(check()), [], interrupted=False, pytest_failed=True).exit_status == 1


def test_a_profile_names_ids_and_patterns_and_takes_out_again():
    known = [KnownCheck(check_id, "", "", "", "", 1) for check_id in ("M00-01", "M00-02", "M01-01")]
    assert required_ids(["M00-*", "M01-01", "!M00-02"], known) == {"M00-01", "M01-01"}
    with pytest.raises(pytest.UsageError, match=r"'!M01-09' matches no check; known are M00-01, M00-02, M01-01"):
        required_ids(["M00-*", "!M01-09"], known)
