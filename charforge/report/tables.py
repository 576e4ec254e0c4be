"""What a suite found, as tables and figures. Each number links to its rows; one that is not there says why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from charforge.evaluate.answers import PROMPTED, UNTRAINED
from charforge.evaluate.findings import FLOOR
from charforge.report import plots
from charforge.report.numbers import Line, clear, in_words, is_change, known, lines, overall, relation
from charforge.report.page import cut
from charforge.report.rows import Anchors, scalar

TRAINED = "trained"
_LONG = 40
"""Lines of a table of details that paper does not get."""

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
    aside: bool = False
    """Whether it stays folded on paper."""
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
    told: list[str] = field(default_factory=list)
    """What it found, in a few sentences."""
    blocks: list[Any] = field(default_factory=list)
    more: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def named(self) -> str:
        """What else was measured, by name."""
        return ", ".join(block.title for block in self.more if isinstance(block, Table) and not block.aside)

    def note(self, why: str) -> int:
        """The number of the note that says this."""
        if why not in self.notes:
            self.notes.append(why)
        return self.notes.index(why) + 1


class Writer:
    """Turns what a suite found into tables and figures."""

    def __init__(self, data: dict[str, Any], arms: dict[str, dict[str, str]], anchors: Anchors) -> None:
        self.data, self.arms, self.anchors = data, arms, anchors
        self.titles = titles(data)
        # What a number is against is one of these, or a condition.
        self.all_arms = {*arms, UNTRAINED, PROMPTED}
        self.final = TRAINED if TRAINED in arms else next(reversed(arms), "")

    def _says(self, n: Mapping[str, Any], numbers: Sequence[Mapping[str, Any]]) -> str:
        """Which of a measure's numbers this is."""
        condition, against = n["condition"] or "all", n.get("against")
        if against is None:
            return f"{condition}: {n['arm']}"
        said = relation(against, numbers, self.all_arms)
        return f"{condition}: {n['arm']}, {said}" if against in self.all_arms else f"{condition} {said}: {n['arm']}"

    def section(self, suite: str, found: dict[str, Any], told: list[str]) -> Section:
        measure = found.get("measure") or suite
        asks = (
            _ASKS.get(measure) or found.get("description") or "A suite of its own; its rows below show what was asked."
        )
        numbers = [{"condition": "", "trait": None, **n} for n in found.get("numbers") or []]
        details = found.get("details") or {}
        section = Section(suite, f"suite-{self.anchors.ids[(suite,)][5:]}", asks, told)
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
            if name not in main and overall(mine):
                self._measure(section, section.more, suite, name, mine)
            self._traits(section, suite, name, mine)
        return section

    def profile(self) -> list[Any]:
        """The headline shares of all suites in one figure, one condition of each name, and their numbers in a table."""
        section = Section("profile", "profile", "")
        rows: list[tuple[str, Mapping[str, Any]]] = []
        body = []
        for suite, found in (self.data["suites"] or {}).items():
            own = [{"condition": "", **n} for n in overall(found.get("numbers") or []) if n.get("headline")]
            shares = [n for n in own if not is_change(n) and list(n.get("range") or []) == [0, 1]]
            for name in dict.fromkeys(n["name"] for n in shares):
                mine = [n for n in shares if n["name"] == name]
                first = next((n["condition"] for n in mine if known(n.get("value"))), None)
                values = {n["arm"]: n for n in mine if n["condition"] == first}
                if values:
                    what = f"{name} ({first})" if first else name
                    rows.append((f"{name}, {suite}" if any(name == other for other, _ in rows) else name, values))
                    body.append((f"{suite}: {what}", [self.cell(section, suite, values.get(arm)) for arm in self.arms]))
        if len(rows) < 2:
            return []
        figure = self._dots("all suites", "headline shares", rows, "share")
        return [figure, Table("Headline shares", ["measure", *self.arms.values()], body, folded="The numbers")]

    def cell(self, section: Section, suite: str, n: Mapping[str, Any] | None, *, heat: bool = False) -> Cell:
        """A number as a cell; what has no value says why in a note."""
        if n is None:
            return Cell("–", absent=True)
        change = is_change(n)
        link = self.anchors.find(suite, n["condition"] or "", n["arm"], n.get("trait"))
        rest: dict[str, Any] = {**link, "unscored": n.get("unscored") or 0}
        if not known(n.get("value")):
            why = n.get("why") or "no reason was recorded"
            word = "floor" if why.startswith(FLOOR) else "no value"
            return Cell(word, note=section.note(why), absent=True, **rest)
        # What has no test is no difference, as a correlation is none.
        differs = change and (known(n.get("p")) or known(n.get("detectable")))
        text, _, interval = in_words(n, signed=differs).partition(" ")
        said = [n["note"]] if n.get("note") else []
        if not known(n.get("low")) or not known(n.get("high")):
            interval = "(no interval)"
            few = (n.get("clusters") or 0) < 2
            said.append(
                n.get("why") or ("one question alone has no interval" if few else "no interval could be computed")
            )
        note = section.note("; ".join(said)) if said else None
        shade = None
        if heat and list(n.get("range") or []) == [0, 1]:
            shade = round(100 * min(1.0, max(0.0, n["value"])))
        return Cell(text, "" if heat else interval, note=note, star=change and clear(n), shade=shade, **rest)

    def _columns(self, numbers: Sequence[Mapping[str, Any]]) -> list[str]:
        present = {n["arm"] for n in numbers}
        return [a for a in self.arms if a in present] + sorted(present - set(self.arms))

    def _measure(
        self, section: Section, blocks: list[Any], suite: str, name: str, numbers: Sequence[dict[str, Any]]
    ) -> None:
        """Conditions down, arms across, and how the trained arm changed; then every number with its test."""
        numbers = overall(numbers)
        if not numbers:
            return
        found = lines(numbers, self.all_arms)
        # Beside levels, what one condition is less another has a table of its own, but for headlines.
        apart = [
            line
            for line in found
            if line.within and line.cells and not any(n.get("headline") for n in line.cells.values())
        ]
        if all(line in apart or not line.cells for line in found):
            apart = []
        arms = self._columns([n for line in found for n in line.cells.values()])
        compared = list(dict.fromkeys(pair for line in found for pair in line.changes))
        mine = [pair for pair in compared if pair[0] == self.final]
        # Where only changes were measured, or another arm's, they are what there is to show.
        shown = mine if arms and mine else compared
        head = [self.arms.get(arm, arm) for arm in arms]
        changed = [f"{arm}, {relation(against, numbers, self.all_arms)}" for arm, against in shown]

        def row(line: Line) -> tuple[str, list[Cell]]:
            return line.name, [self.cell(section, suite, line.cells.get(arm)) for arm in arms]

        body = [
            (name, cells + [self.cell(section, suite, line.changes.get(pair)) for pair in shown])
            for line in found
            if line not in apart
            for name, cells in [row(line)]
        ]
        rest = [row(line) for line in apart]
        said = [f"{_TERMS[name][0].upper()}{_TERMS[name][1:]}"] if name in _TERMS else []
        said += _better(numbers)
        if any(cell.star for _, cells in [*body, *rest] for cell in cells):
            said.append("★: the change is clear, p adjusted for all changes of this suite is below 0.05.")
        blocks.append(Table(name, ["condition", *head, *changed], body, " ".join(said)))
        if rest:
            title = f"{name}: one condition less another"
            blocks.append(Table(title, ["condition", *head], rest, folded=f"“{name}”, one condition less another"))
        blocks.append(self._tests(section, suite, name, numbers))

    def _tests(self, section: Section, suite: str, name: str, numbers: Sequence[dict[str, Any]]) -> Table:
        def plain(value: Any) -> Cell:
            return Cell(plots.fixed(value, 3)) if known(value) else Cell("–", absent=True)

        body = []
        for n in numbers:
            what = self._says(n, numbers)
            counts = [Cell(str(n.get(k) or 0)) for k in ("n", "clusters", "unscored")]
            tests = [plain(n.get(k)) for k in ("p", "adjusted", "detectable")]
            body.append((what, [self.cell(section, suite, {**n, "unscored": 0}), *counts, *tests]))
        head = ["number", "value", "values", "questions", "unscored", "p", "adjusted p", "would have been seen"]
        caption = (
            "Adjusted: for all changes of this suite (Benjamini-Hochberg). Would have been seen: the smallest true change that "
            "these data show with 80% power; a change that is not clear may still be as large."
        )
        return Table(f"{name}: counts and tests", head, body, caption, f"Counts and tests of “{name}”", aside=True)

    def _profile_of_conditions(
        self, section: Section, suite: str, name: str, numbers: Sequence[dict[str, Any]]
    ) -> None:
        levels = [n for n in overall(numbers) if not is_change(n) and list(n.get("range") or []) == [0, 1]]
        conditions = list(dict.fromkeys(n["condition"] for n in levels))
        if len(conditions) < 3 or not any(known(n.get("value")) for n in levels):
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
        levels = [n for n in own if not is_change(n)]
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
        columns += list(dict.fromkeys((n["condition"], n["arm"], n["against"]) for n in own if is_change(n)))
        if columns:
            found = {(n["trait"], n["condition"], n["arm"], n.get("against")): n for n in own}
            several = len({c for c, _, _ in columns}) > 1
            head = [
                (f"{c}: " if several else "")
                + (f"{a}, {relation(against, numbers, self.all_arms)}" if against is not None else a)
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
        found = {(n["trait"], n["condition"], n["arm"]): n for n in numbers if not is_change(n)}
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
            mine = [n for n in levels if n["arm"] == arm and known(n.get("value"))]
            if not mine:
                continue
            mine.sort(key=lambda n: -n["value"])
            ends = [n[k] for n in mine for k in ("value", "low", "high") if known(n.get(k))]
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
        return Figure(Markup(svg), f"{title}. Upright lines: 95% intervals, where there are any.")  # noqa: S704

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
            there = known(change["value"])
            why = section.note(gate["why"]) if gate.get("why") else None
            verdict = str(gate.get("verdict"))
            text, _, interval = in_words(change, signed=True).partition(" ") if there else ("no value", "", "")
            cells = [
                Cell(signs.get(verdict, verdict), note=why, absent=verdict == FLOOR, **link),
                Cell(text, interval, absent=not there, unscored=gate.get("unread") or 0, **link),
                _number(gate.get("bound")),
                _number(-gate["margin"] if known(gate.get("margin")) else None),
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
            "would have been seen",
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
                request, reply = cut(item.get("request")), cut(item.get("text"))
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
                if not known(m.get("accuracy")):
                    note = section.note("nothing that was foretold could be held against what was done")
                    cells.append(Cell("no value", note=note, absent=True, **link))
                    continue
                over = m.get("over mode")
                mode = f"{plots.fixed(over)} over the mode, " if known(over) else ""
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
                    if not known(value):
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
                # Without its fellows a number with a value and something it is against is a difference.
                name += f", {relation(n['against'], [{**n, 'detectable': 0}], self.all_arms)}" if is_change(n) else ""
                if suite is not None:
                    numbers.append((name, self.cell(section, suite, {"condition": "", **n})))
                else:
                    numbers.append((name, Cell(in_words(n) if known(n.get("value")) else n.get("why") or "no value")))
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
    if value is None or not known(value.get("value")):
        return None
    ends = {end: value[end] if known(value.get(end)) else None for end in ("low", "high")}
    return {"value": value["value"], **ends, "n": value.get("n") or 0}


def _number(value: Any, digits: int = 2) -> Cell:
    return Cell(plots.fixed(value, digits)) if known(value) else Cell("–", absent=True)


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
        (key, [Cell(cut(scalar(inner.get(c)), 300), absent=inner.get(c) is None) for c in columns])
        for key, inner in lines
    ]
    return Table(title, ["entry", *columns], body, folded=f"Details: {title}", aside=len(body) > _LONG)


def titles(data: Mapping[str, Any]) -> dict[str, str]:
    """Of each trait what a reader calls it."""
    return {trait["id"]: trait.get("title") or trait["id"] for trait in data["traits"] or []}
