"""The rows of an evaluation as its page shows them, and the places in it that the numbers link to."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from charforge.constitution.model import slugify
from charforge.evaluate.answers import PROMPTED
from charforge.report import plots
from charforge.report.numbers import known
from charforge.report.page import cut, label, words

_ROOM = 12_000_000
"""About as many bytes of rows a browser shows without delay."""
_HIDDEN = {
    "arm", "base", "condition", "kind", "suite", "key", "messages", "document", "rendered", "text", "tokens", "finish",
    "sample", "prefill", "prefill_tokens", "question", "options", "orders", "form", "words", "trait", "turn", "speaker",
    "partner",
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A row as the page shows it."""

    about: str
    said: str
    reply: str
    empty: str
    scores: str
    trait: str
    kind: str
    outcome: str
    order: tuple[Any, ...]
    key: str

    @property
    def size(self) -> int:
        texts = (self.about, self.said, self.reply, self.empty, self.scores)
        return 260 + sum(len(html.escape(text).encode()) for text in texts)


@dataclass
class Group:
    """The rows of one suite, condition and arm; parts are (id, trait, rows)."""

    id: str
    arm: Any
    total: int
    left_out: int
    parts: list[tuple[str | None, str, list[Shown]]]


class Anchors:
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
            result.append((suite, self.ids[(suite,)], count, cut(told[suite], 8000), here))
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
        about.append(f"system message: “{cut(system, 600)}”")
    before = len(messages) - (system is not None) - 1
    if row.get("kind") != "encounter" and before > 0:
        about.append(f"after {before} earlier message{'s' if before > 1 else ''}")
    if row.get("prefill"):
        about.append(f"the reply was begun for it: “{cut(row['prefill'], 300)}”")
    if row.get("document"):
        said = row["document"].removeprefix(told).lstrip() if told else row["document"]
        about.append("a document to go on with")
    reply, empty = row.get("text") or "", "(an empty reply)"
    if row.get("kind") == "choice":
        said, reply = _choice(row)
    elif row.get("kind") == "text":
        empty = "(an empty text)"
        about.append(
            f"a text that was weighed: mean log p {plots.fixed(row['mean'])}" if known(row.get("mean")) else "weighed"
        )
    if row.get("finish") == "length":
        about.append("cut at the token limit")
    key = str(row.get("key") or "")
    about.append(f"sample {row['sample']}" if row.get("sample") is not None else "")
    about.append(f"key {key[:12]}" if key else "")
    order = (str(row.get("trait") or ""), str(row.get("base") or ""), row.get("sample") or 0, row.get("turn") or 0, key)
    shown = "" if reply.strip() else empty
    trait = str(row["trait"]) if row.get("trait") is not None else ""
    what = " · ".join(filter(None, about))
    return Shown(what, cut(said), cut(reply), shown, _scores(row), trait, kind(row), outcome(row), order, key)


def kind(row: Mapping[str, Any]) -> str:
    return words(str(row.get("kind") or "row"))


def outcome(row: Mapping[str, Any]) -> str:
    """What became of it in a word, where there is one: as it was read, whether the voice held, whether a choice was made."""
    if isinstance(row.get("outcome"), str):
        return words(row["outcome"])
    if isinstance(row.get("held"), bool):
        return "held" if row["held"] else "not held"
    if row.get("kind") == "choice":
        return "answered" if row.get("p") else "no answer"
    return ""


def _choice(row: Mapping[str, Any]) -> tuple[str, str]:
    """A question with its options, and what was chosen."""
    options = row.get("options") or {}
    said = "\n".join([row.get("question") or "", *(f"– {text}" for text in options.values())])
    if not row.get("p"):
        mass = (
            f"the labels hold {plots.fixed(row['mass'])} of the probability"
            if known(row.get("mass"))
            else "not answered"
        )
        return said, f"floor: no answer, {mass}"
    shares = sorted(row["p"].items(), key=lambda item: -(item[1] or 0))
    return said, "\n".join(f"{plots.fixed(p) if known(p) else 'none'}  {options.get(key, key)}" for key, p in shares)


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
            if value and all(known(v) or isinstance(v, str) for v in value):
                parts.append(f"{name} {', '.join(scalar(v) for v in value)}")
        elif not isinstance(value, str) or len(value) <= 80:
            parts.append(f"{name} {scalar(value)}")

    for name in sorted(set(row) - _HIDDEN):
        if not (name == "p" and row.get("kind") == "choice"):
            add(name, row[name])
    return label(" · ".join(parts), 900)


def scalar(value: Any) -> str:
    if value is None or value != value:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        plots.fixed(value)
        if isinstance(value, float) and not value.is_integer()
        else f"{value:g}"
        if known(value)
        else str(value)
    )
