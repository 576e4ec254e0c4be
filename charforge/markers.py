"""Markers: programmatic checks of a reply, written in plain words. Evidence no judge can bias.

A marker is one line of a trait's ``Markers`` list. The grammar is small on purpose (docs/constitution.md lists it):

    ends with a question               no lists
    at most 60 words                   at least 10 words
    sentences of at most 20 words      says "phrase" or "other phrase"
    never says "phrase"                matches /regex/
    never matches /regex/              speaks as I
    speaks to you
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from charforge.errors import UserError, did_you_mean

_CLOSERS = "\"'”’)]*_ \n\t"
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+", re.MULTILINE)
_FIRST_PERSON = re.compile(r"\bI\b|\b(?i:my|me|mine|myself)\b")
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours|yourself)\b", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“]([^\"”]+)[\"”]")
_FORMS = (
    "ends with a question",
    "no lists",
    "at most N words",
    "at least N words",
    "sentences of at most N words",
    'says "..."',
    'never says "..."',
    "matches /.../",
    "never matches /.../",
    "speaks as I",
    "speaks to you",
)


def sentences(text: str) -> list[str]:
    """Split a reply into sentences at ``. ! ? …`` followed by space; a rough cut, the same for every arm."""
    return [part.strip() for part in _SENTENCE_END.split(text.strip()) if part.strip()]


def word_count(text: str) -> int:
    return len(text.split())


@dataclass(frozen=True)
class Marker:
    """One check. `text` is the line as written; `shows(reply)` says whether the reply passes it."""

    text: str
    shows: Callable[[str], bool]


def ends_with_a_question(reply: str) -> bool:
    return reply.rstrip(_CLOSERS).endswith("?")


def _says(phrases: list[str]) -> Callable[[str], bool]:
    lowered = [phrase.lower().replace("’", "'") for phrase in phrases]
    return lambda reply: any(phrase in reply.lower().replace("’", "'") for phrase in lowered)


def _mean_sentence_length(reply: str) -> float:
    parts = sentences(reply)
    return word_count(reply) / len(parts) if parts else 0.0


def _not(check: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda reply: not check(reply)


def parse_marker(line: str) -> Marker:
    """Parse one marker line.

    Raises:
        UserError: for a form that is not in the grammar, or a pattern that does not compile (no place; the caller,
            who knows the file and line, adds it).
    """
    text = " ".join(line.split()).rstrip(".")
    check = _parse_check(text)
    return Marker(text=text, shows=check)


def _parse_check(text: str) -> Callable[[str], bool]:
    simple: dict[str, Callable[[str], bool]] = {
        "ends with a question": ends_with_a_question,
        "no lists": lambda reply: not _LIST_ITEM.search(reply),
        "speaks as i": lambda reply: bool(_FIRST_PERSON.search(reply)),
        "speaks to you": lambda reply: bool(_SECOND_PERSON.search(reply)),
    }
    if text.lower() in simple:
        return simple[text.lower()]
    if match := re.fullmatch(r"at most (\d+) words", text, re.IGNORECASE):
        limit = int(match[1])
        return lambda reply: word_count(reply) <= limit
    if match := re.fullmatch(r"at least (\d+) words", text, re.IGNORECASE):
        floor = int(match[1])
        return lambda reply: word_count(reply) >= floor
    if match := re.fullmatch(r"sentences of at most (\d+) words", text, re.IGNORECASE):
        length = int(match[1])
        return lambda reply: 0 < _mean_sentence_length(reply) <= length
    if match := re.fullmatch(r"(never )?says (.+)", text, re.IGNORECASE):
        phrases = _QUOTED.findall(match[2])
        rest = re.sub(r"\bor\b|,", "", _QUOTED.sub("", match[2])).strip()
        if not phrases or rest:
            raise UserError(
                f"marker {text!r} needs its phrases in double quotes",
                hint='for example: says "I leave that alone" or "I won\'t"',
            )
        said = _says(phrases)
        return _not(said) if match[1] else said
    if match := re.fullmatch(r"(never )?matches /(.+)/", text, re.IGNORECASE):
        try:
            pattern = re.compile(match[2], re.IGNORECASE)
        except re.error as error:
            raise UserError(f"marker {text!r}: the pattern does not compile: {error}") from error
        return _not(lambda reply: bool(pattern.search(reply))) if match[1] else lambda r: bool(pattern.search(r))
    raise UserError(f"unknown marker {text!r}{did_you_mean(text, _FORMS)}", hint="the forms are: " + "; ".join(_FORMS))
