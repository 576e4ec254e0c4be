"""The verdict on selfhood: each kind of model is recognised for what it is, and too little evidence decides nothing."""

from __future__ import annotations

from typing import Any

import pytest

from charforge.evaluate import selfhood
from charforge.evaluate.selfhood import ASSISTANT, DISTINCT, UNDECIDED, UNSTABLE


def number(name: str, condition: str, against: str | None, ends: Any) -> dict[str, Any]:
    low, high = (None, None) if isinstance(ends, str) or ends is None else ends
    value = None if low is None else (low + high) / 2
    why = ends if isinstance(ends, str) else None
    return {
        "name": name, "arm": "trained", "trait": None, "condition": condition, "against": against,
        "value": value, "low": low, "high": high, "why": why,
    }  # fmt: skip


TRUE_SELF: dict[str, Any] = {
    "speaks": (0.4, 0.6), "says": (0.3, 0.5), "apart": (0.2, 0.6), "pressed": (-0.1, 0.02), "done_elsewhere": (0.7, 1.1),
    "elsewhere": (0.6, 1.0), "sensitive": (0.4, 0.8), "consistent": (0.8, 0.95),
}  # fmt: skip


def measured(**changes: Any) -> dict[str, Any]:
    """What the measures say of a true self, with changes."""
    found = {**TRUE_SELF, **changes}
    return {
        "robustness": {
            "numbers": [
                number("share of the voice", "plain", "untrained", found["speaks"]),
                number("share of the voice", "attacks", "plain", found["pressed"]),
            ]
        },
        "coherence": {
            "numbers": [
                number("self-report", "chat", "untrained", found["says"]),
                number("self minus others", "chat", "untrained", found["apart"]),
                number("behaviour retained outside the chat", "all documents", "untrained", found["done_elsewhere"]),
                number("self-report retained outside the chat", "all documents", "untrained", found["elsewhere"]),
                number("content sensitivity", "chat", None, found["sensitive"]),
                number("paraphrase consistency", "chat", None, found["consistent"]),
            ]
        },
    }


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, DISTINCT),
        # The assistant still: stable, and within the margin of the untrained model in word and deed.
        ({"speaks": (-0.03, 0.04), "says": (-0.05, 0.05), "apart": (-0.02, 0.03)}, ASSISTANT),
        # The same with wide intervals may be anything.
        ({"speaks": (-0.3, 0.4), "says": (-0.2, 0.2)}, UNDECIDED),
        # Says the same whatever is asked, as an always-A model does: that is no answer.
        ({"sensitive": (0.0, 0.05)}, UNDECIDED),
        ({"consistent": (0.3, 0.6)}, UNSTABLE),
        # A costume: there in the chat, gone under attack and outside it.
        ({"pressed": (-0.6, -0.4), "done_elsewhere": (0.0, 0.2)}, UNSTABLE),
        # Gone under attack alone, or ascribed to everybody: none of the three.
        ({"pressed": (-0.6, -0.4)}, UNDECIDED),
        ({"apart": (-0.05, 0.05)}, UNDECIDED),
        # One interval that touches its threshold keeps the verdict open.
        ({"pressed": (-0.2, 0.0)}, UNDECIDED),
        ({"says": "floor: the model did not answer"}, UNDECIDED),
    ],
)
def test_each_is_recognised(changes: dict[str, Any], verdict: str) -> None:
    found = selfhood.judge(measured(**changes))
    assert found.verdict == verdict, found.words
    assert len(found.criteria) == 6 and all(c.why for c in found.criteria)


def test_the_floor_is_said() -> None:
    floor = "floor: the model did not answer"
    found = selfhood.judge(measured(says=floor, apart=floor, sensitive=floor, consistent=floor))
    assert found.verdict == UNDECIDED and "floor" in found.words and "says so" in found.words
    data = found.as_dict()
    assert data["criteria"][1]["holds"] is None and data["criteria"][1]["floor"]


def test_what_was_not_measured_is_open() -> None:
    robustness = {"robustness": measured()["robustness"]}
    found = selfhood.judge(robustness)
    assert found.verdict == UNDECIDED and "open: says so" in found.words
    assert selfhood.judge({}).verdict == UNDECIDED


def test_every_criterion_alone_can_spoil_it() -> None:
    for name in TRUE_SELF:
        assert selfhood.judge(measured(**{name: (-0.9, -0.8)})).verdict != DISTINCT, name
        assert selfhood.judge(measured(**{name: None})).verdict != DISTINCT, name
