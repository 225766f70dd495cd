"""After which checks the deployment is suspected to answer nothing any more."""

CHECKS = """
    @pytest.fixture
    def deployment(): pass

    @pytest.mark.check("M00-01")
    def test_passes(deployment): "Passes."

    @pytest.mark.check("M00-02")
    def test_fails(deployment):
        "Fails."
        assert False, "no answer"

    @pytest.mark.check("M00-03")
    def test_fails_elsewhere():
        "Fails, and has nothing to do with it."
        assert False, "a disk"
"""


def test_only_a_check_of_the_deployment_that_failed_makes_it_suspect(suite):
    suite.module(0, CHECKS)
    assert suite.run().ret == 1
    assert (suite.path / "suspects").read_text() == "M00-02\n"
