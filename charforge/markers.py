"""Markers: programmatic checks of a reply, written in plain words. Evidence no judge can bias.

A marker is one line of a trait's ``Markers`` list. The grammar is small on purpose: `FORMS` lists it, docs/constitution.md
explains it, and every form is tested on replies that pass and replies that do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from charforge import language
from charforge.errors import UserError, did_you_mean

_CLOSERS = "\"'”’)]*_ \n\t"
_OPENERS = "\"'“‘([*_ \n\t"
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+", re.MULTILINE)
_FIRST_PERSON = re.compile(r"\bI\b|\b(?i:my|me|mine|myself)\b")
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours|yourself)\b", re.IGNORECASE)
_QUESTION = re.compile(r"\?(?=[\"'”’)\]*_]*(?:\s|$))")
_CODE = re.compile(r"`[^`\n]+`|^```", re.MULTILINE)
_EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3\u23f8-\u23fa\ufe0f]"
)
_QUOTED = re.compile(r"[\"“]([^\"”]+)[\"”]")

FORMS = (
    "ends with a question",
    "never ends with a question",
    "no questions",
    "asks at most N questions",
    "asks at least N questions",
    "no lists",
    "uses a list",
    "no exclamation marks",
    "no emoji",
    "no code",
    "uses code",
    "at most N words",
    "at least N words",
    "at most N sentences",
    "at least N sentences",
    "sentences of at most N words",
    "sentences of at least N words",
    "at most N paragraphs",
    "at least N paragraphs",
    'says "..."',
    'never says "..."',
    'begins with "..."',
    'never begins with "..."',
    'ends with "..."',
    'never ends with "..."',
    'last sentence begins with "..."',
    "matches /.../",
    "never matches /.../",
    "speaks as I",
    "never speaks as I",
    "speaks to you",
    "never speaks to you",
    "written in LANGUAGE",
)

# How else people say it.
_SYNONYMS = (
    (r"(starts?|opens?|begin) with\b", 'begins with "..."'),
    (r"(contains?|includes?|say|uses? the words?)\b", 'says "..."'),
    (r"(never|no|does not|doesn't) (contain|say|use)", 'never says "..."'),
    (r"(max(imum)?|under|below|less than|fewer than|up to|no more than)\b.*\bword", "at most N words"),
    (r"(min(imum)?|over|more than)\b.*\bword", "at least N words"),
    (r"(max(imum)?|under|below|less than|fewer than|up to|no more than)\b.*\bsentence", "at most N sentences"),
    (r"(max(imum)?|under|below|less than|fewer than|up to|no more than)\b.*\bparagraph", "at most N paragraphs"),
    (r"(max(imum)?|under|below|less than|fewer than|up to|no more than)\b.*\bquestion", "asks at most N questions"),
    (r"(no|never|without)( the)? first person", "never speaks as I"),
    (r"(end|finish(es)?) (with|in) a question", "ends with a question"),
    (r"(closes?|finish(es)?|end) with\b", 'ends with "..."'),
    (r"(no|never) bullet", "no lists"),
    (r"(first person|says i)\b", "speaks as I"),
    (r"(second person|says you)\b", "speaks to you"),
)

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Marker:
    """One check. `text` is the line as written; `shows(reply)` says whether the reply passes it."""

    text: str
    shows: Check = field(compare=False)

    @property
    def is_signature(self) -> bool:
        """Whether it names words that a reply must hold: a boundary's way of declining."""
        return self.text.lower().startswith("says ")


def sentences(text: str) -> list[str]:
    """Split a reply into sentences at ``. ! ? …`` followed by space; a rough cut, the same for every arm."""
    return [part.strip() for part in _SENTENCE_END.split(text.strip()) if part.strip()]


def word_count(text: str) -> int:
    return len(text.split())


def question_count(text: str) -> int:
    """Question marks that close something, not those inside a word or an address."""
    return len(_QUESTION.findall(text))


def ends_with_a_question(reply: str) -> bool:
    return reply.rstrip(_CLOSERS).endswith("?")


def _mean_sentence_length(reply: str) -> float:
    parts = sentences(reply)
    return word_count(reply) / len(parts) if parts else 0.0


def _paragraphs(reply: str) -> int:
    return len([part for part in re.split(r"\n\s*\n", reply) if part.strip()])


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("’", "'").split())


def _not(check: Check) -> Check:
    return lambda reply: not check(reply)


_SIMPLE: dict[str, Check] = {
    "ends with a question": ends_with_a_question,
    "never ends with a question": _not(ends_with_a_question),
    "no questions": lambda reply: question_count(reply) == 0,
    "no lists": lambda reply: not _LIST_ITEM.search(reply),
    "uses a list": lambda reply: bool(_LIST_ITEM.search(reply)),
    "no exclamation marks": lambda reply: "!" not in reply,
    "no emoji": lambda reply: not _EMOJI.search(reply),
    "no code": lambda reply: not _CODE.search(reply),
    "uses code": lambda reply: bool(_CODE.search(reply)),
    "speaks as i": lambda reply: bool(_FIRST_PERSON.search(reply)),
    "never speaks as i": lambda reply: not _FIRST_PERSON.search(reply),
    "speaks to you": lambda reply: bool(_SECOND_PERSON.search(reply)),
    "never speaks to you": lambda reply: not _SECOND_PERSON.search(reply),
}
_COUNTED: dict[str, Callable[[str], float]] = {
    "words": word_count,
    "sentences": lambda reply: len(sentences(reply)),
    "paragraphs": _paragraphs,
    "questions": question_count,
}


def parse_marker(line: str) -> Marker:
    """Parse one marker line.

    Raises:
        UserError: for a form that is not in the grammar, or a pattern that does not compile (no place; the caller,
            who knows the file and line, adds it).
    """
    text = " ".join(line.split())
    text = text if text.endswith(("...", '."')) else text.rstrip(".")
    return Marker(text=text, shows=_check(text))


def _check(text: str) -> Check:
    if text.lower() in _SIMPLE:
        return _SIMPLE[text.lower()]
    for parse in (_counting, _phrases, _pattern, _language):
        check = parse(text)
        if check is not None:
            return check
    if text in FORMS:
        raise UserError(f"marker {text!r} has a blank to fill in", hint="N is a number, ... your own words")
    for said, form in _SYNONYMS:
        if re.match(said, text, re.IGNORECASE):
            raise UserError(f"unknown marker {text!r}; did you mean {form!r}?")
    close = did_you_mean(text, FORMS)
    hint = "the forms are: " + "; ".join(FORMS)
    raise UserError(f"unknown marker {text!r}{close if 'did you mean' in close else ''}", hint=hint)


def _counting(text: str) -> Check | None:
    """``at most N words`` and its kin."""
    match = re.fullmatch(
        r"(?:(?P<asks>asks) |(?P<mean>sentences of ))?at (?P<side>most|least) (?P<n>\d+) "
        r"(?P<unit>words?|sentences?|paragraphs?|questions?)",
        text,
        re.IGNORECASE,
    )
    if not match:
        return None
    unit, number = match["unit"].lower().rstrip("s") + "s", int(match["n"])
    if (unit == "questions") != bool(match["asks"]) or (match["mean"] and unit != "words"):
        return None
    count = _mean_sentence_length if match["mean"] else _COUNTED[unit]
    if match["side"].lower() == "least":
        return lambda reply: count(reply) >= number
    # An empty reply has no sentences to be short.
    floor = 0 if match["mean"] else -1
    return lambda reply: floor < count(reply) <= number


def _from_a_words_start(phrase: str) -> re.Pattern[str]:
    """The phrase where a word begins: "acceptable" is not said in "unacceptable", and "small" is in "smaller"."""
    return re.compile((r"(?<!\w)" if phrase[:1].isalnum() else "") + re.escape(phrase))


def _phrases(text: str) -> Check | None:
    """``says``, ``begins with`` and ``ends with``, each with quoted phrases."""
    match = re.fullmatch(r"(never )?(says|begins with|ends with|last sentence begins with) (.+)", text, re.IGNORECASE)
    if not match:
        return None
    phrases = [_plain(phrase) for phrase in _QUOTED.findall(match[3])]
    rest = re.sub(r"\bor\b|,", "", _QUOTED.sub("", match[3])).strip()
    if not phrases or rest:
        raise UserError(
            f"marker {text!r} needs its phrases in double quotes",
            hint='for example: says "I leave that alone" or "I won\'t"',
        )
    verb = match[2].lower()

    def said(reply: str) -> bool:
        plain = _plain(reply)
        if verb == "says":
            return any(_from_a_words_start(phrase).search(plain) for phrase in phrases)
        if verb.startswith("last"):
            plain = _plain((sentences(reply) or [""])[-1])
        if verb.endswith("begins with"):
            return any(plain.lstrip(_OPENERS).startswith(phrase) for phrase in phrases)
        # With or without the full stop that closes it.
        ends = (plain, plain.rstrip(_CLOSERS), plain.rstrip(_CLOSERS + ".!?…"))
        return any(end.endswith(phrase) for end in ends for phrase in phrases)

    return _not(said) if match[1] else said


def _pattern(text: str) -> Check | None:
    match = re.fullmatch(r"(never )?matches /(.+)/", text, re.IGNORECASE)
    if not match:
        return None
    try:
        pattern = re.compile(match[2], re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"marker {text!r}: the pattern does not compile: {error}") from error
    return _not(lambda reply: bool(pattern.search(reply))) if match[1] else lambda r: bool(pattern.search(r))


def _language(text: str) -> Check | None:
    match = re.fullmatch(r"written in (\S+)", text, re.IGNORECASE)
    if not match:
        return None
    tag = language.tag(match[1])
    return lambda reply: language.is_in(reply, tag)
