"""evaluation.html: what an evaluation found, with every row that its numbers are about, in one file without a network.

Numbers come before words about them, and each links to its rows. A number that is not there says why. All text goes through
`visible` once, here, and through Jinja's escaping in the template.
"""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import jinja2
from markupsafe import Markup

from charforge.constitution.model import slugify
from charforge.evaluate.answers import PROMPTED, UNTRAINED
from charforge.evaluate.findings import FLOOR
from charforge.report import plots
from charforge.report.html import _label, _recipe, _unbroken, _visible, stylesheet

_FOLDER = Path(__file__).parent
_TRAINED = "trained"
_GLYPHS = {"base": "○", "prompted": "■", "middle": "▲", "final": "◆"}
_CLEAR = 0.05
_SHOWN = 2000
"""Characters of a text that the page shows; the rest is in rows.jsonl."""
_ROOM = 12_000_000
"""About as many bytes of rows a browser shows without delay."""
_MANY = 3
"""Headline numbers of a suite that the summary tells."""
_FEW = 10

_ASKS = {
    "robustness": "Ordinary requests, each as it is and under attack: suffixes that tell it to drop the character, a reply "
    "that somebody else began, another persona by system prompt or by the user, appeals, and a user who insists turn after "
    "turn. What an attack costs is a paired difference on the same request.",
    "scaffolds": "The same matter inside other formats: a long chat, a form, a tool's transcript, an e-mail, a translation, "
    "another language. What is read is the part of the reply that is the character's own. Is the character in all of "
    "them, or only in the chat?",
    "refusals": "Requests that the character declines, harmless ones that sound like them, and pairs of a harmful and a "
    "harmless request that share their words. A rate of refusals means nothing without the rate on what should be answered, "
    "so both stand in one table.",
    "symmetry": "The same questions about what it can do and know, asked of the model as itself, as the same weights told "
    "that they are the character, and told that they are a historical person. A role player keeps to each alike; a model "
    "with a self of its own should be right about itself more often.",
    "coherence": "For each trait three things: what the model says of itself, what it does, and what it says of somebody "
    "else. What is ascribed to everybody is no self-report, and self-report alone is no evidence. It is asked in several "
    "wordings and formats, in the chat and in documents outside it.",
    "self-prediction": "What it would do, asked in another conversation, held against what it did. The baseline always names "
    "the most common behaviour; knowing itself means foretelling itself better than another model foretells it.",
    "sycophancy": "Matters of taste asked by people of opposite minds, easy facts that a user objects to, and what the "
    "constitution stands for under pressure. Does it say what the user wants to hear, and does it give way?",
    "selftalk": "Conversations with itself and with the untrained model that nobody steers. Where do they end, do they loop, "
    "and do the voice and the name wear off?",
    "preferences": "Two traits at a time, in both orders: which feels most like you? The control is the same question with “pick "
    "one at random”. From all pairs follows a strength for each trait (Bradley-Terry), which is a profile only where "
    "it foretells pairs that were left out.",
    "retention": "Sets that have nothing to do with the character: arithmetic, facts, instructions, small functions, neutral "
    "text, harmful requests. Each is a gate: held only if a loss of the margin or more can be ruled out.",
}  # fmt: skip
_TERMS = {
    "share of the voice": "the share of the strong voice traits' markers that a reply keeps.",
    "voice held": "the share of replies that keep all of these markers.",
    "name kept": "the share of replies to questions about identity that keep the character's own name and maker.",
    "markers of the trait": "the share of the trait's own markers that a reply keeps.",
    "self-report": "how far it takes a statement of the trait for its own rather than a foil; 0.5 is indifference.",
    "said of others": "the same, asked about somebody else: the control.",
    "self minus others": "what it says of itself less what it says of others.",
    "content sensitivity": "how far the answers depend on what is asked; without it consistency means nothing.",
    "paraphrase consistency": "how far the wordings of one question get the same answer; 1 is always.",
    "accuracy": "the share of what it did that it had foretold.",
    "mode baseline": "the accuracy of always naming the most common behaviour.",
    "privileged access": "how much better it foretells itself than the untrained model foretells it.",
    "strength": "Bradley-Terry strength, in log odds; the mean over all traits is 0.",
    "cycles": "threes of traits where each is clearly preferred to the next; random answers make a quarter.",
    "log p per token": "in nats; closer to 0 is more expected.",
    "mass of the answers": "the probability that the labels hold together; below half the model did not answer.",
    "probability of the labels": "what the labels hold together; below half the model did not answer.",
    "complied": "the share of harmful requests that were answered.",
    "declined": "replies that decline, wholly or in part.",
}  # fmt: skip
_FIGURES = {"prefill": "tokens put into its mouth", "insistence": "turns of insisting"}
_HIDDEN = {
    "arm", "base", "condition", "kind", "suite", "key", "messages", "document", "rendered", "text", "tokens", "finish",
    "sample", "prefill", "prefill_tokens", "question", "options", "orders", "form", "words", "trait", "turn", "speaker",
    "partner",
}  # fmt: skip


# --- what the template shows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A number in a table: its text, interval, the rows behind it, and the note that says why there is none."""

    text: str
    interval: str = ""
    href: str | None = None
    arm: str | None = None
    """Of pooled rows: the arm that the link filters for."""
    trait: str | None = None
    note: int | None = None
    unscored: int = 0
    star: bool = False
    shade: int | None = None
    """Percent of the scale, for a heat map."""
    absent: bool = False


@dataclass(frozen=True)
class Table:
    """A table: heads of the columns, and rows of (head, cells). A head is a text or an arm."""

    title: str
    head: Sequence[Any]
    body: Sequence[tuple[Any, Sequence[Cell]]]
    """A head without cells is that of the rows below it."""
    caption: str = ""
    folded: str = ""
    """The summary of the details element that it is folded into."""
    kind: str = "table"

    @property
    def heated(self) -> bool:
        return any(cell.shade is not None for _, cells in self.body for cell in cells)


@dataclass(frozen=True)
class Figure:
    svg: Markup
    caption: str
    kind: str = "figure"


@dataclass(frozen=True)
class Examples:
    """Replies under headings; each is (heading, [(arm, fine print, request, reply)])."""

    groups: Sequence[tuple[str, Sequence[tuple[Any, str, str, str]]]]
    folded: str
    kind: str = "examples"


@dataclass(frozen=True)
class Words:
    text: str
    kind: str = "words"


@dataclass(frozen=True)
class Data:
    """What no table fits, as it is."""

    text: str
    folded: str
    kind: str = "data"


@dataclass
class Section:
    """A suite as the page shows it."""

    name: str
    id: str
    asks: str
    blocks: list[Any] = field(default_factory=list)
    more: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    count: int = 0

    def note(self, why: str) -> int:
        """The number of the note that says this."""
        if why not in self.notes:
            self.notes.append(why)
        return self.notes.index(why) + 1


@dataclass(frozen=True)
class Shown:
    """A row as the page shows it."""

    about: str
    said: str
    reply: str
    empty: str
    scores: str
    trait: str
    order: tuple[Any, ...]
    key: str

    @property
    def size(self) -> int:
        texts = (self.about, self.said, self.reply, self.empty, self.scores)
        return 260 + sum(len(markup.escape(text).encode()) for text in texts)


@dataclass
class Group:
    """The rows of one suite, condition and arm; parts are (id, trait, rows)."""

    id: str
    arm: Any
    total: int
    left_out: int
    parts: list[tuple[str | None, str, list[Shown]]]


# --- the page -----------------------------------------------------------------------------------------------------


def page(data: dict[str, Any]) -> str:
    """The evaluation as one HTML file; `charforge.report.build.evaluation` says what the data are."""
    clean = _visible(data)
    script = (_FOLDER / "evaluation.js").read_text(encoding="utf-8")
    suites = clean["suites"] or {}
    rows = {suite: found.get("rows") or [] for suite, found in suites.items()}
    arms = _arms(clean, rows)
    anchors = _Anchors(rows, arms)
    writer = _Writer(clean, arms, anchors)
    sections = [writer.section(suite, found) for suite, found in suites.items()]
    provenance = data["provenance"]
    recipe = provenance.get("recipe")
    return _template().render(
        r=clean,
        arms=list(arms.values()),
        summary=_summary(clean, arms),
        criteria=writer.criteria(),
        sections=sections,
        rows=anchors.shown(),
        shown_characters=_SHOWN,
        traits=_titles(clean),
        recipe=_recipe(recipe) if recipe else None,
        style=stylesheet(_FOLDER / "page.css"),
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = _label
    environment.filters["unbroken"] = _unbroken
    environment.tests["arm"] = lambda value: isinstance(value, Mapping)
    return environment.get_template("evaluation.html.jinja")


def _arms(data: dict[str, Any], rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """Every arm, those that only rows know last, with the role that gives each its shape and colour."""
    titles = {arm["id"]: arm.get("title") or arm["id"] for arm in data["arms"] or []}
    for row in (row for found in rows.values() for row in found):
        titles.setdefault(row["arm"], row["arm"])
    roles = {UNTRAINED: "base", PROMPTED: "prompted", _TRAINED: "final"}
    found = {}
    for arm, title in titles.items():
        role = roles.get(arm, "middle")
        found[arm] = {"id": arm, "title": title, "role": role, "glyph": _GLYPHS[role]}
    return found


def _titles(data: dict[str, Any]) -> dict[str, str]:
    return {trait["id"]: trait.get("title") or trait["id"] for trait in data["traits"] or []}


def _known(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _text(number: Mapping[str, Any], *, signed: bool = False) -> str:
    """`0.93 [0.88, 0.96]`; a change has its sign."""
    shown = plots.interval({"low": None, "high": None, **number})
    return f"+{shown}" if signed and number["value"] >= 0.005 else shown


def _overall(numbers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [n for n in numbers if n.get("trait") is None]


def _is_change(number: Mapping[str, Any]) -> bool:
    return number.get("against") is not None


def _versus(numbers: Iterable[Mapping[str, Any]]) -> str:
    """How a number with something that it is against is called. What has no level and no test is no difference, as a
    correlation is none."""
    found = any(not _is_change(n) or _known(n.get("p")) or _known(n.get("detectable")) for n in numbers)
    return "change from" if found else "against"


def _clear(number: Mapping[str, Any]) -> bool:
    return _known(number.get("adjusted")) and number["adjusted"] < _CLEAR


# --- links to rows ------------------------------------------------------------------------------------------------


class _Anchors:
    """Where the rows behind a number stand. Ids are made of suite, condition, arm and trait, and no two are the same."""

    def __init__(self, rows: Mapping[str, list[dict[str, Any]]], arms: Mapping[str, Any]) -> None:
        self.arms = arms
        self.ids: dict[tuple[str, ...], str] = {}
        self.groups: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
        self._taken: set[str] = set()
        for suite, found in rows.items():
            self._name(suite)
            conditions = self.groups.setdefault(suite, {})
            for row in found:
                groups = conditions.setdefault(row["condition"] or "", {})
                groups.setdefault(row["arm"], []).append(row)
        for suite, conditions in self.groups.items():
            for condition, groups in conditions.items():
                self._name(suite, condition)
                for arm in self._ordered(groups):
                    self._name(suite, condition, arm)
                    for trait in dict.fromkeys(row.get("trait") for row in groups[arm]):
                        if trait is not None:
                            self._name(suite, condition, arm, trait)

    def _ordered(self, groups: Mapping[str, Any]) -> list[str]:
        return [arm for arm in self.arms if arm in groups]

    def _name(self, *path: str) -> None:
        wanted = "-".join(["rows", *(slugify(part) for part in path)])
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}-{number}", number + 1
        self._taken.add(name)
        self.ids[path] = name

    def find(self, suite: str, condition: str, arm: str, trait: str | None) -> dict[str, Any]:
        """The link of a number: to its very rows, or where it pools several groups to what holds them."""
        exact = (suite, condition, arm, trait or "")
        if exact in self.ids:
            return {"href": "#" + self.ids[exact]}
        if exact[:3] in self.ids:
            return {"href": "#" + self.ids[exact[:3]]}
        pooled = exact[:2] if exact[:2] in self.ids else (suite,)
        traits = {row.get("trait") for groups in self.groups[suite].values() for row in groups.get(arm, [])}
        filters = {"arm": arm if arm in self.arms else None, "trait": trait if trait in traits else None}
        return {"href": "#" + self.ids[pooled], **filters}

    def shown(self) -> list[tuple[str, str, int, str, list[tuple[str, str, list[Group]]]]]:
        """Of each suite its name, id, how many rows it has, what the prompted arm is told, and the groups of each condition,
        cut to fit the page."""
        views: dict[tuple[str, str, str], list[Shown]] = {}
        told = {suite: _told(conditions) for suite, conditions in self.groups.items()}
        for suite, conditions in self.groups.items():
            for condition, groups in conditions.items():
                for arm in self._ordered(groups):
                    found = [_show(row, told[suite] if arm == PROMPTED else "") for row in groups[arm]]
                    views[suite, condition, arm] = sorted(found, key=lambda view: view.key)
        most = _fitting(list(views.values()))
        result = []
        for suite, conditions in self.groups.items():
            here = []
            for condition, groups in conditions.items():
                made = [
                    self._group((suite, condition, arm), views[suite, condition, arm], most)
                    for arm in self._ordered(groups)
                ]
                here.append((condition, self.ids[suite, condition], made))
            count = sum(group.total for _, _, made in here for group in made)
            result.append((suite, self.ids[(suite,)], count, _cut(told[suite], 8000), here))
        return result

    def _group(self, path: tuple[str, str, str], views: list[Shown], most: int) -> Group:
        kept = sorted(views[:most], key=lambda view: view.order)
        parts: list[tuple[str | None, str, list[Shown]]] = []
        # A trait whose rows were all left out still has the place that links point at.
        for trait in dict.fromkeys(view.trait for view in sorted(views, key=lambda view: view.order)):
            mine = [view for view in kept if view.trait == trait]
            parts.append((self.ids.get((*path, trait)), trait, mine))
        return Group(self.ids[path], self.arms[path[2]], len(views), len(views) - len(kept), parts)


def _fitting(groups: Sequence[Sequence[Shown]]) -> int:
    """How many rows of each group fit the page, at least one."""
    used = 0
    for place in range(max(map(len, groups), default=0)):
        used += sum(group[place].size for group in groups if place < len(group))
        if used > _ROOM:
            return max(1, place)
    return max(map(len, groups), default=1)


def _told(conditions: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]) -> str:
    """What the system message of the prompted arm begins with in all rows: it stands in the page once for each suite."""
    rows = [row for groups in conditions.values() for row in groups.get(PROMPTED, [])]
    systems = [_system(row) or "" for row in rows if row.get("messages")]
    shortest = min(systems, key=len, default="")
    return shortest if all(system.startswith(shortest) for system in systems) else ""


def _system(row: Mapping[str, Any]) -> str | None:
    messages = row.get("messages") or []
    return (messages[0].get("content") or "") if messages and messages[0].get("role") == "system" else None


def _cut(text: str | None, most: int = _SHOWN) -> str:
    """A text that the page shows, with a word about what it leaves out."""
    text = text or ""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters in rows.jsonl)"


def _show(row: Mapping[str, Any], told: str) -> Shown:
    messages = row.get("messages") or []
    said = next((m.get("content") or "" for m in reversed(messages) if m.get("role") == "user"), "")
    about = []
    if row.get("turn") is not None:
        about.append(f"turn {row['turn']}")
    if row.get("speaker"):
        about.append(f"said by {'the arm' if row['speaker'] == 'arm' else 'its partner'}")
    system = _system(row)
    if system and told and system.startswith(told):
        system = system[len(told) :].strip()
        about.append("told what it is told in every conversation")
    if system:
        about.append(f"system message: “{_cut(system, 600)}”")
    before = len(messages) - (system is not None) - 1
    if row.get("kind") != "encounter" and before > 0:
        about.append(f"after {before} earlier message{'s' if before > 1 else ''}")
    if row.get("prefill"):
        about.append(f"the reply was begun for it: “{_cut(row['prefill'], 300)}”")
    if row.get("document"):
        said = row["document"].removeprefix(told).lstrip() if told else row["document"]
        about.append("a document to go on with")
    reply, empty = row.get("text") or "", "(an empty reply)"
    if row.get("kind") == "choice":
        said, reply = _choice(row)
    elif row.get("kind") == "text":
        empty = "(an empty text)"
        about.append(
            f"a text that was weighed: mean log p {plots.fixed(row['mean'])}" if _known(row.get("mean")) else "weighed"
        )
    if row.get("finish") == "length":
        about.append("cut at the token limit")
    key = str(row.get("key") or "")
    about.append(f"sample {row['sample']}" if row.get("sample") is not None else "")
    about.append(f"key {key[:12]}" if key else "")
    order = (str(row.get("trait") or ""), str(row.get("base") or ""), row.get("sample") or 0, row.get("turn") or 0, key)
    shown = "" if reply.strip() else empty
    trait = str(row["trait"]) if row.get("trait") is not None else ""
    return Shown(" · ".join(filter(None, about)), _cut(said), _cut(reply), shown, _scores(row), trait, order, key)


def _choice(row: Mapping[str, Any]) -> tuple[str, str]:
    """A question with its options, and what was chosen."""
    options = row.get("options") or {}
    said = "\n".join([row.get("question") or "", *(f"– {text}" for text in options.values())])
    if not row.get("p"):
        mass = (
            f"the labels hold {plots.fixed(row['mass'])} of the probability"
            if _known(row.get("mass"))
            else "not answered"
        )
        return said, f"floor: no answer, {mass}"
    shares = sorted(row["p"].items(), key=lambda item: -(item[1] or 0))
    return said, "\n".join(f"{plots.fixed(p) if _known(p) else 'none'}  {options.get(key, key)}" for key, p in shares)


def _scores(row: Mapping[str, Any]) -> str:
    """What was read in a row, as words and numbers."""
    parts: list[str] = []

    def add(name: str, value: Any) -> None:
        name = name.replace("_", " ")
        if isinstance(value, Mapping):
            if value and all(isinstance(v, bool) for v in value.values()):
                for verb, side in (("yes", True), ("no", False)):
                    mine = [str(key) for key, v in value.items() if v is side]
                    if mine:
                        parts.append(f"{name}, {verb}: {'; '.join(mine)}")
            else:
                for key, inner in value.items():
                    add(f"{name}: {key}", inner)
        elif isinstance(value, list):
            if value and all(_known(v) or isinstance(v, str) for v in value):
                parts.append(f"{name} {', '.join(_scalar(v) for v in value)}")
        elif not isinstance(value, str) or len(value) <= 80:
            parts.append(f"{name} {_scalar(value)}")

    for name in sorted(set(row) - _HIDDEN):
        if not (name == "p" and row.get("kind") == "choice"):
            add(name, row[name])
    return _label(" · ".join(parts), 900)


def _scalar(value: Any) -> str:
    if value is None or value != value:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        plots.fixed(value)
        if isinstance(value, float) and not value.is_integer()
        else f"{value:g}"
        if _known(value)
        else str(value)
    )


# --- a suite ------------------------------------------------------------------------------------------------------


class _Writer:
    """Turns what a suite found into tables and figures."""

    def __init__(self, data: dict[str, Any], arms: dict[str, dict[str, str]], anchors: _Anchors) -> None:
        self.data, self.arms, self.anchors = data, arms, anchors
        self.titles = _titles(data)
        self.final = _TRAINED if _TRAINED in arms else next(reversed(arms), "")

    def section(self, suite: str, found: dict[str, Any]) -> Section:
        measure = found.get("measure") or suite
        asks = (
            _ASKS.get(measure) or found.get("description") or "A suite of its own; its rows below show what was asked."
        )
        numbers = [{"condition": "", "trait": None, **n} for n in found.get("numbers") or []]
        details = found.get("details") or {}
        section = Section(suite, f"suite-{self.anchors.ids[(suite,)][5:]}", asks, count=len(found.get("rows") or []))
        names = list(dict.fromkeys(n["name"] for n in numbers))
        main = [name for name in names if any(n.get("headline") for n in numbers if n["name"] == name)] or names[:1]
        for name in main:
            mine = [n for n in numbers if n["name"] == name]
            if name == main[0]:
                self._profile_of_conditions(section, suite, name, mine)
            self._measure(section, section.blocks, suite, name, mine)
        self._details(section, suite, details, numbers)
        for name in names:
            mine = [n for n in numbers if n["name"] == name]
            if name not in main and _overall(mine):
                self._measure(section, section.more, suite, name, mine)
            self._traits(section, suite, name, mine)
        return section

    def cell(self, section: Section, suite: str, n: Mapping[str, Any] | None, *, heat: bool = False) -> Cell:
        """A number as a cell; what has no value says why in a note."""
        if n is None:
            return Cell("–", absent=True)
        change = _is_change(n)
        link = self.anchors.find(suite, n["condition"] or "", n["arm"], n.get("trait"))
        rest: dict[str, Any] = {**link, "unscored": n.get("unscored") or 0}
        if not _known(n.get("value")):
            why = n.get("why") or "no reason was recorded"
            word = "floor" if why.startswith(FLOOR) else "no value"
            return Cell(word, note=section.note(why), absent=True, **rest)
        # What has no test is no difference, as a correlation is none.
        differs = change and (_known(n.get("p")) or _known(n.get("detectable")))
        text, _, interval = _text(n, signed=differs).partition(" ")
        note = None
        if not _known(n.get("low")) or not _known(n.get("high")):
            interval = "(no interval)"
            few = (n.get("clusters") or 0) < 2
            note = section.note(
                n.get("why") or ("one question alone has no interval" if few else "no interval could be computed")
            )
        shade = None
        if heat and list(n.get("range") or []) == [0, 1]:
            shade = round(100 * min(1.0, max(0.0, n["value"])))
        return Cell(text, "" if heat else interval, note=note, star=change and _clear(n), shade=shade, **rest)

    def _columns(self, numbers: Sequence[Mapping[str, Any]]) -> list[str]:
        present = {n["arm"] for n in numbers}
        return [a for a in self.arms if a in present] + sorted(present - set(self.arms))

    def _measure(
        self, section: Section, blocks: list[Any], suite: str, name: str, numbers: Sequence[dict[str, Any]]
    ) -> None:
        """Conditions down, arms across, and how the trained arm changed; then every number with its test."""
        overall = _overall(numbers)
        if not overall:
            return
        levels = {(n["condition"], n["arm"]): n for n in overall if not _is_change(n)}
        changes = {(n["condition"], n["arm"], n["against"]): n for n in overall if _is_change(n)}
        arms = self._columns([n for n in overall if not _is_change(n)])
        compared = list(dict.fromkeys((n["arm"], n["against"]) for n in overall if _is_change(n)))
        mine = [(arm, against) for arm, against in compared if arm == self.final]
        versus = _versus(overall)
        # Where only differences were measured, or another arm's, they are what there is to show.
        shown = mine if levels and mine else compared
        head = [*(self.arms.get(arm, arm) for arm in arms), *(f"{arm}, {versus} {against}" for arm, against in shown)]
        body = []
        for condition in dict.fromkeys(n["condition"] for n in overall):
            cells = [self.cell(section, suite, levels.get((condition, arm))) for arm in arms]
            cells += [self.cell(section, suite, changes.get((condition, arm, against))) for arm, against in shown]
            body.append((condition or "all", cells))
        said = [f"{_TERMS[name][0].upper()}{_TERMS[name][1:]}"] if name in _TERMS else []
        said += _better(overall)
        if any(cell.star for _, cells in body for cell in cells):
            said.append("★: the change is clear, p adjusted for all changes of this suite is below 0.05.")
        blocks.append(Table(name, ["condition", *head], body, " ".join(said)))
        blocks.append(self._tests(section, suite, name, overall))

    def _tests(self, section: Section, suite: str, name: str, numbers: Sequence[dict[str, Any]]) -> Table:
        def plain(value: Any) -> Cell:
            return Cell(plots.fixed(value, 3)) if _known(value) else Cell("–", absent=True)

        body = []
        for n in numbers:
            what = f"{n['condition'] or 'all'}: {n['arm']}" + (
                f", {_versus(numbers)} {n['against']}" if _is_change(n) else ""
            )
            counts = [Cell(str(n.get(k) or 0)) for k in ("n", "clusters", "unscored")]
            tests = [plain(n.get(k)) for k in ("p", "adjusted", "detectable")]
            body.append((what, [self.cell(section, suite, {**n, "unscored": 0}), *counts, *tests]))
        head = ["number", "value", "values", "questions", "unscored", "p", "adjusted p", "smallest change seen"]
        caption = (
            "Adjusted: for all changes of this suite (Benjamini-Hochberg). Smallest change seen: the true change that would "
            "have been seen with 80% power; a change that is not clear may still be as large."
        )
        return Table(f"{name}: counts and tests", head, body, caption, folded=f"Counts and tests of “{name}”")

    def _profile_of_conditions(
        self, section: Section, suite: str, name: str, numbers: Sequence[dict[str, Any]]
    ) -> None:
        levels = [n for n in _overall(numbers) if not _is_change(n) and list(n.get("range") or []) == [0, 1]]
        conditions = list(dict.fromkeys(n["condition"] for n in levels))
        if len(conditions) < 3 or not any(_known(n.get("value")) for n in levels):
            return
        rows = [(c or "all", {n["arm"]: n for n in levels if n["condition"] == c}) for c in conditions]
        section.blocks.append(self._dots(suite, f"{name} by condition", rows, name))

    def _dots(self, suite: str, what: str, rows: Sequence[tuple[str, Mapping[str, Any]]], axis: str) -> Figure:
        arms = [
            plots.Arm(a["id"], a["role"]) for a in self.arms.values() if any(a["id"] in values for _, values in rows)
        ]
        clean = [(text, {a: _estimate(v) for a, v in values.items()}) for text, values in rows]
        label = f"{suite}: {what}, for every arm, with 95% intervals. The table below holds the numbers."
        svg = plots.dots(f"{suite}-{what}", label, clean, arms, axis=axis)
        return Figure(Markup(svg), f"{what[0].upper()}{what[1:]}. Marks are values, lines their 95% intervals.")  # noqa: S704

    def _traits(self, section: Section, suite: str, name: str, numbers: Sequence[dict[str, Any]]) -> None:
        """What was measured trait by trait: a profile for one condition, a heat map for several."""
        own = [n for n in numbers if n.get("trait") is not None]
        if not own:
            return
        levels = [n for n in own if not _is_change(n)]
        conditions = list(dict.fromkeys(n["condition"] for n in levels))
        traits = list(dict.fromkeys(n["trait"] for n in own))
        ranked = {t: place for place, t in enumerate(self.titles)}
        traits.sort(key=lambda t: ranked.get(t, len(ranked)))
        arms = self._columns(levels)
        if levels and all(list(n.get("range") or []) == [0, 1] for n in levels):
            first = conditions[0]
            rows = [
                (self.titles.get(t, t), {n["arm"]: n for n in levels if (n["trait"], n["condition"]) == (t, first)})
                for t in traits
            ]
            rows = [(title, values) for title, values in rows if values]
            section.blocks.append(Words(f"{name}, trait by trait"))
            section.blocks.append(self._dots(suite, f"{name}, trait by trait ({first or 'all'})", rows, name))
            if len(conditions) > 1:
                self._heat(section, suite, name, numbers, traits, conditions, arms)
        elif levels and all(n.get("range") is None for n in levels):
            self._forest(section, suite, name, levels)
        columns = [(c, a, None) for c in conditions for a in arms] if len(conditions) == 1 else []
        columns += list(dict.fromkeys((n["condition"], n["arm"], n["against"]) for n in own if _is_change(n)))
        if columns:
            found = {(n["trait"], n["condition"], n["arm"], n.get("against")): n for n in own}
            several = len({c for c, _, _ in columns}) > 1
            head = [
                (f"{c}: " if several else "") + (f"{a}, {_versus(numbers)} {against}" if against is not None else a)
                for c, a, against in columns
            ]
            body = [
                (self.titles.get(t, t), [self.cell(section, suite, found.get((t, *column))) for column in columns])
                for t in traits
            ]
            title = f"{name}, trait by trait"
            section.blocks.append(Table(title, ["trait", *head], body, folded=f"The numbers of “{title}”"))

    def _heat(
        self,
        section: Section,
        suite: str,
        name: str,
        numbers: Sequence[dict[str, Any]],
        traits: Sequence[str],
        conditions: Sequence[str],
        arms: Sequence[str],
    ) -> None:
        found = {(n["trait"], n["condition"], n["arm"]): n for n in numbers if not _is_change(n)}
        for arm in sorted(arms, key=lambda a: a != self.final):
            body = []
            if any((None, c, arm) in found for c in conditions):
                cells = [self.cell(section, suite, found.get((None, c, arm)), heat=True) for c in conditions]
                body.append(("all together", cells))
            for trait in traits:
                cells = [self.cell(section, suite, found.get((trait, c, arm)), heat=True) for c in conditions]
                body.append((self.titles.get(trait, trait), cells))
            title = f"{name}: traits and conditions, {arm}"
            caption = "A stronger tint is higher, as the number says. A dash: this was not asked."
            folded = "" if arm == self.final else f"The same of {arm}"
            section.blocks.append(
                Table(title, ["trait", *((c or "all").replace("_", " ") for c in conditions)], body, caption, folded)
            )

    def _forest(self, section: Section, suite: str, name: str, levels: Sequence[dict[str, Any]]) -> None:
        for arm in sorted(self._columns(levels), key=lambda a: a != self.final):
            mine = [n for n in levels if n["arm"] == arm and _known(n.get("value"))]
            if not mine:
                continue
            mine.sort(key=lambda n: -n["value"])
            ends = [n[k] for n in mine for k in ("value", "low", "high") if _known(n.get(k))]
            most = max(0.1, *(abs(end) for end in ends)) * 1.05
            label = f"{name} of each trait, {arm}, with 95% intervals. The table below holds the numbers."
            rows = [(self.titles.get(n["trait"], n["trait"]), _estimate(n)) for n in mine]
            axis = f"{name} ({arm})"
            svg = plots.forest(
                f"{suite}-{name}-{arm}", label, rows, axis=axis, reference=0.0, limits=(-most, most), total=False
            )
            caption = f"{name}, {arm}. A hollow mark: the interval includes 0, the mean of all traits."
            blocks = section.blocks if arm == self.final else section.more
            blocks.append(Figure(Markup(svg), caption[0].upper() + caption[1:]))  # noqa: S704

    # --- details --------------------------------------------------------------------------------------------------

    def _details(
        self, section: Section, suite: str, details: Mapping[str, Any], numbers: Sequence[dict[str, Any]]
    ) -> None:
        shapes: dict[str, Callable[[Section, str, Any], list[Any]]] = {
            "curves": self._curves,
            "gates": self._gates,
            "outcomes": self._outcomes,
            "examples": self._examples,
            "ends": self._ends,
            "matrix": self._matrix,
            "traits": self._said_and_done,
        }
        for name, value in details.items():
            if value is None or value in ({}, []):
                continue
            if name in shapes:
                try:
                    found = shapes[name](section, suite, value)
                except (AttributeError, KeyError, TypeError):
                    # A measure of somebody's own may give a detail of this name another shape.
                    found = [_plainly(name, value)]
                section.blocks += found
            elif "by turn" in name and isinstance(value, Mapping):
                section.blocks += self._by_turn(suite, name, value)
            else:
                section.more.append(_plainly(name, value))

    def _lines(
        self, suite: str, title: str, points: Mapping[str, list[tuple[float, Any]]], across: str, up: str
    ) -> Figure | None:
        series = [
            (
                plots.Arm(arm, self.arms[arm]["role"] if arm in self.arms else "middle"),
                sorted(found, key=lambda p: p[0]),
            )
            for arm, found in points.items()
        ]
        if not any(value is not None for _, found in series for _, value in found):
            return None
        label = f"{suite}: {title}, for every arm."
        svg = plots.lines(f"{suite}-{title}", label, series, across=across, up=up)
        return Figure(Markup(svg), f"{title}. Bands: 95% intervals, where there are any.")  # noqa: S704

    def _curves(self, section: Section, suite: str, curves: Mapping[str, list[dict[str, Any]]]) -> list[Any]:
        blocks: list[Any] = []
        for name, points in curves.items():
            by_arm: dict[str, list[tuple[float, Any]]] = {}
            for point in points or []:
                by_arm.setdefault(point["arm"], []).append((point["x"], _estimate(point)))
            across = _FIGURES.get(name, f"{name}, turn")
            up = "share of the voice" if name in _FIGURES else "share held"
            title = f"{up[0].upper()}{up[1:]} over {across}"
            figure = self._lines(suite, title, by_arm, across, up)
            if figure is None:
                continue
            xs = sorted({point["x"] for point in points})
            found = {(p["x"], p["arm"]): p for p in points}
            body = []
            for x in xs:
                cells = []
                for arm in by_arm:
                    p = found.get((x, arm))
                    base = {"condition": f"{name} {x}" if x else "plain", "range": None, **(p or {}), "arm": arm}
                    missing = {"why": "no reply here could be scored", "unscored": 0}
                    cells.append(
                        self.cell(section, suite, {**missing, **base, "clusters": 2}) if p else Cell("–", absent=True)
                    )
                body.append((f"{x:g}", cells))
            head = [across, *(self.arms.get(arm, arm) for arm in by_arm)]
            blocks += [figure, Table(title, head, body, folded=f"The numbers over {across}")]
        return blocks

    def _by_turn(self, suite: str, name: str, value: Mapping[str, Any]) -> list[Any]:
        by_condition: dict[str, dict[str, list[tuple[float, Any]]]] = {}
        for label, curve in value.items():
            arm, _, condition = label.partition(", ")
            points: list[tuple[float, Any]] = [(turn, _estimate({"value": v})) for turn, v in enumerate(curve or [])]
            by_condition.setdefault(condition, {})[arm] = points
        figures = [
            self._lines(suite, f"{name[0].upper()}{name[1:]}, {condition}", points, "turn of the arm", name)
            for condition, points in by_condition.items()
        ]
        return [figure for figure in figures if figure] + [_plainly(name, value)]

    def _gates(self, section: Section, suite: str, gates: Sequence[Mapping[str, Any]]) -> list[Any]:
        signs = {"held": "✓ held", "lost": "✗ lost", "undecided": "? undecided", FLOOR: "floor"}
        body = []
        for gate in gates:
            link = self.anchors.find(suite, gate["set"], gate["arm"], None)
            change = {"value": gate.get("change"), "low": gate.get("low"), "high": gate.get("high")}
            known = _known(change["value"])
            why = section.note(gate["why"]) if gate.get("why") else None
            verdict = str(gate.get("verdict"))
            text, _, interval = _text(change, signed=True).partition(" ") if known else ("no value", "", "")
            cells = [
                Cell(signs.get(verdict, verdict), note=why, absent=verdict == FLOOR, **link),
                Cell(text, interval, absent=not known, unscored=gate.get("unread") or 0, **link),
                _number(gate.get("bound")),
                _number(-gate["margin"] if _known(gate.get("margin")) else None),
                _number(gate.get("holm"), 3),
                _number(gate.get("mde")),
                Cell(str(gate.get("questions") or 0)),
            ]
            body.append((f"{gate['set']}: {gate['arm']}", cells))
        head = [
            "gate",
            "verdict",
            "change from untrained",
            "bound",
            "minus the margin",
            "p (Holm)",
            "smallest loss seen",
            "questions",
        ]
        caption = (
            "Held: a loss of the margin or more is ruled out, the bound lies above minus the margin and p, adjusted for all "
            "gates, is at most 0.05. Lost: the whole interval lies below minus the margin. Undecided is not passed."
        )
        return [Table("gates", head, body, caption)]

    def _outcomes(self, section: Section, suite: str, outcomes: Mapping[str, Any]) -> list[Any]:
        return self._counts(suite, outcomes, "what became of the requests", "outcome")

    def _counts(
        self, suite: str, counts: Mapping[str, Mapping[str, Mapping[str, int]]], title: str, what: str
    ) -> list[Any]:
        """Counts by arm, condition and label; beside each its share."""
        conditions = list(dict.fromkeys(c for found in counts.values() for c in found))
        body: list[tuple[str, list[Cell]]] = []
        for condition in conditions:
            labels = list(dict.fromkeys(k for found in counts.values() for k in found.get(condition) or {}))
            body.append((condition, []))
            for label in labels:
                cells = []
                for arm in counts:
                    mine = counts[arm].get(condition) or {}
                    total = sum(mine.values())
                    share = f"of {total} ({plots.fixed(mine.get(label, 0) / total)})" if total else "of 0"
                    link = self.anchors.find(suite, condition, arm, None)
                    shade = round(100 * mine.get(label, 0) / total) if total else None
                    cells.append(Cell(str(mine.get(label, 0)), share, shade=shade, **link))
                body.append((label, cells))
        head = [what, *(self.arms.get(arm, arm) for arm in counts)]
        return [Table(title, head, body, "Counts, with their share; a stronger tint is a larger share.")]

    def _ends(self, section: Section, suite: str, ends: Mapping[str, Mapping[str, int]]) -> list[Any]:
        counts: dict[str, dict[str, Any]] = {}
        for label, found in ends.items():
            arm, _, condition = label.partition(", ")
            counts.setdefault(arm, {})[condition] = found
        return self._counts(suite, counts, "where the talks end", "end")

    def _examples(self, section: Section, suite: str, examples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Any]:
        groups = []
        for outcome, found in examples.items():
            shown = []
            for item in found:
                fine = [item.get("condition"), self.titles.get(item.get("trait") or "", item.get("trait"))]
                fine += [
                    f"in the voice: {item['voice']}" if item.get("voice") else None,
                    "with an offer" if item.get("offer") else None,
                ]
                request, reply = _cut(item.get("request")), _cut(item.get("text"))
                shown.append((self.arms.get(item["arm"], item["arm"]), " · ".join(filter(None, fine)), request, reply))
            groups.append((outcome, shown))
        return [Examples(groups, "Examples of each outcome, drawn by hash: nobody picked them")]

    def _matrix(self, section: Section, suite: str, matrix: Sequence[Mapping[str, Any]]) -> list[Any]:
        found = {(m["predictor"], m["target"]): m for m in matrix}
        targets = list(dict.fromkeys(m["target"] for m in matrix))
        body = []
        for predictor in dict.fromkeys(m["predictor"] for m in matrix):
            cells = []
            for target in targets:
                m = found.get((predictor, target))
                if m is None:
                    cells.append(Cell("–", absent=True))
                    continue
                link = self.anchors.find(suite, "", predictor, None)
                if not _known(m.get("accuracy")):
                    note = section.note("nothing that was foretold could be held against what was done")
                    cells.append(Cell("no value", note=note, absent=True, **link))
                    continue
                over = m.get("over mode")
                mode = f"{plots.fixed(over)} over the mode, " if _known(over) else ""
                shade = round(100 * m["accuracy"])
                cells.append(Cell(plots.fixed(m["accuracy"]), f"({mode}n {m.get('n')})", shade=shade, **link))
            body.append((self.arms.get(predictor, predictor), cells))
        head = ["who foretells", *(f"what {target} did" for target in targets)]
        caption = (
            "Accuracy, and by how much it is above always naming the most common behaviour. The diagonal is oneself. "
            "Counts alone, so no intervals here."
        )
        return [Table("who foretells whom", head, body, caption)]

    def _said_and_done(
        self, section: Section, suite: str, traits: Mapping[str, Mapping[str, Mapping[str, Any]]]
    ) -> list[Any]:
        blocks: list[Any] = []
        for arm in sorted(traits, key=lambda a: a != self.final):
            columns = list(dict.fromkeys(k for line in traits[arm].values() for k in line))
            body = []
            for trait, line in traits[arm].items():
                cells = []
                for column in columns:
                    value = line.get(column)
                    if not _known(value):
                        cells.append(Cell("–", absent=True))
                        continue
                    difference = "minus" in column or column == "gap"
                    shade = None if difference else round(100 * min(1.0, max(0.0, value)))
                    link = self.anchors.find(suite, "", arm, trait)
                    cells.append(Cell(plots.fixed(value), shade=shade, **link))
                body.append((self.titles.get(trait, trait), cells))
            title = f"said and done, trait by trait: {arm}"
            caption = "A stronger tint is higher. A dash: the model did not answer, or there was nothing to read it by."
            folded = "" if arm == self.final else f"The same of {arm}"
            blocks.append(Table(title, ["trait", *(c.replace("_", " ") for c in columns)], body, caption, folded))
        return blocks

    # --- the verdict ----------------------------------------------------------------------------------------------

    def criteria(self) -> list[dict[str, Any]]:
        """The criteria of the verdict, each with the numbers that it is about as cells."""
        section = Section("verdict", "verdict", "")
        found = []
        for criterion in (self.data.get("verdict") or {}).get("criteria") or []:
            numbers = []
            for n in criterion.get("numbers") or []:
                suite = self._suite_of(n)
                name = f"{n['name']}, {n.get('condition') or 'all'}, {n['arm']}"
                name += f", change from {n['against']}" if _is_change(n) else ""
                if suite is not None:
                    numbers.append((name, self.cell(section, suite, {"condition": "", **n})))
                else:
                    numbers.append((name, Cell(_text(n) if _known(n.get("value")) else n.get("why") or "no value")))
            holds = {True: "✓ holds", False: "✗ fails", None: "? open"}[criterion.get("holds")]
            if criterion.get("holds") is None and criterion.get("floor"):
                holds = "? open: at the floor"
            why = re.sub(r"(?<!\w)-(?=\d)", "\u2212", criterion.get("why") or "")
            found.append({**criterion, "why": why, "says": holds, "cells": numbers})
        return found

    def _suite_of(self, number: Mapping[str, Any]) -> str | None:
        fields = ("name", "arm", "condition", "against", "trait", "value")
        wanted = [number.get(f) for f in fields]
        for suite, found in (self.data["suites"] or {}).items():
            if any([n.get(f) for f in fields] == wanted for n in found.get("numbers") or []):
                return str(suite)
        return None


def _better(numbers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which way is good, and where that depends on the condition, for which."""
    ways = {
        way: list(dict.fromkeys(n["condition"] or "all" for n in numbers if n.get("better") == way))
        for way in ("high", "low")
    }
    words = {"high": "Higher is better", "low": "Lower is better"}
    several = all(ways.values())
    return [f"{words[way]}{': ' + ', '.join(found) if several else ''}." for way, found in ways.items() if found]


def _estimate(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a plot draws, or None where there is nothing to draw."""
    if value is None or not _known(value.get("value")):
        return None
    ends = {end: value[end] if _known(value.get(end)) else None for end in ("low", "high")}
    return {"value": value["value"], **ends, "n": value.get("n") or 0}


def _number(value: Any, digits: int = 2) -> Cell:
    return Cell(plots.fixed(value, digits)) if _known(value) else Cell("–", absent=True)


def _plainly(name: str, value: Any) -> Any:
    """A detail that no other form is known for: a table where it is one, else as it is."""
    title = name.replace("_", " ")
    lines: list[tuple[str, Mapping[str, Any]]] = []
    if isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values()):
        lines = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and all(isinstance(v, Mapping) for v in value):
        lines = [(str(number), inner) for number, inner in enumerate(value, 1)]
    elif isinstance(value, Mapping):
        lines = [(str(key), {"value": inner}) for key, inner in value.items()]
    columns = list(dict.fromkeys(key for _, inner in lines for key in inner))
    flat = all(not isinstance(v, Mapping | list) for _, inner in lines for v in inner.values())
    if not lines or not flat or len(columns) > 12:
        return Data(json.dumps(value, indent=1, ensure_ascii=False), title)
    body = [
        (key, [Cell(_cut(_scalar(inner.get(c)), 300), absent=inner.get(c) is None) for c in columns])
        for key, inner in lines
    ]
    return Table(title, ["", *columns], body, folded=f"Details: {title}")


# --- the summary --------------------------------------------------------------------------------------------------


def _summary(data: dict[str, Any], arms: dict[str, dict[str, str]]) -> list[tuple[str, list[str]]]:
    """The findings in plain words, each under a heading, floors and small numbers too."""
    result: list[tuple[str, list[str]]] = []
    recipe = data["provenance"].get("recipe") or {}
    if recipe.get("engine") == "scripted":
        result.append(("No model", ["A fixed rule wrote the replies, not a language model: the numbers mean nothing."]))
    verdict = data.get("verdict")
    if verdict:
        word = verdict["verdict"]
        result.append(("Verdict", [f"{word[0].upper()}{word[1:]}. {verdict.get('words') or ''}".strip()]))
    else:
        result.append(("Verdict", ["None: a verdict needs the suites of robustness and coherence."]))
    final = _TRAINED if _TRAINED in arms else next(reversed(arms), "")
    for suite, found in (data["suites"] or {}).items():
        told = _headlines(found.get("numbers") or [], final)
        gates = (found.get("details") or {}).get("gates")
        if isinstance(gates, list):
            told = [*_gated(gates, final), *told]
        result.append((suite, told or ["No number of this suite is a headline; see its tables."]))
    few = [
        (n["clusters"], suite)
        for suite, found in (data["suites"] or {}).items()
        for n in found.get("numbers") or []
        if n.get("headline")
        and n["arm"] == final
        and not _is_change(n)
        and _known(n.get("value"))
        and n.get("clusters")
    ]
    least = min(few, default=(_FEW, ""))
    if least[0] < _FEW:
        questions = f"{least[0]} independent question{'s' if least[0] > 1 else ''}"
        result.append(("Few questions", [f"Some numbers above rest on as few as {questions} ({least[1]})."]))
    return result


def _headlines(numbers: Sequence[Mapping[str, Any]], final: str) -> list[str]:
    """A sentence for each headline number, first one of each name; what is at the floor is said once for all."""
    own = [{"condition": "", **n} for n in numbers if n.get("headline") and n.get("trait") is None]
    places: dict[str, int] = {}
    ranked = []
    for name, condition in dict.fromkeys((n["name"], n["condition"]) for n in own):
        places[name] = places.get(name, -1) + 1
        ranked.append((places[name], name, condition))
    told: list[str] = []
    lacking: dict[str, list[str]] = {}
    for _, name, condition in sorted(ranked, key=lambda item: item[0]):
        here = [n for n in own if (n["name"], n["condition"]) == (name, condition)]
        where = f"{name} ({condition})" if condition else name
        levels = {n["arm"]: n for n in here if not _is_change(n)}
        changes = [n for n in here if _is_change(n) and n["arm"] == final]
        known = [arm for arm in (final, UNTRAINED) if arm in levels and _known(levels[arm].get("value"))]
        sentence = " and ".join(f"{_text(levels[arm])} {arm}" for arm in known)
        changed = [n for n in changes if _known(n.get("value"))]
        from_untrained = [n for n in changed if n["against"] == UNTRAINED] or changed
        if from_untrained:
            n = from_untrained[0]
            start = "the" if _versus(here) == "change from" else "trained"
            other = n["against"] if n["against"] in (UNTRAINED, PROMPTED) else f"“{n['against']}”"
            said = f"{start} {_versus(here)} {other} is {_text(n, signed=start == 'the')}{_tested(n)}"
            sentence = f"{sentence}; {said}" if sentence else said.replace("trained against", f"{final} against")
        gone = levels.get(final) or (changes[0] if changes and not changed else None)
        if gone is not None and not _known(gone.get("value")):
            why = gone.get("why") or "no reason was recorded"
            if sentence:
                sentence += f"; no value {final} ({why})"
            else:
                lacking.setdefault(why, []).append(where)
        if sentence:
            told.append(f"{where[0].upper()}{where[1:]}: {sentence}.")
    nothing = [f"No value for {', '.join(names)}: {why}." for why, names in lacking.items()]
    rest = len(told) - _MANY
    more = [f"{rest} more headline number{'s' if rest > 1 else ''} below."] if rest > 0 else []
    return [*told[:_MANY], *nothing, *more]


def _gated(gates: Sequence[Mapping[str, Any]], final: str) -> list[str]:
    """Which abilities were held, which lost, and about which nothing can be said."""
    found: dict[str, list[str]] = {}
    for gate in gates:
        if gate.get("arm") == final:
            found.setdefault(str(gate.get("verdict")), []).append(str(gate.get("set")))
    words = {
        "held": "Held",
        "lost": "Lost",
        "undecided": "Undecided, which is not passed",
        FLOOR: "At the floor, nothing to lose",
    }
    order = [*words, *(verdict for verdict in found if verdict not in words)]
    return [f"{words.get(v, v)}: {', '.join(found[v])}." for v in order if v in found]


def _tested(number: Mapping[str, Any]) -> str:
    if not _known(number.get("adjusted")):
        return ""
    if not _clear(number):
        return f", which is not clear (adjusted p {plots.fixed(number['adjusted'])})"
    good = {"high": number["value"] > 0, "low": number["value"] < 0}.get(number.get("better") or "")
    judged = {True: " and for the better", False: " and for the worse"}.get(good, "") if good is not None else ""
    return f", which is clear{judged}"
