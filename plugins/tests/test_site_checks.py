"""A site's own checks outside the suite: in the same verdict and report, by ids that are never the suite's."""

import shlex

import pytest

SUITE = """
    @pytest.mark.check("M00-01")
    def test_of_the_suite(): pass
"""
SITE = """
    import pytest
    from helper import LIMIT  # a file beside it

    @pytest.fixture
    def mine(here):
        return here + 1

    @pytest.mark.check("SITE-01", by_hand="uptime")
    def test_green(measure, evidence, mine):
        '''The site's rack is cool.'''
        measure("inlet_celsius", LIMIT)
        evidence.note("rack", "seen")
        assert mine == 42

    @pytest.mark.check("SITE-02")
    @pytest.mark.parametrize("n", range(2))
    def test_red(n):
        assert n == 0, f"rack {n} is open"

    @pytest.mark.check("SITE-03")
    @pytest.mark.needs("real_engine")
    def test_not_covered(): raise AssertionError
"""
CONFTEST = """
    import pytest

    @pytest.fixture
    def here(): return 41
"""
THRESHOLDS = "SITE-01: {inlet_celsius: {max: 27, unit: C, source: our racks}}\n"


@pytest.fixture
def site(suite, tmp_path_factory):
    """Writes a file into a folder that is outside the suite, and returns the folder."""
    folder = tmp_path_factory.mktemp("Acme Racks")
    suite.module(0, SUITE)

    def write(**files: str):
        for name, text in files.items():
            suite.write(str(folder / name.replace("__", ".")), text)
        return folder

    write(test_racks__py=SITE, conftest__py=CONFTEST, helper__py="LIMIT = 25\n", thresholds__yaml=THRESHOLDS)
    return write


def test_they_are_in_the_same_verdict_and_report(suite, site):
    ran = suite.run(f"--site-checks={site()}")
    assert ran.ret == 1
    assert suite.outcomes() == {
        "M00-01": "passed",
        "SITE-01": "passed",
        "SITE-020": "passed",
        "SITE-021": "failed",
        "SITE-03": "not_covered",
    }
    green, _, red = [check for check in suite.record()["checks"] if check["module"].startswith("site_acme_racks")][:3]
    assert green["title"] == "The site's rack is cool." and green["by_hand"] == "uptime"
    assert (green["measurements"][0]["value"], green["measurements"][0]["judgement"]) == (25, "pass")
    assert (suite.latest / green["evidence"][0]["path"]).is_file()
    assert "rack 1 is open" in red["reason"]
    page = (suite.latest / "report.html").read_text()
    assert red["module"] in page and "The site&#39;s rack is cool." in page
    ran.stdout.fnmatch_lines(["REJECTED (profile fake): 3 passed, 1 failed, 0 errors, 1 not covered, *"])


@pytest.mark.parametrize("words", [["--site-checks={}"], ["tests_by_module", "--site-checks", "{}"]])
def test_the_option_takes_its_folder_with_an_equals_sign_or_after_the_suites_folder(words, suite, site):
    folder = str(site())
    listed = suite.run("--collect-only", "-q", *(word.format(folder) for word in words))
    assert listed.ret == 0
    listed.stdout.fnmatch_lines(["tests_by_module/module_00_*", "tests_by_module/site_acme_racks*::test_green"])


def test_without_the_option_they_are_not_there(suite, site):
    site()
    assert suite.run().ret == 0
    assert suite.outcomes() == {"M00-01": "passed"}


def test_the_command_that_is_shown_runs_a_red_one_again(suite, site):
    ran = suite.run(f"--site-checks={site()}")
    (again,) = [line.partition("again: ")[2] for line in ran.outlines if "again: " in line]
    words = shlex.split(again)
    assert words[:3] == ["uv", "run", "pytest"]
    assert suite.run(*words[3:]).ret == 1
    assert suite.outcomes() == {"SITE-020": "passed", "SITE-021": "failed"}


def test_they_run_alone_by_the_name_of_their_module(suite, site):
    folder = site(test_racks__py=SITE.replace("n == 0", "n < 2"))
    suite.run(f"--site-checks={folder}", "-k", "site_acme_racks")
    assert sorted(suite.outcomes()) == ["SITE-01", "SITE-020", "SITE-021", "SITE-03"]


def test_two_runners_share_them_by_module(suite, site):
    folder = site()
    suite.module(1, SUITE.replace("M00", "M01"))
    assert suite.run(f"--site-checks={folder}", "-n", "2").ret == 1
    assert suite.outcomes()["SITE-01"] == "passed" and suite.outcomes()["SITE-021"] == "failed"
    assert len(suite.outcomes()) == 6


def test_a_path_from_where_one_stands_and_files_in_sub_folders(suite, site):
    folder = site(test_racks__py="")
    suite.write(
        str(folder / "sub" / "test_more.py"), "import pytest\n@pytest.mark.check('OPS-07')\ndef test_x(): pass\n"
    )
    suite.write(str(folder / "thresholds.yaml"), "")
    suite.path.joinpath("linked").symlink_to(folder)
    assert suite.run("--site-checks=linked").ret == 0
    assert suite.outcomes() == {"M00-01": "passed", "OPS-07": "passed"}
    assert suite.record()["checks"][-1]["module"] == "site_linked"


def test_one_that_is_required_counts_for_acceptance(suite, site):
    folder = site(test_racks__py=SITE.replace("n == 0", "n < 2"))
    suite.requires("M00-*", "SITE-*", "!SITE-03")
    assert suite.run(f"--site-checks={folder}").ret == 0
    suite.requires("M00-*", "SITE-*")
    assert suite.run(f"--site-checks={folder}").ret == 6
    assert suite.record()["incomplete"] == [
        "SITE-03 is required and not covered: real_engine: looked on all nodes, not_declared"
    ]
    ran = suite.run()
    assert ran.ret == 4
    assert (
        "dynamo_requires: 'SITE-*' matches no check; known are M00-01; --site-checks=FOLDER brings" in ran.stderr.str()
    )


def test_a_missing_threshold_is_incomplete_where_the_check_is_required(suite, site):
    folder = site(thresholds__yaml="", test_racks__py=SITE.replace("n == 0", "n < 2"))
    suite.requires("M00-*", "SITE-01")
    assert suite.run(f"--site-checks={folder}").ret == 6
    assert suite.record()["incomplete"] == ["SITE-01: inlet_celsius has no threshold"]


def test_thresholds_beside_the_inventory_count_more(suite, site):
    folder = site()
    suite.write("inventory/local.thresholds.yaml", THRESHOLDS.replace("27", "20"))
    suite.run(f"--site-checks={folder}")
    assert suite.outcomes()["SITE-01"] == "failed"


ONE = "import pytest\n@pytest.mark.check('{}')\ndef test_it(): pass\n"
MISTAKES = {
    "an_id_of_the_suite": ({"test_x__py": ONE.format("M00-01")}, "check id M00-01 cannot be a site's; mark it with"),
    "an_id_that_patterns_match": ({"test_x__py": ONE.format("MESH-01")}, "check id MESH-01 cannot be a site's"),
    "an_id_twice": (
        {"test_x__py": ONE.format("SITE-01")},
        "check id SITE-01 is taken by tests_by_module/site_",
    ),
    "no_id": (
        {"test_x__py": "def test_it(): pass\n"},
        'test_x.py::test_it: no check id; mark it with @check("SITE-01"',
    ),
    "a_threshold_of_the_suite": (
        {"thresholds__yaml": "M00-01: {x_s: {max: 1, unit: s, source: a}}\n"},
        "thresholds.yaml: there is no check M00-01; known are SITE-01, SITE-02, SITE-03",
    ),
    "a_threshold_without_source": (
        {"thresholds__yaml": "SITE-01: {x_s: {max: 1, unit: s}}\n"},
        "thresholds.yaml:1: SITE-01: x_s: source is missing",
    ),
}


@pytest.mark.parametrize(
    ("mistake", "runners"), [*((each, ()) for each in MISTAKES), ("an_id_of_the_suite", ("-n", "2"))]
)
def test_a_mistake_ends_the_run_before_a_node_is_touched(mistake, runners, suite, site):
    files, said = MISTAKES[mistake]
    ran = suite.run(f"--site-checks={site(**files)}", *runners)
    assert ran.ret == 4
    assert said in ran.stderr.str() + ran.stdout.str()
    assert not (suite.path / "reports").exists() or not list((suite.path / "reports").glob("2*"))


def test_a_site_id_in_a_module_of_the_suite_is_a_mistake(suite, site):
    suite.module(2, SUITE.replace("M00-01", "SITE-09"))
    ran = suite.run(f"--site-checks={site()}")
    assert ran.ret == 4 and 'no check id; mark it with @check("M<module>' in ran.stderr.str()


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("no/such", "no/such is not a folder"),
        ("inventory", "inventory holds no file test_*.py"),
        ("tests_by_module", "overlaps"),
        ("tests_by_module/module_00_fake", "overlaps"),
        (".", "overlaps"),
    ],
)
def test_a_folder_that_cannot_be_one_is_a_mistake(folder, said, suite, site):
    ran = suite.run(f"--site-checks={folder}")
    assert ran.ret == 4 and f"--site-checks: {suite.path}" in ran.stderr.str() and said in ran.stderr.str()


def test_its_fixtures_are_not_seen_by_the_suites_checks(suite, site):
    suite.module(
        1,
        "@pytest.mark.check('M01-01')\ndef test_it(measure): measure('x_s', 1)\n",
        "M01-01: {x_s: {max: 9, unit: s, source: a}}",
    )
    shadow = CONFTEST + "\n    @pytest.fixture(autouse=True)\n    def measure(): return lambda *_: 1 / 0\n"
    folder = site(conftest__py=shadow, test_racks__py=ONE.format("SITE-01"), thresholds__yaml="")
    suite.run(f"--site-checks={folder}")
    assert suite.outcomes() == {"M00-01": "passed", "M01-01": "passed", "SITE-01": "passed"}


def test_only_listing_them_works(suite, site):
    ran = suite.run(f"--site-checks={site()}", "--collect-only", "-q")
    assert ran.ret == 0
    listed = [line.rpartition("::")[2] for line in ran.outlines if "/site_acme_racks" in line]
    assert listed == ["test_green", "test_red[0]", "test_red[1]", "test_not_covered"]


PLANT = """
    from fixtures.plants.plant import Plant

    class RackOpen(Plant):
        '''A rack stands open.'''
        catches = {"SITE-02": "rack 1 is open"}
"""


def test_a_plant_of_a_site_runs_its_checks_and_is_said_to_be_caught(suite, site):
    folder = site(plants__py=PLANT)
    listed = suite.run(f"--site-checks={folder}", "--list-plants")
    assert listed.outlines == ["rack_open\tSITE-02\tA rack stands open."]
    inventory = ("--inventory", "inventory/local.yaml")
    ran = suite.run(f"--site-checks={folder}", "--plant", "rack_open", *inventory, "-n", "2")
    assert ran.ret == 1
    assert "plant rack_open: CAUGHT by SITE-02, as expected" in ran.outlines
    assert "M00-01" not in suite.outcomes() and len(suite.outcomes()) == 4
    unknown = suite.run("--plant", "rack_open", *inventory)
    assert unknown.ret == 4 and "there is no plant 'rack_open'" in unknown.stderr.str()


def test_a_plant_of_a_site_with_the_name_of_another_is_a_mistake(suite, site):
    folder = site(plants__py=PLANT, plants_more__py=PLANT)
    ran = suite.run(f"--site-checks={folder}", "--plant", "rack_open")
    assert ran.ret == 4 and "two plants are called rack_open: in plants and plants_more" in ran.stderr.str()
