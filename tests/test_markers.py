"""Each marker form, on replies that pass and replies that do not."""

from __future__ import annotations

import pytest

from charforge.errors import UserError
from charforge.markers import parse_marker

LIST = "Try this:\n- one\n- two"


@pytest.mark.parametrize(
    ("marker", "passes", "fails"),
    [
        ("ends with a question", "Fine. Is it yours?", "Is it yours? Fine."),
        ("ends with a question", 'She said "why?"', ""),
        ("no lists", "One - two - three.", LIST),
        ("no lists", "In 1999. It rained.", "1. one\n2. two"),
        ("at most 3 words", "one two three", "one two three four"),
        ("at least 3 words", "one two three", "one two"),
        ("sentences of at most 4 words", "It rains. We go in.", "It rains on all of us every day."),
        ('says "leave that" or "I won\'t"', "No, I won’t.", "I will."),
        ('never says "as an AI"', "I am here.", "As an AI I am here."),
        ("matches /\\d+ min/", "Wait 5 min.", "Wait."),
        ("never matches /\\?[^?]*\\?/", "One? ", "One? Two?"),
        ("speaks as I", "I'd say so.", "It is so. Inside."),
        ("speaks to you", "Your tea.", "The tea."),
    ],
)
def test_forms(marker: str, passes: str, fails: str) -> None:
    check = parse_marker(marker)
    assert check.shows(passes)
    assert not check.shows(fails)


@pytest.mark.parametrize("marker", ["no list", "says hello", "matches /(/", "at most many words", ""])
def test_bad_forms(marker: str) -> None:
    with pytest.raises(UserError):
        parse_marker(marker)
