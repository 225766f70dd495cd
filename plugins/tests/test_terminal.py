"""A pseudo-terminal under a run whose checks repeat what a hostile node says: nothing of it acts on the terminal."""

import os
import pty
import re
import subprocess
import sys

SAYS = "\x1b[2J\x1b[H\x1b]0;t\x07\u202e\x9b2J\x1b[42mACCEPTED"
SHOWN = r"\x1b[2J\x1b[H\x1b]0;t\x07\u202e\x9b2J\x1b[42mACCEPTED"
# what moves nothing: pytest's own colours
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")

TESTS = f"""
    import logging, warnings
    from fixtures.basics.errors import BringUpFailed, BlockedByHardware, CouldNotLook
    SAYS = {SAYS!r}

    @pytest.mark.check("M00-01")
    def test_failed(): assert not SAYS, "message " + SAYS

    @pytest.mark.check("M00-02")
    def test_captured():
        print("stdout " + SAYS)
        logging.getLogger().warning("log " + SAYS)
        assert 0

    @pytest.mark.check("M00-03")
    def test_could_not_look(): raise CouldNotLook("n01: " + SAYS)

    @pytest.mark.check("M00-04")
    def test_blocked(): raise BlockedByHardware("hardware " + SAYS)

    @pytest.mark.check("M00-05")
    @pytest.mark.known_defect(issue="x#1", versions="<1.7", shows="known", reason="r")
    def test_known(): assert 0, "known " + SAYS

    @pytest.mark.check("M00-06")
    @pytest.mark.filterwarnings("default")
    def test_warning():
        warnings.warn("warning " + SAYS)

    @pytest.fixture
    def broken(): raise ValueError("fixture " + SAYS)

    @pytest.mark.check("M00-07")
    def test_set_up(broken): ...
"""


def on_a_terminal(argv: list[str], **how: object) -> tuple[int, bytes]:
    """Exit status, and what the command wrote to a terminal of its own."""
    master, slave = pty.openpty()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, **how)
    os.close(slave)
    seen = b""
    while True:
        try:
            more = os.read(master, 1 << 16)
        except OSError:  # Linux says so when the other end is closed
            break
        if not more:
            break
        seen += more
    os.close(master)
    return process.wait(60), seen


def test_a_node_cannot_act_on_the_terminal(suite):
    suite.module(0, TESTS)
    suite.module(1, f"raise ValueError('collection ' + {SAYS!r})")
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-vra",
        "--color=yes",
        "--continue-on-collection-errors",
    ]
    status, seen = on_a_terminal(argv, cwd=suite.path, env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
    assert status == 1
    assert b"\x1b[31m" in seen and b"REJECTED" in seen  # pytest still paints
    plain = COLOUR.sub(b"", seen).replace(b"\r\n", b"\n").replace(b"\rcollect", b"collect").decode()
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", plain)
    assert b"\x1b[42m" not in seen
    for source in ("message", "stdout", "log", "n01:", "hardware", "known", "warning", "fixture", "collection"):
        assert f"{source} {SHOWN}" in plain, source
    for path in (suite.latest / "run.json", suite.latest / "junit.xml"):
        assert not re.search(r"[\x80-\x9f\u202e]|\\u001b|#x1B", path.read_text()), path.name
