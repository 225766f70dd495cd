"""Who can read a run's folder."""

import os
import stat

import pytest

GREEN = """
    @pytest.mark.check("M00-01")
    def test_green(evidence): evidence.text("log", "line")
"""


@pytest.fixture
def green(suite):
    suite.module(0, GREEN)
    before = os.umask(0o022)
    yield suite
    os.umask(before)


@pytest.mark.parametrize(
    ("args", "mode"), [((), 0o700), (("--report-mode", "0750"), 0o750), (("--report-mode", "755"), 0o755)]
)
def test_a_runs_folder_is_its_owners(green, args, mode):
    assert green.run(*args).ret == 0
    assert green.latest.is_symlink() and green.record()["verdict"] == "ACCEPTED"
    assert oct(stat.S_IMODE(green.latest.resolve().stat().st_mode)) == oct(mode)


@pytest.mark.parametrize("given", ["rwx", "0600", "9", "0o700", ""])
def test_a_mode_that_cannot_be(green, given):
    result = green.run("--report-mode", given)
    assert result.ret == 4 and not list(green.path.glob("reports/2*"))
    result.stderr.fnmatch_lines([f"*{given!r} is not an octal mode such as 0700 or 0750, with 7 for the owner*"])
