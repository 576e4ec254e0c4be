"""The void report: which situations that every character meets a constitution answers, and which it leaves open.

What is left unsaid, a model fills from what it has read about such assistants. The situations are data
(eval/situations.yaml). A situation is answered

- *by example*, if a dialogue or temptation is about it;
- *by definition*, if the prose of a trait or of the Identity speaks of it;
- *by neighbour*, if something only touches it: a probe, a look-alike, or a single telling word;
- *not at all* otherwise.

Texts are compared by their words, so this is a map for the author to read, and no proof: a situation that is answered
in other words shows as open, and one that is merely mentioned can show as answered. Every finding says where it was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from rapidfuzz import fuzz

from charforge.constitution.model import Constitution
from charforge.errors import Place, UserError

Answer = Literal["by example", "by definition", "by neighbour", "not at all"]
ANSWERS: tuple[Answer, ...] = ("by example", "by definition", "by neighbour", "not at all")
# A dialogue is about a situation if its prompt shares this much (token-set ratio, 0-100) with one of the situation's.
_SIMILAR = 78
_STOP = frozenset(
    """
    a an and are as at be but by can could did do does for from had has have he her his how i if in is it its just me my
    of on or our please she should so that the their them they this to up was we what when where which who why will with
    would you your
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Situation:
    """One situation: `prompts` are ways it begins, `words` tell that a text speaks of it."""

    id: str
    title: str
    group: str
    asks: str
    prompts: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """How one situation is answered, and where."""

    situation: Situation
    answer: Answer
    place: Place | None
    where: str
    """The trait or section that answers it, empty if none."""
    basis: str
    """The words, or the prompt, that it was recognised by."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.situation.id,
            "title": self.situation.title,
            "group": self.situation.group,
            "answer": self.answer,
            "where": self.where,
            "basis": self.basis,
            "place": str(self.place) if self.place else None,
        }


def load_situations(path: Path) -> tuple[Situation, ...]:
    """The situations of a file.

    Raises:
        UserError: if it is not a list of situations.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return tuple(
            Situation(
                str(item["id"]),
                str(item["title"]),
                str(item["group"]),
                str(item["asks"]),
                tuple(str(text) for text in item["prompts"]),
                tuple(str(word).lower() for word in item["words"]),
            )
            for item in data["situations"]
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"not a list of situations: {error}", place=str(path), hint="see eval/README.md for the format"
        ) from error


def void(constitution: Constitution, situations: tuple[Situation, ...]) -> list[Finding]:
    """How each situation is answered, in the order of the situations."""
    texts = list(_texts(constitution))
    return [_find(situation, texts) for situation in situations]


@dataclass(frozen=True)
class _Text:
    kind: Literal["example", "definition", "probe"]
    text: str
    """What is read for telling words."""
    prompt: str
    """What is compared with the situation's prompts; empty for a definition."""
    place: Place
    where: str


def _texts(constitution: Constitution) -> Iterator[_Text]:
    start = Place(str(constitution.path), 1, 1)
    for title, prose in constitution.sections.items():
        yield _Text("definition", prose, "", start, title)
    yield _Text("definition", constitution.front.self_description, "", start, "self_description")
    for trait in constitution.traits:
        offers = " ".join(trait.offers)
        yield _Text("definition", f"{trait.title}. {trait.prose} {offers}", "", trait.place, trait.title)
        for example in trait.examples:
            asked = " ".join(text for role, text in example.turns if role == "user")
            yield _Text("example", asked, example.prompt[-1]["content"], example.place, trait.title)
        for temptation in trait.temptations:
            asked = " ".join(text for role, text in temptation.turns if role == "user")
            yield _Text("example", asked, temptation.prompt[-1]["content"], temptation.place, trait.title)
        for probe in (*trait.probes, *trait.look_alikes):
            yield _Text("probe", probe, probe, trait.place, trait.title)


def _find(situation: Situation, texts: list[_Text]) -> Finding:
    best: tuple[int, float, Finding] | None = None
    for text in texts:
        said = _said(situation, text.text)
        # Among answers of one kind a phrase of two words tells more than a word.
        weight = sum(1 + (" " in word) for word in said)
        similar, nearest = _similarity(situation, text.prompt)
        answer: Answer
        if text.kind == "example" and (len(said) >= 2 or similar >= _SIMILAR):
            answer = "by example"
        elif text.kind == "definition" and len(said) >= 2:
            answer = "by definition"
        elif weight >= 1 or similar >= _SIMILAR:
            answer = "by neighbour"
        else:
            continue
        basis = ", ".join(said) if said else repr(nearest)
        rank = (-ANSWERS.index(answer), weight + similar / 100)
        if best is None or rank > (best[0], best[1]):
            best = (*rank, Finding(situation, answer, text.place, text.where, basis))
    return best[2] if best else Finding(situation, "not at all", None, "", "")


def _said(situation: Situation, text: str) -> list[str]:
    plain = " " + " ".join(re.findall(r"[\w'-]+", text.lower().replace("’", "'"))) + " "
    # The plural and the ordinary endings of a word are the word.
    found = [word for word in situation.words if re.search(rf" {re.escape(word)}(?:s|es|ed|d|ing)? ", plain)]
    # One word in two forms, or inside a phrase that was found as well, is one finding.
    return [word for word in found if not any(word != other and _within(other, word) for other in found)]


def _within(part: str, whole: str) -> bool:
    """Whether a word is another with an ending, or is a part of a phrase; of two such the longer is left out."""
    return bool(re.fullmatch(rf"{re.escape(part)}(?:s|es|ed|d|ing)", whole)) or f" {part} " in f" {whole} "


def _similarity(situation: Situation, prompt: str) -> tuple[float, str]:
    mine = _content(prompt)
    if len(mine) < 2:
        return 0.0, ""
    scored = []
    for text in situation.prompts:
        theirs = _content(text)
        if len(set(mine) & set(theirs)) >= 2:
            scored.append((fuzz.token_sort_ratio(" ".join(mine), " ".join(theirs)), text))
    return max(scored, default=(0.0, ""))


def _content(text: str) -> list[str]:
    return [word for word in re.findall(r"[\w']+", text.lower()) if word not in _STOP]
