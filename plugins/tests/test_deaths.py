"""A check in which a process ends by itself fails by that; those that stand on its deployment are blocked by it."""

CHECKS = """
    import dataclasses, types
    from fixtures.basics.errors import ProcessEnded

    @dataclasses.dataclass
    class Death:
        namespace: str
        text: str

    class Deaths:
        found = []
        def look(self, deployments, *, at_once):
            found, Deaths.found = Deaths.found, []
            return found

    def brought_up(config, namespace, prefix):
        from plugins.session import RUN
        run = config.stash[RUN]
        run.deaths = Deaths()
        settings = types.SimpleNamespace(namespace=namespace)
        run.deployments = (*run.deployments, types.SimpleNamespace(settings=settings, prefix=prefix))

    @pytest.fixture(scope="session")
    def deployment(pytestconfig): brought_up(pytestconfig, "declared", "")

    @pytest.fixture(scope="module")
    def own(pytestconfig): brought_up(pytestconfig, "own", "own-")

    @pytest.fixture(scope="module")
    def history(pytestconfig): raise ProcessEnded("worker-9 ended with exit status 1", causes=[])

    @pytest.mark.check("M00-01")
    def test_stands_on_both(deployment, own): "Passes."

    @pytest.mark.check("M00-02")
    def test_one_ends(own):
        "Passes, but for a process that ends."
        Deaths.found = [Death("own", "own-worker-1 ended with signal 9\\nits log ends:")]

    @pytest.mark.check("M00-03")
    def test_stands_on_what_has_ended(own): "Is not asked."

    @pytest.mark.check("M00-04")
    def test_stands_on_another(deployment): "Passes."

    @pytest.mark.check("M00-05")
    def test_fails_as_one_ends(deployment):
        "Fails by a process that ends, whatever it sees."
        Deaths.found = [Death("declared", "etcd ended with signal 9")]
        assert False, "connection refused"

    @pytest.mark.check("M00-06")
    def test_stands_on_all_that_has_ended(own, deployment): "Is not asked."

    @pytest.mark.check("M00-07")
    def test_history_is_broken(history): "Is not asked."

    @pytest.mark.check("M00-08")
    def test_history_is_broken_for_this_one_too(history): "Is not asked."
"""


def test_a_process_that_ends_fails_one_check_and_blocks_those_that_stand_on_it(suite):
    suite.module(0, CHECKS)
    assert suite.run().ret == 1
    told = {check["id"]: (check["outcome"], check["reason"]) for check in suite.record()["checks"]}
    assert told == {
        "M00-01": ("passed", ""),
        "M00-02": ("failed", "own-worker-1 ended with signal 9\nits log ends:"),
        "M00-03": ("error", "blocked by M00-02: see M00-02"),
        "M00-04": ("passed", ""),
        "M00-05": ("failed", "etcd ended with signal 9\nseen by the check: connection refused"),
        "M00-06": ("error", "blocked by M00-05: see M00-05"),
        "M00-07": ("failed", "worker-9 ended with exit status 1"),
        "M00-08": ("error", "blocked by M00-07: see M00-07"),
    }
