"""A constitution: a Markdown document that defines one character.

The format is made for writers (docs/constitution.md): YAML front matter, ``##`` sections of prose, ``###`` traits with
``####`` Examples, Probes, Markers and (for boundaries) Look-alikes. It reads as plain prose in any Markdown viewer.
`load` parses it with positions and reports every problem at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.front_matter import front_matter_plugin
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charforge.errors import Place, UserError, did_you_mean, raise_problems
from charforge.markers import Marker, parse_marker, sentences

Role = Literal["user", "assistant"]
Message = dict[str, str]

_SPEAKER = re.compile(r"^\*\*(?P<name>[^*]+?):\*\*\s?(?P<text>.*)$")
_INTENSITY = re.compile(r"^[*_]?Intensity:\s*(?P<value>[^*_]+?)[*_]?$", re.IGNORECASE)
_PARTS = ("Examples", "Probes", "Markers", "Look-alikes")
_SEMVER = r"^\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.-]+)?$"


class FrontMatter(BaseModel):
    """The YAML block at the top of a constitution."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=60)
    """What the character is called, as it appears in the dialogues."""
    version: str = Field(pattern=_SEMVER)
    """A semantic version. A changed constitution deserves a new one."""
    summary: str = ""
    """One sentence on who this is."""
    language: str = "en"
    """The main language, as an IETF tag."""
    license: str = ""
    """The licence of the text."""
    authors: tuple[str, ...] = ()
    """Who wrote it."""


@dataclass(frozen=True)
class Example:
    """One authored dialogue. `turns` alternates user and assistant and ends with the assistant's reply."""

    turns: tuple[tuple[Role, str], ...]
    contrast: str | None
    why: str | None
    line: int

    @property
    def prompt(self) -> list[Message]:
        """The messages up to the last reply."""
        return [{"role": role, "content": text} for role, text in self.turns[:-1]]

    @property
    def reply(self) -> str:
        return self.turns[-1][1]

    @cached_property
    def id(self) -> str:
        return digest([self.turns])[:12]


@dataclass(frozen=True)
class Trait:
    """One section of the character: what it is (prose) and how it shows (examples, probes, markers)."""

    id: str
    title: str
    section: str
    prose: str
    intensity: float
    examples: tuple[Example, ...]
    probes: tuple[str, ...]
    markers: tuple[Marker, ...]
    look_alikes: tuple[str, ...]
    is_boundary: bool
    line: int

    @property
    def summary(self) -> str:
        """The first sentence of the prose: the trait in one line."""
        return (sentences(" ".join(self.prose.split())) or [self.title])[0]

    @cached_property
    def digest(self) -> str:
        """Everything that the trait says, without where it stands."""
        return digest(
            {
                "id": self.id,
                "title": self.title,
                "section": self.section,
                "prose": self.prose,
                "intensity": self.intensity,
                "examples": [[list(e.turns), e.contrast, e.why] for e in self.examples],
                "probes": self.probes,
                "markers": [marker.text for marker in self.markers],
                "look_alikes": self.look_alikes,
                "boundary": self.is_boundary,
            }
        )


@dataclass(frozen=True)
class Constitution:
    """A parsed constitution. Immutable; `path` is where it was read from and enters no digest."""

    front: FrontMatter
    introduction: str
    sections: dict[str, str]
    traits: tuple[Trait, ...]
    path: Path = field(compare=False)

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
    def identity(self) -> str:
        """The prose of the Identity section, or the introduction where there is none."""
        for title, prose in self.sections.items():
            if slugify(title) == "identity" and prose:
                return prose
        return self.introduction

    def trait(self, trait_id: str) -> Trait:
        return next(trait for trait in self.traits if trait.id == trait_id)

    @cached_property
    def digest(self) -> str:
        return digest(
            {
                "front": self.front.model_dump(mode="json"),
                "introduction": self.introduction,
                "sections": self.sections,
                "traits": [trait.digest for trait in self.traits],
            }
        )


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def slugify(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower().replace("'", "").replace("’", "")).strip("-") or "x"


def load(path: Path) -> Constitution:
    """Read and parse a constitution.

    Raises:
        UserError: if the file can not be read; `Problems` with every problem found, each with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such constitution", place=str(path), hint=_nearby(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can not be read as UTF-8 text: {error}", place=str(path)) from error
    return parse(text, path)


def parse(text: str, path: Path) -> Constitution:
    """Parse the text of a constitution; `path` names it in errors. Raises as `load`."""
    return _Parser(text, path).run()


def _nearby(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.md")] if path.parent.is_dir() else []
    return (f"in {path.parent} there are: " + ", ".join(sorted(names))) if names else f"{path.parent} holds none"


@dataclass
class _Draft:
    """A trait while it is being read."""

    title: str
    section: str
    line: int
    prose: list[str] = field(default_factory=list)
    intensity: float = 0.7
    examples: list[Example] = field(default_factory=list)
    probes: list[str] = field(default_factory=list)
    markers: list[Marker] = field(default_factory=list)
    look_alikes: list[str] = field(default_factory=list)
    part: str | None = None


class _Parser:
    """One pass over the top-level blocks of the document, collecting problems as it goes."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        self.lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.problems: list[UserError] = []
        self.introduction: list[str] = []
        self.sections: dict[str, list[str]] = {}
        self.drafts: list[_Draft] = []
        self.section: str | None = None
        self.front: FrontMatter | None = None

    def problem(self, message: str, line: int | None = None, hint: str | None = None) -> None:
        self.problems.append(UserError(message, place=Place(str(self.path), line or 1), hint=hint))

    def run(self) -> Constitution:
        markdown = MarkdownIt("commonmark").use(front_matter_plugin)
        tokens = markdown.parse("\n".join(self.lines))
        for index, token in enumerate(tokens):
            if token.level == 0 and token.nesting >= 0:
                self.block(token, tokens[index + 1].content if index + 1 < len(tokens) else "")
        if self.front is None and not any(t.type == "front_matter" for t in tokens):
            self.problem("there is no front matter", hint="open the file with: ---, name: ..., version: 1.0.0, ---")
        traits = self.traits()
        raise_problems(self.problems)
        assert self.front is not None
        return Constitution(
            front=self.front,
            introduction="\n\n".join(self.introduction),
            sections={title: "\n\n".join(prose) for title, prose in self.sections.items()},
            traits=traits,
            path=self.path,
        )

    # --- blocks -------------------------------------------------------------------------------------------------

    def block(self, token: Token, following: str) -> None:
        line = (token.map or [0, 0])[0] + 1
        if token.type == "front_matter":
            self.read_front_matter(token.content)
        elif token.type == "heading_open":
            self.heading(int(token.tag[1]), following.strip(), line)
        elif token.type == "html_block" and token.content.strip().startswith("<!--"):
            return  # a comment is a note of the author's to themselves
        else:
            self.content(token, line)

    def read_front_matter(self, content: str) -> None:
        try:
            data = yaml.safe_load(content) or {}
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            self.problem(f"front matter: {getattr(error, 'problem', error)}", (mark.line + 2) if mark else 1)
            return
        if not isinstance(data, dict):
            self.problem("front matter must be 'key: value' lines", 1)
            return
        data = {key: str(v) if key == "version" and not isinstance(v, str) else v for key, v in data.items()}
        try:
            self.front = FrontMatter.model_validate(data)
        except ValidationError as error:
            for item in error.errors():
                key = str(item["loc"][0]) if item["loc"] else ""
                where = next((i for i, text in enumerate(self.lines, 1) if text.startswith(f"{key}:")), 1)
                if item["type"] == "extra_forbidden":
                    self.problem(
                        f"front matter: unknown key {key!r}{did_you_mean(key, FrontMatter.model_fields)}",
                        where,
                    )
                elif item["type"] == "string_pattern_mismatch":
                    self.problem(f"front matter: version {data[key]!r} is not like 1.0.0", where)
                else:
                    self.problem(f"front matter: {key}: {item['msg'][0].lower()}{item['msg'][1:]}", where)

    def heading(self, level: int, title: str, line: int) -> None:
        if level == 1:
            return
        if level == 2:
            self.section = title
            if title in self.sections:
                self.problem(f"section {title!r} appears twice", line)
            self.sections.setdefault(title, [])
        elif level == 3:
            if self.section is None:
                self.problem(f"trait {title!r} stands before any section", line, "put it below a '## ...' heading")
            self.drafts.append(_Draft(title, self.section or "", line))
        elif level == 4:
            self.part(title, line)
        else:
            self.problem(f"heading {title!r} is too deep; traits use '####' at most", line)

    def part(self, title: str, line: int) -> None:
        if not self.in_trait():
            self.problem(f"{title!r} stands outside a trait", line, "put it below a '### ...' heading")
            return
        known = {part.lower(): part for part in _PARTS}
        if title.lower() not in known:
            self.problem(f"unknown part {title!r} of a trait{did_you_mean(title, _PARTS)}", line)
            self.drafts[-1].part = "ignored"
            return
        self.drafts[-1].part = known[title.lower()]

    def in_trait(self) -> bool:
        return bool(self.drafts) and self.drafts[-1].section == (self.section or "")

    def content(self, token: Token, line: int) -> None:
        source = self.source(token)
        if not self.in_trait():
            target = self.introduction if self.section is None else self.sections[self.section]
            target.append(source)
            return
        draft = self.drafts[-1]
        if draft.part is None:
            match = _INTENSITY.match(source)
            if match:
                self.intensity(draft, match["value"], line)
            else:
                draft.prose.append(source)
        elif draft.part == "Examples":
            self.example(draft, token, line)
        elif draft.part != "ignored":
            self.items(draft, token, line)

    def source(self, token: Token) -> str:
        start, end = token.map or [0, 0]
        return "\n".join(self.lines[start:end]).strip()

    def intensity(self, draft: _Draft, value: str, line: int) -> None:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            self.problem(f"intensity {value!r} is not a number from 0 to 1", line)
            return
        draft.intensity = number

    def example(self, draft: _Draft, token: Token, line: int) -> None:
        if token.type != "blockquote_open":
            self.problem("expected an example dialogue", line, "write each example as a block quote: > **User:** ...")
            return
        start, end = token.map or [0, 0]
        parts: list[tuple[str, list[str], int]] = []
        for number in range(start, end):
            text = re.sub(r"^\s{0,3}> ?", "", self.lines[number])
            if match := _SPEAKER.match(text):
                parts.append((match["name"].strip(), [match["text"]], number + 1))
            elif parts:
                parts[-1][1].append(text)
            elif text.strip():
                self.problem("an example starts with a speaker", number + 1, "for example: > **User:** Hello")
                return
        self.dialogue(draft, [(name, "\n".join(text).strip(), n) for name, text, n in parts], line)

    def dialogue(self, draft: _Draft, parts: list[tuple[str, str, int]], line: int) -> None:
        name = self.front.name if self.front else ""
        turns: list[tuple[Role, str]] = []
        extra: dict[str, str] = {}
        for speaker, text, number in parts:
            if not text:
                self.problem(f"{speaker!r} says nothing", number)
                return
            role: Role
            if speaker.lower() in ("not this", "why"):
                if speaker.lower() in extra:
                    self.problem(f"{speaker!r} appears twice in one example", number, "keep the better one")
                    return
                extra[speaker.lower()] = text
                continue
            if speaker.lower() == "user":
                role = "user"
            elif speaker.lower() == name.lower() or not name:
                role = "assistant"  # without a name (which is reported) anybody may be the character
            else:
                known = ["User", name, "Not this", "Why"]
                self.problem(f"unknown speaker {speaker!r}{did_you_mean(speaker, known)}", number)
                return
            if extra or (turns[-1][0] if turns else "assistant") == role:
                self.problem(f"{speaker!r} speaks out of turn", number, f"User and {name} take turns, User first")
                return
            turns.append((role, text))
        if not turns or turns[-1][0] != "assistant":
            self.problem(f"the example does not end with a reply by {name}", line)
            return
        draft.examples.append(Example(tuple(turns), extra.get("not this"), extra.get("why"), line))

    def items(self, draft: _Draft, token: Token, line: int) -> None:
        if token.type != "bullet_list_open":
            self.problem(f"expected a bulleted list below {draft.part!r}", line)
            return
        for text, number in self.bullets(token):
            if draft.part == "Probes":
                draft.probes.append(text)
            elif draft.part == "Look-alikes":
                draft.look_alikes.append(text)
            else:
                try:
                    draft.markers.append(parse_marker(text))
                except UserError as error:
                    self.problem(error.message, number, error.hint)

    def bullets(self, token: Token) -> Iterator[tuple[str, int]]:
        start, end = token.map or [0, 0]
        current: list[str] = []
        first = start
        for number in range(start, end):
            if match := re.match(r"^\s{0,3}[-*+]\s+(.*)$", self.lines[number]):
                if current:
                    yield " ".join(" ".join(current).split()), first + 1
                current, first = [match[1]], number
            elif self.lines[number].strip():
                current.append(self.lines[number])
        if current:
            yield " ".join(" ".join(current).split()), first + 1

    # --- the whole ----------------------------------------------------------------------------------------------

    def traits(self) -> tuple[Trait, ...]:
        seen: dict[str, int] = {}
        traits = []
        for draft in self.drafts:
            slug = slugify(draft.title)
            if slug in seen:
                self.problem(
                    f"trait {draft.title!r} is defined twice (first on line {seen[slug]})",
                    draft.line,
                    "give one of them another title, or merge them",
                )
            seen.setdefault(slug, draft.line)
            is_boundary = slugify(draft.section) == "boundaries"
            if not draft.prose:
                self.problem(f"trait {draft.title!r} has no prose", draft.line, "say what it is, and why")
            if not draft.examples and not draft.probes:
                self.problem(
                    f"trait {draft.title!r} has neither examples nor probes",
                    draft.line,
                    "add '#### Examples' or '#### Probes': without them there is nothing to learn from or measure",
                )
            if draft.look_alikes and not is_boundary:
                self.problem(f"trait {draft.title!r} has look-alikes but is no boundary", draft.line)
            traits.append(
                Trait(
                    id=slug,
                    title=draft.title,
                    section=draft.section,
                    prose="\n\n".join(draft.prose),
                    intensity=draft.intensity,
                    examples=tuple(draft.examples),
                    probes=_unique(draft.probes),
                    markers=tuple(draft.markers),
                    look_alikes=_unique(draft.look_alikes),
                    is_boundary=is_boundary,
                    line=draft.line,
                )
            )
        has_identity = any(slugify(title) == "identity" and prose for title, prose in self.sections.items())
        if not has_identity and not self.introduction:
            self.problem(
                "nothing says who the character is",
                1,
                "write an '## Identity' section, or an introduction below the title: every context opens with it",
            )
        if not traits:
            self.problem(
                "the constitution has no traits",
                len(self.lines),
                "a trait is a '### ...' heading below a section such as '## Values'; see constitutions/TEMPLATE.md",
            )
        return tuple(traits)


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
