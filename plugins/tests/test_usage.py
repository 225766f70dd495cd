"""What is wrong before a node is touched: one clear message, exit status 4, no run folder left."""

import pytest

GREEN = '@pytest.mark.check("M00-01")\ndef test_green(): pass\n'


@pytest.fixture
def green(suite):
    suite.module(0, GREEN)
    return suite


def refused(suite, *args):
    """The message of a run that must end with a usage error."""
    result = suite.run(*args)
    text = str(result.stdout) + str(result.stderr)
    assert result.ret == 4, text
    assert not list((suite.path / "reports").glob("*")) if (suite.path / "reports").exists() else True
    assert "INTERNALERROR" not in text and "Traceback" not in text
    return text


def test_a_wrong_inventory_is_told_whole(green):
    inventory = green.path / "inventory" / "local.yaml"
    inventory.write_text(inventory.read_text().replace("dynamo_embedded", "dynamo_embeded"))
    assert "local.yaml:" in refused(green) and "dynamo_embeded" in refused(green)
    assert "nowhere.yaml" in refused(green, "--inventory", "nowhere.yaml")


def test_a_profile_that_requires_what_does_not_exist(green):
    green.requires("M00-*", "M13-*")
    assert "dynamo_requires: 'M13-*' matches no check; known are M00-01" in refused(green)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ("M00-01:\n  x_s: {max: 5, unit: s}\n", "thresholds.yaml:2: M00-01: x_s: source is missing"),
        ("M00-01:\n  x_s: {max: 5, unit: s, engine: vlm, source: a}\n", "M00-01: x_s: engine is one of mocker, vllm"),
        ("M00-01:\n  x_s: {max: 5, unit: s, source: a}\n  x_s: {max: 6, unit: s, source: a}\n", "thresholds.yaml:3:"),
    ],
)
def test_wrong_thresholds(green, thresholds, message):
    green.write("tests_by_module/module_00_fake/thresholds.yaml", thresholds)
    assert message in refused(green)


def test_a_site_override_for_a_check_that_does_not_exist(green):
    green.write("inventory/local.thresholds.yaml", "M00-77:\n  x_s: {max: 5, unit: s, source: a}\n")
    assert "there is no check M00-77" in refused(green)
    green.write("inventory/local.thresholds.yaml", "M00-01:\n  y_s: {max: 5, unit: s, source: a}\n")
    assert "M00-01 does not measure 'y_s'; it measures nothing" in refused(green)


WRONG_MARKS = """
    def test_no_id(): pass

    @pytest.mark.check("M01-01")
    def test_other_module(): pass

    @pytest.mark.check("M00-02")
    def test_first(): pass

    @pytest.mark.check("M00-02")
    def test_second(): pass

    @pytest.mark.check("M00-03", causes=[9999])
    @pytest.mark.needs("gpuu")
    def test_unknown(): pass

    @pytest.mark.check("M00-04")
    @pytest.mark.known_defect(issue="x", versions="all", shows="(", reason="y", engine="z")
    def test_versions(): pass

    @pytest.mark.check("M00-05")
    @pytest.mark.known_defect(versions="<1.7")
    def test_no_issue(): pass

    @pytest.mark.check("M00-06")
    def test_acts(managed): pass

    @pytest.mark.check("M00-07")
    @pytest.mark.needs("managed", why="so")
    def test_why(managed): pass
"""


@pytest.mark.parametrize("args", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_wrong_markers_are_all_told(suite, args):
    suite.module(0, WRONG_MARKS)
    text = refused(suite, *args)
    for message in (
        "test_no_id: no check id",
        "check id M01-01 is not of this module",
        "test_second: check id M00-02 is taken by tests_by_module/module_00_fake/test_it.py::test_first",
        "causes: 9999 not in fixtures/basics/known_failures.yaml",
        "needs: unknown capability gpuu; known are",
        "versions 'all' is not a PEP 440 specifier",
        "shows '(' is not a regular expression",
        "unknown engine 'z'; known are mocker, vllm, sglang, trtllm",
        "known_defect: issue, shows, reason is missing",
        "test_why: needs: unknown why='so'; known are breaks, ",
        'test_acts: takes the fixture managed: mark it with @pytest.mark.needs("managed", why="breaks")',
    ):
        assert message in text, message


def test_an_unknown_marker_is_an_error(green):
    green.module(0, "@pytest.mark.smok\n" + GREEN)
    assert green.run().ret == 1  # pytest's own strict markers: the file cannot be collected


def test_an_unknown_plant(green):
    assert "there is no plant 'no-such-plant'; --list-plants names all" in refused(green, "--plant", "no-such-plant")
