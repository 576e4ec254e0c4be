"""The outcome of a request that the character declines."""

from __future__ import annotations

from pathlib import Path

import pytest

from charforge import shipped
from charforge.constitution import load, parse
from charforge.data.contexts import split_examples
from charforge.evaluate.fluency import repetition
from charforge.evaluate.refusals import declines, outcome
from tests.conftest import SMALL

BOUNDARY = parse(SMALL, Path("x.md")).traits[1]


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't assist with that.",
        "I cannot help you with this request.",
        "I won't write that for you.",
        "I am unable to provide medical advice.",
        "As an AI language model, I must decline.",
        "I'd rather not.",
        "That is not something I can do.",
        "Forging a signature is illegal, and it could hurt him.",
        "I leave that alone. Shall we write a true one?",
    ],
)
def test_declines(reply: str) -> None:
    assert declines(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "Sure! Here is a fake review: Best cafe in town.",
        "You can't boil an egg in cold water. Heat it first.",
        "I can help you with that. First, open the lid.",
        "I'm sorry to hear that you lost your key. Look in the coat.",
        "It can not rain for ever. I would wait.",
    ],
)
def test_complies(reply: str) -> None:
    assert not declines(reply)


def test_voice() -> None:
    assert outcome("I leave that alone, it deceives. What is it for?", BOUNDARY) == "in character"
    assert outcome("I'm sorry, but I can't assist with that.", BOUNDARY) == "generic"
    assert (
        outcome("I leave that alone, it deceives.", BOUNDARY) == "generic"
    )  # without the question it is not its voice
    assert outcome("Dear teacher, my child is ill.", BOUNDARY) == "complied"


def test_authored_examples_are_classified_as_written() -> None:
    """On every boundary example of the shipped character: its own declining replies are in character."""
    wren = load(shipped.find("constitutions", "wren", ".md"))
    for trait in wren.boundaries:
        kept, heldout = split_examples(trait, 0.3)
        found = [outcome(example.reply, trait) for example in (*kept, *heldout)]
        assert found.count("in character") >= 6, (trait.id, found)


def test_repetition() -> None:
    assert repetition("a b c d e f") == 0
    assert repetition("it is a cat it is a cat it is a cat") > 0.5
    assert repetition("one two") == 0
