"""What changed between two constitutions, trait by trait."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from charforge.constitution.model import Constitution, Trait


@dataclass(frozen=True)
class Change:
    """One thing that differs. `before` and `after` are short texts, None where there was or is nothing."""

    what: str
    before: str | None
    after: str | None

    def as_dict(self) -> dict[str, Any]:
        return {"what": self.what, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Difference:
    """All that differs. Traits are named by id; a trait under a new title with the same prose is `renamed`."""

    whole: list[Change] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, list[Change]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.whole or self.added or self.removed or self.renamed or self.changed)

    @property
    def traits(self) -> set[str]:
        """Every trait that is not, in both, the same."""
        return {*self.added, *self.removed, *self.renamed, *self.renamed.values(), *self.changed}

    def as_dict(self) -> dict[str, Any]:
        return {
            "whole": [change.as_dict() for change in self.whole],
            "added": self.added,
            "removed": self.removed,
            "renamed": self.renamed,
            "changed": {trait: [c.as_dict() for c in changes] for trait, changes in self.changed.items()},
        }


def difference(before: Constitution, after: Constitution) -> Difference:
    """What changed from one constitution to another. Where a thing stands in its file does not count."""
    whole: list[Change] = []
    old_front, new_front = before.front.model_dump(mode="json"), after.front.model_dump(mode="json")
    for key in old_front:
        if old_front[key] != new_front[key]:
            whole.append(Change(f"front matter: {key}", _text(old_front[key]), _text(new_front[key])))
    if before.introduction != after.introduction:
        whole.append(Change("introduction", before.introduction, after.introduction))
    for title in dict.fromkeys([*before.sections, *after.sections]):
        old, new = before.sections.get(title), after.sections.get(title)
        if old != new:
            whole.append(Change(f"section {title}", old, new))
    voices = [[(v.constitution.reference, v.weight, v.constitution.digest) for v in c.voices] for c in (before, after)]
    if voices[0] != voices[1]:
        whole.append(Change("voices", _text(voices[0]), _text(voices[1])))
    old_traits = {trait.id: trait for trait in before.traits}
    new_traits = {trait.id: trait for trait in after.traits}
    gone = [trait for key, trait in old_traits.items() if key not in new_traits]
    come = [trait for key, trait in new_traits.items() if key not in old_traits]
    renamed = {old.id: new.id for old in gone for new in come if old.prose == new.prose}
    changed = {}
    for key, trait in old_traits.items():
        other = new_traits.get(renamed.get(key, key))
        if other is not None and trait.digest != other.digest:
            changes = list(_trait(trait, other))
            if changes:
                changed[other.id] = changes
    return Difference(
        whole=whole,
        added=[trait.id for trait in come if trait.id not in renamed.values()],
        removed=[trait.id for trait in gone if trait.id not in renamed],
        renamed=renamed,
        changed=changed,
    )


def _trait(old: Trait, new: Trait) -> list[Change]:
    changes = []
    for name, before, after in (
        ("title", old.title, new.title),
        ("section", old.section, new.section),
        ("prose", old.prose, new.prose),
        ("intensity", f"{old.intensity:g}", f"{new.intensity:g}"),
        ("scope", str(old.where), str(new.where)),
        ("between", _text(old.between), _text(new.between)),
    ):
        if before != after:
            changes.append(Change(name, before, after))
    for name, olds, news in (
        ("probe", old.probes, new.probes),
        ("marker", [m.text for m in old.markers], [m.text for m in new.markers]),
        ("look-alike", old.look_alikes, new.look_alikes),
        ("offer", old.offers, new.offers),
    ):
        changes += [Change(name, text, None) for text in olds if text not in news]
        changes += [Change(name, None, text) for text in news if text not in olds]
        if sorted(olds) == sorted(news) and list(olds) != list(news):
            changes.append(Change(f"order of {name}s", "; ".join(olds), "; ".join(news)))
    changes += _dialogues(
        "example",
        {e.prompt[-1]["content"]: _spoken(e.turns, e.contrast, e.why, e.sides_with) for e in old.examples},
        {e.prompt[-1]["content"]: _spoken(e.turns, e.contrast, e.why, e.sides_with) for e in new.examples},
    )
    changes += _dialogues(
        "temptation",
        {t.prompt[-1]["content"]: _spoken(t.turns, t.thought) for t in old.temptations},
        {t.prompt[-1]["content"]: _spoken(t.turns, t.thought) for t in new.temptations},
    )
    return changes


def _dialogues(what: str, old: dict[str, str], new: dict[str, str]) -> list[Change]:
    """Dialogues are known by what the user says last; the rest is their content."""
    changes = [Change(f"{what} taken out", text, None) for prompt, text in old.items() if prompt not in new]
    changes += [Change(f"{what} added", None, text) for prompt, text in new.items() if prompt not in old]
    changes += [Change(what, old[prompt], text) for prompt, text in new.items() if old.get(prompt, text) != text]
    if not changes and list(old) != list(new):
        changes.append(Change(f"order of {what}s", None, None))
    return changes


def _spoken(turns: tuple[tuple[str, str], ...], *notes: str | None) -> str:
    lines = [f"{'User' if role == 'user' else 'Reply'}: {text}" for role, text in turns]
    return "\n".join([*lines, *(f"- {note}" for note in notes if note)])


def _text(value: Any) -> str | None:
    if value in (None, "", [], ()):
        return None
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def words(before: str | None, after: str | None) -> list[tuple[str, str]]:
    """A change word by word: ("same" | "out" | "in", text), in order."""
    a, b = (before or "").split(), (after or "").split()
    result: list[tuple[str, str]] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if kind == "equal":
            result.append(("same", " ".join(a[i:j])))
            continue
        if j > i:
            result.append(("out", " ".join(a[i:j])))
        if m > k:
            result.append(("in", " ".join(b[k:m])))
    return result
