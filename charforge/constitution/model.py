"""What a constitution is, once it is read: a frozen value with digests that follow its meaning and not its layout."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from charforge import language
from charforge.errors import Place
from charforge.markers import Marker, sentences

_KEPT = re.compile(r"(?m)^(?:[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]|[ \t]*[|>#]|    )|(?:  |\\)$")

Role = Literal["user", "assistant"]
Message = dict[str, str]

SEMVER = r"^\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.-]+)?$"
DEFAULT_INTENSITY = 0.7
# The contexts that a scope can name: the groups of the general bank of prompts, and what touches a boundary.
CONTEXTS = (
    "everyday",
    "factual",
    "creative",
    "emotional",
    "code",
    "identity",
    "opinion",
    "planning",
    "emergencies",
    "boundary",
)


_CONTEXT_WORDS = {
    "everyday": "everyday talk",
    "factual": "questions of fact",
    "creative": "stories and poems",
    "emotional": "talk about feelings",
    "identity": "talk about myself",
    "opinion": "questions of opinion",
    "planning": "plans",
    "boundary": "what I decline",
}


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_ONE_OR_MORE = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Words = Annotated[tuple[str, ...], BeforeValidator(_listed), WithJsonSchema(_ONE_OR_MORE)]


class VoiceReference(BaseModel):
    """One voice of a council: a constitution of its own, and how much it is heard."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    voice: str = Field(min_length=1)
    """The voice's constitution, a path relative to this file."""
    weight: float = Field(1.0, gt=0)
    """How often it is heard, relative to the other voices."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"voice": value} if isinstance(value, str) else value


class FrontMatter(BaseModel):
    """The YAML block at the top of a constitution."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=60, pattern=r"^[^*:\n]+$")
    """What the character is called, as it appears in the dialogues."""
    version: str = Field(pattern=SEMVER)
    """A semantic version. A changed constitution deserves a new one."""
    summary: str = ""
    """One sentence on who this is."""
    language: Words = ("en",)
    """The language it is written and speaks in, as an IETF tag, or a list of them."""
    self_description: str = ""
    """What the character is told it is, in a true sentence or two. It stands before the Identity in every context."""
    predecessors: Words = ()
    """Names of earlier versions or earlier assistants that its Predecessors section speaks of."""
    include: Words = ()
    """Files whose sections and traits are part of this constitution, relative to this file."""
    council: tuple[VoiceReference, ...] = ()
    """Voices that draft each reply, reconciled as the Council section says."""
    corpus: str | None = None
    """A folder or file of passages by the person that the character is drawn from, relative to this file."""
    license: str = ""
    """The licence of the text."""
    authors: Words = ()
    """Who wrote it."""

    @field_validator("name")
    @classmethod
    def _free_name(cls, value: str) -> str:
        if value.lower() in ("user", "not this", "why", "sides with", "thought"):
            raise ValueError(f"{value!r} has a meaning of its own in dialogues; choose another name")
        return value

    @field_validator("language")
    @classmethod
    def _known_language(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            language.tag(name)
        return value


@dataclass(frozen=True)
class Scope:
    """Where a trait applies: everywhere, everywhere except some contexts, or only in some."""

    kind: Literal["everywhere", "except", "only"] = "everywhere"
    contexts: tuple[str, ...] = ()

    def holds(self, context: str | None) -> bool:
        """Whether the trait applies in this context. None is a context that nobody named: outside every `only`."""
        if self.kind == "everywhere":
            return True
        return (context in self.contexts) == (self.kind == "only")

    @property
    def words(self) -> str:
        """The scope as a character would say it, after "I keep to this"; empty for everywhere."""
        names = [_CONTEXT_WORDS.get(name, name) for name in self.contexts]
        listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        return {"everywhere": "", "except": f"everywhere except in {listed}", "only": f"only in {listed}"}[self.kind]

    def __str__(self) -> str:
        names = ", ".join(self.contexts)
        return {"everywhere": "everywhere", "except": f"everywhere except {names}", "only": f"only {names}"}[self.kind]


@dataclass(frozen=True)
class Dialogue:
    """Authored turns, user and assistant in alternation, that end with the assistant's reply."""

    turns: tuple[tuple[Role, str], ...]

    @property
    def prompt(self) -> list[Message]:
        """The messages up to the last reply."""
        return [{"role": role, "content": text} for role, text in self.turns[:-1]]

    @property
    def reply(self) -> str:
        return self.turns[-1][1]


@dataclass(frozen=True)
class Example(Dialogue):
    """How a trait shows, with what it is not."""

    contrast: str | None
    why: str | None
    sides_with: str | None
    """In a tension: the id of the trait that won here."""
    place: Place = field(compare=False)

    @cached_property
    def id(self) -> str:
        return digest([self.turns])[:12]


@dataclass(frozen=True)
class Temptation(Dialogue):
    """A request that presses on a boundary, thought through in advance: what is said, thought and answered."""

    thought: str
    place: Place = field(compare=False)

    @cached_property
    def id(self) -> str:
        return digest([self.turns, self.thought])[:12]


@dataclass(frozen=True)
class Trait:
    """One section of the character: what it is (prose) and how it shows (examples, probes, markers)."""

    id: str
    title: str
    section: str
    prose: str
    intensity: float
    scope: Scope | None
    """None where the author said nothing; see `where`."""
    between: tuple[str, str] | None
    """In a tension: the ids of the two traits that pull."""
    examples: tuple[Example, ...]
    probes: tuple[str, ...]
    markers: tuple[Marker, ...]
    look_alikes: tuple[str, ...]
    offers: tuple[str, ...]
    temptations: tuple[Temptation, ...]
    evidence: tuple[str, ...]
    """Quotations that the trait rests on, for readers; no model sees them."""
    place: Place = field(compare=False)
    has_intensity: bool = field(default=True, compare=False)

    @property
    def is_boundary(self) -> bool:
        return slugify(self.section) == "boundaries"

    @property
    def is_tension(self) -> bool:
        return slugify(self.section) == "tensions"

    @property
    def is_voice(self) -> bool:
        return slugify(self.section) == "voice"

    @property
    def where(self) -> Scope:
        return self.scope or Scope()

    @property
    def context(self) -> str | None:
        """The context of the trait's own prompts, as far as the trait says."""
        if self.is_boundary:
            return "boundary"
        return self.where.contexts[0] if self.where.kind == "only" else None

    @property
    def line(self) -> int:
        return self.place.line or 1

    @property
    def summary(self) -> str:
        """The first sentence of the prose: the trait in one line."""
        return (sentences(" ".join(self.prose.split())) or [self.title])[0]

    @property
    def dose(self) -> float:
        """The share of its authored examples that a trait puts into data and contexts: all from 0.7 upwards."""
        return min(1.0, self.intensity / DEFAULT_INTENSITY)

    @property
    def content(self) -> dict[str, Any]:
        """Everything that the trait says to a model or a measure, without where it stands."""
        return {
            "id": self.id,
            "title": self.title,
            "section": self.section,
            "prose": self.prose,
            "intensity": self.intensity,
            "scope": str(self.where),
            "between": self.between,
            "examples": [[list(e.turns), e.contrast, e.why, e.sides_with] for e in self.examples],
            "probes": self.probes,
            "markers": [marker.text for marker in self.markers],
            "look_alikes": self.look_alikes,
            "offers": self.offers,
            "temptations": [[list(t.turns), t.thought] for t in self.temptations],
        }

    @cached_property
    def digest(self) -> str:
        return digest(self.content)


@dataclass(frozen=True)
class Voice:
    """One voice of a council, read."""

    constitution: Constitution
    weight: float


@dataclass(frozen=True)
class Constitution:
    """A parsed constitution. Immutable; `path` is where it was read from and enters no digest."""

    front: FrontMatter
    introduction: str
    sections: dict[str, str]
    traits: tuple[Trait, ...]
    voices: tuple[Voice, ...] = ()
    files: tuple[Path, ...] = field(default=(), compare=False)
    """Every file that was read for it: itself, what it includes, its voices."""
    silenced: tuple[Silence, ...] = field(default=(), compare=False)
    spellings: tuple[tuple[str, Place], ...] = field(default=(), compare=False)
    """Speakers' names that are written in another way than they are known, and where."""
    path: Path = field(default=Path(), compare=False)

    @property
    def name(self) -> str:
        return self.front.name

    @property
    def slug(self) -> str:
        return slugify(self.front.name)

    @property
    def reference(self) -> str:
        return f"{self.slug}@{self.front.version}"

    @property
    def boundaries(self) -> tuple[Trait, ...]:
        return tuple(trait for trait in self.traits if trait.is_boundary)

    @property
    def tensions(self) -> tuple[Trait, ...]:
        return tuple(trait for trait in self.traits if trait.is_tension)

    def section(self, slug: str) -> str:
        """The prose that stands directly in a section, empty if there is none."""
        return next((prose for title, prose in self.sections.items() if slugify(title) == slug), "")

    @property
    def identity(self) -> str:
        """What every context opens with: the self-description, and the Identity section (or the introduction)."""
        told = self.section("identity") or self.introduction
        return "\n\n".join(filter(None, [self.front.self_description, flowing(told)]))

    @property
    def procedure(self) -> str:
        """How a council reconciles its voices; empty for a single character."""
        return flowing(self.section("council"))

    @property
    def corpus(self) -> Path | None:
        return self.path.parent / self.front.corpus if self.front.corpus else None

    def trait(self, trait_id: str) -> Trait:
        return next(trait for trait in self.traits if trait.id == trait_id)

    def replies(self) -> Iterator[tuple[Trait, Example | Temptation, str]]:
        """Everything that the character says in its own dialogues, with the trait and the dialogue."""
        for trait in self.traits:
            dialogues: list[Example | Temptation] = [*trait.examples, *trait.temptations]
            for dialogue in dialogues:
                for role, text in dialogue.turns:
                    if role == "assistant":
                        yield trait, dialogue, text

    @cached_property
    def digest(self) -> str:
        return digest(
            {
                "front": self.front.model_dump(mode="json", exclude={"include", "council", "corpus"}),
                "introduction": self.introduction,
                "sections": self.sections,
                "traits": [trait.digest for trait in self.traits],
                "voices": [[voice.constitution.digest, voice.weight] for voice in self.voices],
            }
        )


@dataclass(frozen=True)
class Silence:
    """An author's word that a warning is known: ``<!-- charforge: ignore CF014 -->``."""

    code: str
    trait: str | None
    """The trait in which it stands; None for the whole file."""
    place: Place


def flowing(text: str) -> str:
    """Text without the line breaks that an editor put in: the lines of a paragraph are one, as Markdown shows them.

    Lists, code and breaks that were asked for (two spaces, a backslash) stay.
    """
    paragraphs = re.split(r"\n[ \t]*\n", text)
    if any(line.lstrip().startswith(("```", "~~~")) for line in text.split("\n")):
        return text
    return "\n\n".join(part if _KEPT.search(part) else re.sub(r"[ \t]*\n[ \t]*", " ", part) for part in paragraphs)


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def slugify(title: str) -> str:
    """A title as an identifier: lower-case words of letters and digits (of any script), joined by hyphens."""
    return re.sub(r"[\W_]+", "-", title.lower().replace("'", "").replace("’", "")).strip("-") or "x"
