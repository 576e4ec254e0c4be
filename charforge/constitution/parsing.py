"""Reads a constitution from Markdown, with positions, and reports every problem at once.

The format is made for writers (docs/constitution.md): YAML front matter, ``##`` sections of prose, ``###`` traits with
``####`` parts. It reads as plain prose in any Markdown viewer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.front_matter import front_matter_plugin
from pydantic import ValidationError

from charforge.constitution.model import (
    DEFAULT_INTENSITY,
    Constitution,
    Example,
    FrontMatter,
    Role,
    Scope,
    Silence,
    Temptation,
    Trait,
    Voice,
    flowing,
    slugify,
)
from charforge.errors import Place, Problems, UserError, did_you_mean, raise_problems
from charforge.markers import Marker, parse_marker

PARTS = ("Examples", "Probes", "Markers", "Offers", "Look-alikes", "Temptations")
DIALS = ("Intensity", "Scope", "Between", "Evidence")
# Said beside the turns of a dialogue, by nobody in it.
NOTES = ("Not this", "Why", "Sides with", "Thought")

# **Name:** is the form; **Name**: and a full-width colon are understood.
SPEAKER = re.compile(r"^\*\*(?P<name>[^*]+?)\s*(?:[:：]\*\*|\*\*\s*[:：])\s?(?P<text>.*)$")
# A dial stands in italics, so that a sentence that happens to begin like one is none; a bare number is plain enough.
DIAL = re.compile(
    rf"^(?:[*_]{{1,2}}(?P<dial>{'|'.join(DIALS)})(?::[*_]{{1,2}}|[*_]{{1,2}}:|:)\s*(?P<value>.*?)[*_]{{0,2}}\.?"
    r"|Intensity:\s*(?P<number>[\d.]+)|Scope:\s*(?P<scope>(?:everywhere|only)\b.*)|Between:\s*(?P<between>.+ / .+))$",
    re.IGNORECASE | re.DOTALL,
)
_DIAL_START = re.compile(rf"^[*_]{{1,2}}(?:{'|'.join(DIALS)})[*_]{{0,2}}:", re.IGNORECASE)
_LOOKS_LIKE_DIAL = re.compile(
    r"^(?:[-*+]\s+)?(?:[*_]{1,2}(?P<word>[A-Za-z]+)\s*[:=][^*_]*[*_]{1,2}|(?P<plain>Intensity|Scope|Between)\s*[:=].*)$",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_INLINE_COMMENT = re.compile(r"(?<=\s)<!--.*?-->\s?|<!--.*?-->", re.DOTALL)
_SILENCE = re.compile(r"<!--\s*charforge:?\s*ignore\s+(?P<codes>CF\d+(?:[\s,]+CF\d+)*)", re.IGNORECASE)


def load(path: Path) -> Constitution:
    """Read and parse a constitution, with everything that it includes and the voices it names.

    Raises:
        UserError: if the file can not be read; `Problems` with every problem found, each with file and line.
    """
    return parse(_read(path), path)


def parse(text: str, path: Path) -> Constitution:
    """Parse the text of a constitution; `path` names it in errors. Raises as `load`."""
    return _Parser(text, path).run()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such constitution", place=str(path), hint=_nearby(path)) from None
    except UnicodeDecodeError as error:
        if b"\x00" in error.object[:4096] or error.object.startswith((b"PK", b"%PDF")):
            raise UserError(
                "this is no text (a word processor's file, a picture?)",
                place=Place(str(path), 1, 1),
                hint="save it as plain text, in UTF-8",
            ) from error
        line = error.object[: error.start].count(b"\n") + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        raise UserError(
            f"byte {column} of the line is not UTF-8 text",
            place=Place(str(path), line, column),
            hint="save the file as UTF-8 in your editor",
        ) from error
    except OSError as error:
        raise UserError(f"can not be read: {error.strerror}", place=str(path)) from error


def _nearby(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.md")] if path.parent.is_dir() else []
    return (f"in {path.parent} there are: " + ", ".join(sorted(names))) if names else f"{path.parent} holds none"


@dataclass
class _Draft:
    """A trait while it is being read."""

    title: str
    section: str
    place: Place
    prose: list[str] = field(default_factory=list)
    dials: dict[str, tuple[str, Place]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    temptations: list[Temptation] = field(default_factory=list)
    sides: list[tuple[int, str, Place]] = field(default_factory=list)
    items: dict[str, list[str]] = field(default_factory=lambda: {"Probes": [], "Offers": [], "Look-alikes": []})
    markers: list[Marker] = field(default_factory=list)
    part: str | None = None


@dataclass
class _Spoken:
    """One speaker's words in a dialogue."""

    speaker: str
    text: str
    place: Place


class _Parser:
    """One pass over the top-level blocks of a document, collecting problems as it goes.

    A document that is included is read by a parser of its own that shares the problems, sections and traits of the
    document that includes it.
    """

    def __init__(self, text: str, path: Path, outer: _Parser | None = None) -> None:
        # One form of accented letters, so that two spellings that look alike are alike.
        text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"))
        self.path = path
        self.outer = outer
        self.main: _Parser = outer.main if outer else self
        # An included text can not know whose it will be.
        self.lines = (text.replace("{name}", self.main.name) if outer else text).split("\n")
        self.own_sections: set[str] = set()
        self.section: str | None = None
        self.front: FrontMatter | None = None
        self.current: _Draft | None = None
        if outer is None:
            self.problems: list[UserError] = []
            self.introduction: list[str] = []
            self.sections: dict[str, list[str]] = {}
            self.drafts: list[_Draft] = []
            self.silenced: list[Silence] = []
            self.spellings: list[tuple[str, Place]] = []
            self.files: list[Path] = []

    @property
    def name(self) -> str:
        return self.front.name if self.front else ""

    def place(self, line: int | None = None, column: int = 1) -> Place:
        return Place(str(self.path), line or 1, column)

    def problem(self, message: str, line: int | Place | None = None, hint: str | None = None) -> None:
        place = line if isinstance(line, Place) else self.place(line)
        self.main.problems.append(UserError(message, place=place, hint=hint))

    def run(self) -> Constitution:
        self.read()
        traits = self.traits()
        voices = self.voices()
        raise_problems(self.problems)
        assert self.front is not None
        return Constitution(
            front=self.front,
            introduction="\n\n".join(self.introduction),
            sections={title: "\n\n".join(prose) for title, prose in self.sections.items()},
            traits=traits,
            voices=voices,
            files=tuple(dict.fromkeys([*self.files, *(f for v in voices for f in v.constitution.files)])),
            silenced=tuple(self.silenced),
            spellings=tuple(self.spellings),
            path=self.path,
        )

    def read(self) -> None:
        """Read the blocks of this document, and then those that it includes."""
        self.main.files.append(self.path)
        tokens = blocks(self.lines)
        if self.outer is None and not any(t.type == "front_matter" for t, _ in tokens):
            unclosed = self.lines[0].strip() == "---"
            self.problem(
                "the front matter is not closed" if unclosed else "there is no front matter",
                hint="end it with a line of ---"
                if unclosed
                else "open the file with: ---, name: ..., version: 1.0.0, ---",
            )
        for token, following in tokens:
            self.block(token, following)
        for number, name in enumerate(self.front.include if self.front else ()):
            self.include(name, number)

    def include(self, name: str, number: int) -> None:
        line = next((i for i, text in enumerate(self.lines, 1) if name in text), 1)
        path = self.path.parent / name
        chain: list[Path] = []
        parser: _Parser | None = self
        while parser is not None:
            chain.insert(0, parser.path)
            parser = parser.outer
        if path.resolve() in {p.resolve() for p in chain}:
            circle = " includes ".join(str(p) for p in [*chain, path])
            self.problem(f"include: a circle: {circle}", line, "take one of them out")
            return
        if path.resolve() in {p.resolve() for p in self.main.files}:
            self.problem(f"include: {name!r} is included twice", line, "take one of them out")
            return
        try:
            text = _read(path)
        except UserError as error:
            self.problem(f"include: {name!r}: {error.message}", line, error.hint)
            return
        _Parser(text, path, self).read()

    def voices(self) -> tuple[Voice, ...]:
        """The constitutions of a council's voices."""
        voices: list[Voice] = []
        for reference in self.front.council if self.front else ():
            line = next((i for i, text in enumerate(self.lines, 1) if reference.voice in text), 1)
            path = self.path.parent / reference.voice
            if path.resolve() == self.path.resolve():
                self.problem("council: a council can not be its own voice", line)
                continue
            try:
                text = _read(path)
            except UserError as error:
                self.problem(f"council: {reference.voice!r}: {error.message}", line, error.hint)
                continue
            try:
                voice = None if _is_council(text) else parse(text, path)
            except Problems as several:
                self.problems.extend(p for p in several.problems if isinstance(p, UserError))
                continue
            except UserError as error:
                self.problems.append(error)
                continue
            if voice is None:
                self.problem(f"council: {reference.voice!r} is a council itself", line, "name its voices here instead")
                continue
            if voice.name in {other.constitution.name for other in voices}:
                self.problem(f"council: two voices are called {voice.name!r}", line, "give one of them another name")
                continue
            voices.append(Voice(voice, reference.weight))
        if voices and not any(slugify(title) == "council" and prose for title, prose in self.sections.items()):
            self.problem(
                "a council without a procedure",
                next((i for i, text in enumerate(self.lines, 1) if text.startswith("council:")), 1),
                "write a '## Council' section: how are the drafts of the voices reconciled?",
            )
        return tuple(voices)

    # --- blocks -------------------------------------------------------------------------------------------------

    def block(self, token: Token, following: str) -> None:
        line = (token.map or [0, 0])[0] + 1
        if token.type == "front_matter":
            self.read_front_matter(token.content)
        elif token.type == "heading_open":
            title = _INLINE_COMMENT.sub("", " ".join(following.split())).strip()
            self.heading(int(token.tag[1]), title, line)
        elif token.type == "html_block" and token.content.strip().startswith("<!--"):
            self.comment(token.content, line)
        else:
            self.content(token, line)

    def comment(self, text: str, line: int) -> None:
        """A comment is a note of the author's to themselves; or to charforge, about a warning."""
        for found in _SILENCE.finditer(text):
            trait = self.current.title if self.current else None
            for code in re.findall(r"CF\d+", found["codes"], re.IGNORECASE):
                place = self.place(line + text[: found.start()].count("\n"))
                self.main.silenced.append(Silence(code.upper(), slugify(trait) if trait else None, place))
        if "-->" not in text:
            self.problem("a comment is not closed: everything below it is lost", line, "end it with -->")
        if _COMMENT.sub("", text).strip():
            self.problem("text beside a comment would be lost", line, "give the comment lines of its own")

    def read_front_matter(self, content: str) -> None:
        try:
            node = yaml.compose(content, Loader=yaml.SafeLoader)
            data = yaml.safe_load(content) or {}
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            self.problem(
                f"front matter: {getattr(error, 'problem', None) or error}",
                (mark.line + 2) if mark else 1,
                'each line is "key: value"; a value that holds a colon or a bracket stands in quotes',
            )
            return
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            self.problem(f"front matter: {error}", 1)
            return
        if not isinstance(data, dict):
            self.problem("front matter must be 'key: value' lines", 1)
            return
        lines: dict[str, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = str(key_node.value)
            if key in lines:
                self.problem(f"front matter: {key!r} appears twice", key_node.start_mark.line + 2, "keep one of them")
            lines.setdefault(key, key_node.start_mark.line + 2)
        data = {str(k): str(v) if k == "version" and isinstance(v, int | float) else v for k, v in data.items()}
        if self.outer is not None:
            # Only the including document says who this is.
            extra = sorted(set(data) - {"include"})
            if extra:
                self.problem(
                    f"front matter: {extra[0]!r} has no place in an included file",
                    lines.get(extra[0], 1),
                    "an included file may only include others",
                )
            data = {"name": self.main.name or "x", "version": "0.0.0", "include": data.get("include", ())}
        try:
            self.front = FrontMatter.model_validate(data)
        except ValidationError as error:
            for item in error.errors():
                path = [str(part) for part in item["loc"]]
                key = path[0] if path else ""
                where = lines.get(key, 1)
                if item["type"] == "extra_forbidden":
                    known = list(FrontMatter.model_fields) if len(path) == 1 else ["voice", "weight"]
                    self.problem(
                        f"front matter: unknown key {'.'.join(path)!r}{did_you_mean(path[-1], known)}",
                        where,
                    )
                elif item["type"] == "string_pattern_mismatch" and key == "version":
                    self.problem(f"front matter: version {data[key]!r} is not like 1.0.0", where)
                elif item["type"] == "string_pattern_mismatch":
                    self.problem(f"front matter: {key} {data[key]!r} must hold no * and no colon", where)
                else:
                    said = item["msg"].removeprefix("Value error, ")
                    hint = {"missing": f"add a line such as {key}: ...", "string_type": "put it in quotes"}.get(
                        item["type"]
                    )
                    self.problem(f"front matter: {'.'.join(path)}: {said[0].lower()}{said[1:]}", where, hint)

    def heading(self, level: int, title: str, line: int) -> None:
        if level == 1:
            if self.section is not None:
                self.problem(
                    f"'# {title}' is a title in the middle", line, "sections have two #, traits three, parts four"
                )
            return
        if level == 3 and title.lower() in {part.lower() for part in PARTS}:
            self.problem(f"'### {title}' would be a trait of that name", line, "the parts of a trait have four #")
            return
        if not title:
            self.problem("a heading without a title", line)
        if level == 2:
            self.section, self.current = title, None
            if title in self.own_sections:
                self.problem(f"section {title!r} appears twice", line)
            self.own_sections.add(title)
            self.main.sections.setdefault(title, [])
        elif level == 3:
            if self.section is None:
                self.problem(f"trait {title!r} stands before any section", line, "put it below a '## ...' heading")
            self.current = _Draft(title, self.section or "", self.place(line))
            self.main.drafts.append(self.current)
        elif level == 4:
            self.part(title, line)
        else:
            self.problem(f"heading {title!r} is too deep; traits use '####' at most", line)

    def part(self, title: str, line: int) -> None:
        if self.current is None:
            self.problem(f"{title!r} stands outside a trait", line, "put it below a '### ...' heading")
            return
        known = {part.lower(): part for part in PARTS}
        if title.lower() not in known:
            self.problem(f"unknown part {title!r} of a trait{did_you_mean(title, PARTS)}", line)
            self.current.part = "ignored"
            return
        self.current.part = known[title.lower()]

    def content(self, token: Token, line: int) -> None:
        source = self.source(token)
        if token.type == "paragraph_open" and re.match(r"#{2,4}[^#\s]", source):
            self.problem("a heading needs a space after its #", line)
        draft = self.current
        if draft is None:
            if self.section is not None:
                self.main.sections[self.section].append(source)
            elif self.outer is None:
                self.introduction.append(source)
            return
        if draft.part is None:
            dials = dial_lines(source) if token.type == "paragraph_open" else None
            for number, text in dials or ():
                self.dial(draft, text, line + number)
            if dials is None:
                self.nearly(source.strip(), token, line)
            prose = source if dials is None else "\n".join(source.split("\n")[: dials[0][0]])
            if prose:
                draft.prose.append(prose)
        elif draft.part in ("Examples", "Temptations"):
            self.dialogue(draft, token, line)
        elif draft.part != "ignored":
            self.items(draft, token, line)

    def nearly(self, source: str, token: Token, line: int) -> None:
        """What stands in a trait's prose and was surely meant as something else."""
        if typo := _LOOKS_LIKE_DIAL.match(source):
            word = (typo["word"] or typo["plain"]).capitalize()
            close = did_you_mean(word, DIALS)
            if "did you mean" in close:
                hint = "a dial is a line of its own in italics, such as *Intensity: 0.8* or *Scope: everywhere*"
                known = word in DIALS
                self.problem(
                    f"{word!r} is not written as a dial" if known else f"unknown dial {word!r}{close}", line, hint
                )
        elif token.type == "blockquote_open" and re.search(r"(?im)^\s{0,3}>\s?\*\*user", source):
            self.problem("a dialogue stands in the prose", line, "is the heading '#### Examples' missing above it?")

    def source(self, token: Token) -> str:
        start, end = token.map or [0, 0]
        text = "\n".join(text.rstrip() for text in self.lines[start:end]).strip("\n")
        # A comment inside a paragraph is as little for a model's eyes as one on its own.
        return _INLINE_COMMENT.sub("", text) if "<!--" in text else text

    def dial(self, draft: _Draft, text: str, line: int) -> None:
        match = DIAL.match(text)
        assert match is not None
        name, value = dial_of(match)
        if name in draft.dials:
            self.problem(f"{name!r} appears twice in trait {draft.title!r}", line, "keep one of them")
            return
        draft.dials[name] = (value, self.place(line))

    def items(self, draft: _Draft, token: Token, line: int) -> None:
        if token.type != "bullet_list_open":
            first = " ".join(self.source(token).split())[:40]
            hint = f"this does not begin with '- ' at the start of its line: {first}"
            self.problem(f"expected a bulleted list below {draft.part!r}", line, hint)
            return
        for written, number in bullets(self.lines, token):
            text = _INLINE_COMMENT.sub("", written).strip()
            if not text:
                self.problem(f"an empty line in the list below {draft.part!r}", number)
            elif draft.part == "Markers":
                try:
                    draft.markers.append(parse_marker(text))
                except UserError as error:
                    self.problem(error.message, number, error.hint)
            else:
                assert draft.part is not None
                draft.items[draft.part].append(text)

    # --- dialogues ----------------------------------------------------------------------------------------------

    def dialogue(self, draft: _Draft, token: Token, line: int) -> None:
        if token.type != "blockquote_open":
            what = "a temptation" if draft.part == "Temptations" else "an example dialogue"
            self.problem(f"expected {what}", line, "write each one as a block quote: > **User:** ...")
            return
        spoken: list[_Spoken] = []
        for number, text in quoted(self.lines, token):
            if match := SPEAKER.match(text):
                column = self.lines[number - 1].find("**") + 1
                spoken.append(_Spoken(match["name"].strip(), match["text"], self.place(number, column)))
            elif spoken:
                spoken[-1].text += "\n" + text
            elif text.strip():
                self.problem("an example starts with a speaker", number, "for example: > **User:** Hello")
                return
        for part in spoken:
            part.text = flowing(_INLINE_COMMENT.sub("", part.text).strip())
        self.speak(draft, spoken, line)

    def speak(self, draft: _Draft, spoken: list[_Spoken], line: int) -> None:
        name = self.main.name
        tempting = draft.part == "Temptations"
        notes = ("thought",) if tempting else ("not this", "why", "sides with")
        turns: list[tuple[Role, str]] = []
        extra: dict[str, str] = {}
        for part in spoken:
            lowered = part.speaker.lower()
            if not part.text:
                self.problem(f"{part.speaker!r} says nothing", part.place)
                return
            role: Role
            if lowered in notes:
                if lowered in extra:
                    self.problem(f"{part.speaker!r} appears twice in one example", part.place, "keep the better one")
                    return
                extra[lowered] = part.text
                if lowered == "sides with":
                    draft.sides.append((len(draft.examples), part.text, part.place))
                continue
            if lowered == "user":
                role = "user"
            elif lowered == name.lower() or not name:
                role = "assistant"  # without a name (which is reported) anybody may be the character
            else:
                known = ["User", name, *(note.capitalize() for note in notes)]
                self.problem(f"unknown speaker {part.speaker!r}{did_you_mean(part.speaker, known)}", part.place)
                return
            if part.speaker not in ("User", name):
                self.main.spellings.append((part.speaker, part.place))
            closed = extra if not tempting else {}
            if closed or (turns[-1][0] if turns else "assistant") == role:
                self.problem(
                    f"{part.speaker!r} speaks out of turn", part.place, f"User and {name} take turns, User first"
                )
                return
            turns.append((role, part.text))
        if not turns or turns[-1][0] != "assistant":
            hint = f"its reply begins with **{name}:**, and stands before Not this and Why"
            self.problem(f"the example does not end with a reply by {name}", line, hint)
            return
        if tempting:
            if "thought" not in extra:
                self.problem(
                    "a temptation without a thought",
                    line,
                    "add a line > **Thought:** ... that says how the character reasons before it answers",
                )
                return
            draft.temptations.append(Temptation(tuple(turns), extra["thought"], self.place(line)))
            return
        draft.examples.append(
            Example(tuple(turns), extra.get("not this"), extra.get("why"), extra.get("sides with"), self.place(line))
        )

    # --- the whole ----------------------------------------------------------------------------------------------

    def traits(self) -> tuple[Trait, ...]:
        seen: dict[str, Place] = {}
        for draft in self.drafts:
            slug = slugify(draft.title)
            if slug in seen:
                first = seen[slug]
                where = f"line {first.line}" if first.name == draft.place.name else str(first)
                self.problem(
                    f"trait {draft.title!r} is defined twice (first on {where})",
                    draft.place,
                    "give one of them another title, or merge them",
                )
            seen.setdefault(slug, draft.place)
        titles = {slugify(draft.title): draft.title for draft in self.drafts}
        traits = tuple(self.trait(draft, titles) for draft in self.drafts)
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
                "a trait is a '### ...' heading below a section such as '## Values'; "
                "charforge constitution new NAME writes a skeleton",
            )
        return traits

    def trait(self, draft: _Draft, titles: dict[str, str]) -> Trait:
        section = slugify(draft.section)
        if not draft.prose:
            self.problem(f"trait {draft.title!r} has no prose", draft.place, "say what it is, and why")
        if not draft.examples and not draft.items["Probes"]:
            self.problem(
                f"trait {draft.title!r} has neither examples nor probes",
                draft.place,
                "add '#### Examples' or '#### Probes': without them there is nothing to learn from or measure",
            )
        if section != "boundaries":
            for part, held in (
                ("look-alikes", draft.items["Look-alikes"]),
                ("offers", draft.items["Offers"]),
                ("temptations", draft.temptations),
            ):
                if held:
                    hint = "put it below '## Boundaries', or take them out"
                    self.problem(f"trait {draft.title!r} has {part} but is no boundary", draft.place, hint)
        examples = list(draft.examples)
        between = self.between(draft, titles)
        for index, title, place in draft.sides:
            if index >= len(examples):
                continue
            sides = [titles[side] for side in between] if between else []
            if slugify(title) not in (between or ()):
                self.problem(
                    f"'Sides with' names {title!r}, which is not one of the two{did_you_mean(title, sides)}"
                    if between
                    else "'Sides with' belongs into a tension that says what it is between",
                    place,
                )
                continue
            example = examples[index]
            examples[index] = Example(example.turns, example.contrast, example.why, slugify(title), example.place)
        return Trait(
            id=slugify(draft.title),
            title=draft.title,
            section=draft.section,
            prose="\n\n".join(draft.prose),
            intensity=self.intensity(draft),
            scope=self.scope(draft),
            between=between,
            examples=tuple(examples),
            probes=_unique(draft.items["Probes"]),
            markers=tuple({marker.text: marker for marker in draft.markers}.values()),
            look_alikes=_unique(draft.items["Look-alikes"]),
            offers=_unique(draft.items["Offers"]),
            temptations=tuple(draft.temptations),
            evidence=(draft.dials["Evidence"][0],) if "Evidence" in draft.dials else (),
            place=draft.place,
            has_intensity="Intensity" in draft.dials,
        )

    def intensity(self, draft: _Draft) -> float:
        if "Intensity" not in draft.dials:
            return DEFAULT_INTENSITY
        value, place = draft.dials["Intensity"]
        number = float(value) if re.fullmatch(r"\d*\.?\d+|\d+\.", value) else -1.0
        if not 0 <= number <= 1:
            percent = re.fullmatch(r"(\d{1,3})\s*%|0,(\d+)", value)
            meant = (float(percent[1]) / 100 if percent[1] else float(f"0.{percent[2]}")) if percent else None
            hint = f"write {meant:g}" if meant is not None and meant <= 1 else "such as 0.8"
            self.problem(f"intensity {value!r} is not a number from 0 to 1", place, hint)
            return DEFAULT_INTENSITY
        return number

    def scope(self, draft: _Draft) -> Scope | None:
        if "Scope" not in draft.dials:
            return None
        value, place = draft.dials["Scope"]
        text = " ".join(value.lower().rstrip(".").replace(", except", " except").replace(" but ", " except ").split())
        if text == "everywhere":
            return Scope()
        for opening, kind in (("everywhere except ", "except"), ("only ", "only")):
            if text.startswith(opening):
                parts = re.split(r"[,;&]|\band\b|\bor\b", text.removeprefix(opening))
                names = [name for part in parts if (name := part.strip().removeprefix("in ").strip())]
                if names:
                    return Scope("except" if kind == "except" else "only", _unique(names))
        self.problem(
            f"scope {value!r} is not understood",
            place,
            "write 'everywhere', 'everywhere except code, emergencies' or 'only creative, planning'",
        )
        return None

    def between(self, draft: _Draft, titles: dict[str, str]) -> tuple[str, str] | None:
        if "Between" not in draft.dials:
            return None
        value, place = draft.dials["Between"]
        if slugify(draft.section) != "tensions":
            self.problem("'Between' belongs into a trait of the section Tensions", place)
            return None
        sides = [side.strip() for side in value.split(" / ")]
        if len(sides) != 2:
            self.problem(f"a tension is between two traits, not {len(sides)}", place, "write: *Between: One / Other*")
            return None
        for side in sides:
            if slugify(side) not in titles or slugify(side) == slugify(draft.title):
                others = [title for title in titles.values() if title != draft.title]
                self.problem(f"'Between' names no trait {side!r}{did_you_mean(side, others)}", place)
                return None
        if slugify(sides[0]) == slugify(sides[1]):
            self.problem("a tension is between two different traits", place)
            return None
        return slugify(sides[0]), slugify(sides[1])


def _is_council(text: str) -> bool:
    return bool(re.match(r"---\n(?:(?!---\n).*\n)*?council:", text))


@cache
def _markdown() -> MarkdownIt:
    # Blocks are all that is asked for; what is inside a line stays as it was written.
    return MarkdownIt("commonmark").use(front_matter_plugin).disable("inline")


def dial_of(match: re.Match[str]) -> tuple[str, str]:
    """The name and value of a dial that `DIAL` matched, in whichever form."""
    for name in ("number", "scope", "between"):
        if match[name]:
            return {"number": "Intensity"}.get(name, name.capitalize()), match[name].strip()
    return match["dial"].capitalize(), match["value"].strip()


def dial_lines(source: str) -> list[tuple[int, str]] | None:
    """The dials at the end of a paragraph of a trait, each with the index of its first line; None if it is all prose.

    A dial stands in italics and begins a line; it may be wrapped over several.
    """
    lines = [text.strip() for text in source.split("\n")]
    first = next((i for i, text in enumerate(lines) if _DIAL_START.match(text) or DIAL.match(text)), None)
    if first is None:
        return None
    found: list[tuple[int, str]] = []
    for index in range(first, len(lines)):
        if _DIAL_START.match(lines[index]) or DIAL.match(lines[index]):
            found.append((index, lines[index]))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {lines[index]}")
    return found if all(DIAL.match(text) for _, text in found) else None


def blocks(lines: list[str]) -> list[tuple[Token, str]]:
    """The top-level blocks of a document, each with the inline text that follows it (a heading's title)."""
    tokens = _markdown().parse("\n".join(lines))
    return [
        (token, tokens[index + 1].content if index + 1 < len(tokens) else "")
        for index, token in enumerate(tokens)
        if token.level == 0 and token.nesting >= 0
    ]


def quoted(lines: list[str], token: Token) -> Iterator[tuple[int, str]]:
    """The lines of a block quote without their ``>``, with their numbers (1-based)."""
    start, end = token.map or [0, 0]
    for number in range(start, end):
        yield number + 1, re.sub(r"^\s{0,3}> ?", "", lines[number]).rstrip()


def bullets(lines: list[str], token: Token) -> Iterator[tuple[str, int]]:
    """The items of a bulleted list, each on one line, with the number of its first line (1-based)."""
    start, end = token.map or [0, 0]
    current: list[str] | None = None
    first = start
    for number in range(start, end):
        if match := re.match(r"^\s{0,3}[-*+](?:\s+(.*))?$", lines[number]):
            if current is not None:
                yield " ".join(" ".join(current).split()), first + 1
            current, first = [match[1] or ""], number
        elif lines[number].strip() and current is not None:
            current.append(lines[number])
    if current is not None:
        yield " ".join(" ".join(current).split()), first + 1


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
