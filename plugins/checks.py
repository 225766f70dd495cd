"""The checks that a profile requires."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from fixtures.basics.check_source import KnownCheck
from fixtures.cluster.inventory.requires import CAPABILITIES, is_required, matches

OF_A_SITE = "; --site-checks=FOLDER brings a site's own"


def required_ids(patterns: Iterable[str], known: Iterable[KnownCheck], complete: bool = True) -> frozenset[str]:
    """The ids of the checks that `dynamo_requires` asks for. Raises UsageError on an id or pattern for no check."""
    patterns, known = tuple(patterns), tuple(known)
    for pattern in patterns:
        by_id = pattern.removeprefix("!") not in CAPABILITIES
        if complete and by_id and not any(matches(pattern, check.id, check.needs) for check in known):
            ids = ", ".join(sorted({check.id for check in known})) or "none"
            raise pytest.UsageError(f"dynamo_requires: {pattern!r} matches no check; known are {ids}{OF_A_SITE}")
    return frozenset(check.id for check in known if is_required(patterns, check.id, check.needs))
