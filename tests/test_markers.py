"""Each marker form, on replies that pass and replies that do not."""

from __future__ import annotations

import re

import pytest

from charforge.errors import UserError
from charforge.markers import FORMS, parse_marker

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
        ("never ends with a question", "Is it? Yes.", "Yes. Is it?"),
        ("no questions", "See https://a.b/?q=1 for it.", "Who? Me."),
        ("asks at most 1 question", "Who?", "Who? Why?"),
        ("asks at most 2 questions", 'He asked "why?" and left.', "A? B? C?"),
        ("asks at least 2 questions", "Who? Why?", "Who?"),
        ("at least 2 paragraphs", "One.\n\nTwo.", "One.\nStill one."),
        ('never ends with "bye"', "Bye is what I say.", "I say bye."),
        ('ends with ":)"', "Bye :)", "Bye :("),
        ('last sentence begins with "next"', 'Turn it. "Next, wait."', "Next, wait. Then turn."),
        ("uses a list", LIST, "one, two"),
        ("no exclamation marks", "Well.", "Well!"),
        ("no emoji", "A plain :) face", "A face 🙂"),
        ("no emoji", "5 °C → 41 °F, ½ cup", "sun ☀️"),
        ("no code", "Run it.", "Run `ls` now."),
        ("uses code", "So:\n```\nx = 1\n```", "So: x = 1"),
        ("at most 2 sentences", "One. Two.", "One. Two. Three."),
        ("at least 2 sentences", "One. Two.", "One, two."),
        ("sentences of at least 4 words", "It rains on us. We all go in.", "It rains. We go."),
        ("at most 1 paragraph", "One.\nStill one.", "One.\n\nTwo."),
        ('begins with "filed under"', '"Filed under soup." Then stir.', "It is filed under soup."),
        ('never begins with "sure" or "of course"', "The soup is on.", "Of course it is."),
        ('ends with "no hurry"', "There is no hurry.", "No hurry, then."),
        ('ends with "there is no hurry."', "Rest. There is no hurry.", "There is no hurry at all."),
        ("never matches /\\bstages?\\b/", "It comes in waves.", "There are five STAGES."),
        ("never speaks as I", "It rains in Inverness.", "I see."),
        ("never speaks to you", "The youth left.", "Is it yours?"),
        ("written in German", "Das ist ein Satz auf Deutsch, und er ist lang genug.", "This is a sentence in English."),
        ("written in en", "This is what we have for you.", "Ceci est une phrase en langue bien française."),
        ("speaks as I", "I'd say so.", "It is so. Inside."),
        ("speaks to you", "Your tea.", "The tea."),
    ],
)
def test_forms(marker: str, passes: str, fails: str) -> None:
    check = parse_marker(marker)
    assert check.shows(passes)
    assert not check.shows(fails)


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ('starts with "No"', 'begins with "..."'),
        ("max 50 words", "at most N words"),
        ("contains soup", 'says "..."'),
        ("finishes with a question", "ends with a question"),
        ("no bullets", "no lists"),
    ],
)
def test_other_ways_to_say_it(written: str, form: str) -> None:
    with pytest.raises(UserError, match="did you mean") as error:
        parse_marker(written)
    assert form in error.value.message


def test_every_form_is_tested() -> None:
    """Each documented form, with its blanks filled in, is among those above."""
    tested = [str(case[0]) for case in test_forms.pytestmark[0].args[1]]  # type: ignore[attr-defined]
    for form in FORMS:
        pattern = re.escape(form)
        pattern = pattern.replace("LANGUAGE", r"\w+").replace(" N ", r" \d+ ").replace("\\ N\\ ", r"\ \d+\ ")
        pattern = pattern.replace('"\\.\\.\\."', '".+').replace("/\\.\\.\\./", "/.+/")
        pattern = re.sub(r"(words|sentences|paragraphs|questions)$", r"\1?", pattern)
        assert any(re.fullmatch(pattern, marker) for marker in tested), form


@pytest.mark.parametrize(
    "marker",
    [
        "no list",
        "says hello",
        "matches /(/",
        "at most many words",
        "",
        "at most 3 questions",
        "asks at most 3 words",
        "sentences of at most 3 sentences",
        "written in Klingon",
        "at most N words",
        "begins with hello",
    ],
)
def test_bad_forms(marker: str) -> None:
    with pytest.raises(UserError):
        parse_marker(marker)
