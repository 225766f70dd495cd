"""SIGINT and SIGTERM: the first ends the check that runs, and no other begins, whatever its frame makes of the signal.

KeyboardInterrupt may be raised between any two instructions: a lock that is half taken then makes a RuntimeError of it,
a callback loses it. So it is kept here that it happened, and that decides.
"""

from __future__ import annotations

import signal

import pytest

from plugins.session import settings_of


class Interruption:
    def __init__(self) -> None:
        self.happened = False
        self._ending = False

    def handle(self, *_: object) -> None:
        """For signal.signal. Only the first raises: a terminal, a launcher and xdist may each send their own."""
        raises = not self.happened and not self._ending
        self.happened = True
        if raises:
            raise KeyboardInterrupt

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """By whatever else ends a session; what pytest and xdist raise to stop by themselves is of a subclass."""
        stopped_by_itself = isinstance(excinfo.value, KeyboardInterrupt) and excinfo.type is not KeyboardInterrupt
        self.happened = self.happened or not stopped_by_itself

    def _nothing_begins(self) -> None:
        if self.happened:
            raise KeyboardInterrupt

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        self._nothing_begins()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self) -> None:
        self._nothing_begins()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self._nothing_begins()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        self._nothing_begins()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._ending = True  # what is taken down is taken down to the end

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self) -> None:
        self._ending = True


INTERRUPTION: pytest.StashKey[Interruption] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    if settings_of(config) is None:
        return
    config.stash[INTERRUPTION] = interruption = Interruption()
    config.pluginmanager.register(interruption, "acceptance-interruption")
    previous = {number: signal.signal(number, interruption.handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    config.add_cleanup(restore)
