"""Growth by request: as evidence, as the number that is measured, and as what is wrong."""

from collections.abc import Sequence
from dataclasses import replace

from fixtures.basics.evidence import Evidence
from fixtures.basics.findings import Findings
from fixtures.basics.measurement import Measurement
from fixtures.drift.judges import Growth


def shown(evidence: Evidence, title: str, unit: str, found: Sequence[Growth]) -> None:
    header = ["of", "node", f"first {unit}", f"last {unit}", "requests", "stretches", f"{unit} a request"]
    rows = [[g.of, g.node, g.first.value, g.last.value, g.requests, g.stretches, g.by_request] for g in found]
    evidence.table(title, header, rows)


def most(found: Sequence[Growth]) -> float | None:
    """The largest growth by request; None where too few requests were served to tell any."""
    return max((each.by_request for each in found if each.by_request is not None), default=None)


def too_much(wrong: Findings, bound: Measurement, found: Sequence[Growth], what: str) -> None:
    """Add a sentence for each growth that is out of the bounds of this measurement, which is the largest of them."""
    for each in found:
        if each.by_request is not None and replace(bound, value=each.by_request).judgement == "fail":
            wrong.add(
                f"{each.of}: {what} by {each.by_request:.3g} {bound.unit}, expected {bound.threshold}; "
                f"from {each.first.value:.6g} ({each.first.when}) to {each.last.value:.6g} ({each.last.when}) over "
                f"{each.requests:.0f} requests",
                node=each.node,
            )
