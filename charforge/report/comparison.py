"""comparison.html: what differs between several contestants, beside what was changed in their constitutions.

The data are those of comparison.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from charforge.evaluate.findings import FLOOR
from charforge.report import plots
from charforge.report.numbers import clear
from charforge.report.numbers import in_words as text
from charforge.report.page import GLYPHS, recipe, render
from charforge.report.text import visible_within

# Figures of every pair would make the page of many contestants slow to write and long to read.
_MOST_FIGURES = 2
# Of so many pairs the summary tells in words; of more it has a table, and each pair tells its own.
_MOST_PAIRS = 3
VERDICTS = {
    "held": "✓ held",
    "lost": "✗ lost",
    "undecided": "? undecided",
    FLOOR: "floor",
    "not measured": "not measured",
}
GROUPS = (
    ("shown", "Changed, and it shows"),
    ("silent", "Changed, and nothing shows"),
    ("moved", "Untouched, and moved"),
)


def page(data: dict[str, Any]) -> str:
    """The comparison as one HTML file, from the data of comparison.json."""
    clean = visible_within(data)
    arms = _arms(clean)
    values = {
        "r": clean,
        "arms": list(arms.values()),
        "names": _names(list(arms)),
        "given": [
            *((arm["label"], arm["reference"]) for arm in arms.values()),
            ("margins", ", ".join(f"{name} {margin}" for name, margin in clean["provenance"]["margins"].items())),
        ],
        "first": next(iter(arms.values())),
        "titles": {trait["id"]: trait["title"] for trait in clean["traits"]},
        "summary": summary(clean),
        "heat": _heat(clean, list(arms)[1:]),
        "choices": _choices(clean),
        "most": _MOST_PAIRS,
        "pairs": [_pair(clean, arms, number, label) for number, label in enumerate(list(arms)[1:])],
        "strengths": _strengths(clean),
        "levels": _levels(clean, list(arms)),
        "groups": GROUPS,
        "verdicts": VERDICTS,
        "recipe": recipe(data["provenance"]["recipe"]),
    }
    return render("comparison.html.jinja", values, text=text, small=_small, p=_p, clear=clear)


def _names(labels: Sequence[str], most: int = 3) -> str:
    """What is compared, short enough for a title."""
    if len(labels) > most:
        return f"{labels[0]} and {len(labels) - 1} others"
    return " and ".join([", ".join(labels[:-1]), labels[-1]])


def _arms(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The contestants with the role that gives each its shape and colour: the first is what the others are held against."""
    found = data["contestants"]
    arms = {}
    for place, contestant in enumerate(found):
        role = "base" if place == 0 else "final" if place == len(found) - 1 else "middle"
        named = {"id": contestant["label"], "reference": contestant["id"]}
        arms[contestant["label"]] = {**contestant, **named, "role": role, "glyph": GLYPHS[role]}
    return arms


def _small(value: float | None) -> str:
    return "–" if value is None else plots.fixed(value, 3 if abs(value) < 0.1 else 2)


def _p(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else _small(value)


def _pair(data: dict[str, Any], arms: Mapping[str, Any], number: int, label: str) -> dict[str, Any]:
    """All that the page shows of one contestant against the first."""
    changes = [change for change in data["changes"] if change["contestant"] == label]
    effect = next(found for found in data["constitutions"] if found["contestant"] == label)
    told = {row["trait"]: name for name, _ in GROUPS[:2] for row in effect[name]}
    wins = [win for win in data["wins"] if win["contestant"] == label]
    levels = {(n["contestant"], n["measure"]): n for n in data["levels"] if n["trait"] is None}
    traits = [
        {
            "id": trait["id"],
            "title": trait["title"],
            "differs": trait["differs"],
            "measured_by": trait["measured_by"],
            "changed": trait["id"] in told,
            "changes": [change for change in changes if change["trait"] == trait["id"]],
            "wins": [win for win in wins if win["trait"] == trait["id"]],
        }
        for trait in data["traits"]
    ]
    return {
        "id": f"pair-{number + 1}",
        "arm": arms[label],
        "overall": [
            (change, *(levels.get((who, change["measure"])) for who in (next(iter(arms)), label)))
            for change in changes
            if change["trait"] is None
        ],
        "starred": sum(clear(change) for change in changes),
        "tested": sum(change["p"] is not None for change in changes),
        "wins": [win for win in wins if win["trait"] is None],
        "traits": traits,
        "gates": [gate for gate in data["gates"] if gate["contestant"] == label],
        "effect": effect,
        "forest": _forest(number, label, traits) if len(arms) - 1 <= _MOST_FIGURES else None,
    }


def _heat(data: dict[str, Any], labels: Sequence[str]) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """Of each trait the change of its markers in every contestant; of a trait without markers that of its first measure."""
    found = []
    for trait in data["traits"]:
        mine = [change for change in data["changes"] if change["trait"] == trait["id"] and change["value"] is not None]
        names = list(dict.fromkeys(change["measure"] for change in mine))
        if not names:
            continue
        measure = "markers" if "markers" in names else names[0]
        by_label = {change["contestant"]: change for change in mine if change["measure"] == measure}
        title = trait["title"] if measure == "markers" else f"{trait['title']} ({measure})"
        found.append((title, [by_label.get(label) for label in labels]))
    return found


def _choices(data: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What the most changed replies can be filtered by."""
    shown = data["most_changed"]
    traits, kinds = ({item[key] for item in shown} for key in ("trait", "kind"))
    arms = list(dict.fromkeys(reply["contestant"] for item in shown for reply in item["replies"]))
    outcomes = {reply["outcome"] for item in shown for reply in item["replies"] if reply["outcome"]}
    return [
        ("trait", "trait", [(trait["id"], trait["title"]) for trait in data["traits"] if trait["id"] in traits]),
        ("kind", "kind of prompt", [(kind, kind) for kind in sorted(kinds)]),
        ("arm", "contestant", [(arm, arm) for arm in arms]),
        ("outcome", "outcome", [(outcome, outcome) for outcome in sorted(outcomes)]),
    ]


def _forest(number: int, label: str, traits: Sequence[Mapping[str, Any]]) -> Markup | None:
    rows = [
        (trait["title"], change)
        for trait in traits
        for change in trait["changes"]
        if change["measure"] == "markers" and change["value"] is not None
    ]
    if not rows:
        return None
    figure = plots.forest(
        f"traits-{number}",
        f"Change of the share of each trait's markers, {label} against the first, with 95% intervals. The table below "
        "holds the numbers.",
        rows,
        axis="change of the share of markers; 0: no difference",
        reference=0.0,
        limits=(-1.0, 1.0),
        total=False,
    )
    return Markup(figure)  # noqa: S704


def _strengths(data: dict[str, Any]) -> Markup | None:
    found = data["strengths"]
    if not found:
        return None
    known = [item for item in found["items"] if item["value"] is not None]
    if not known:
        return None
    ends = [abs(item[end]) for item in known for end in ("value", "low", "high") if item[end] is not None]
    most = max(1.0, *ends) * 1.05
    rows = [(item["contestant"], {**item, "n": found["comparisons"]}) for item in known]
    figure = plots.forest(
        "strengths",
        "Bradley-Terry strength of each contestant, with 95% intervals.",
        rows,
        axis="strength in log odds; the mean is 0",
        reference=0.0,
        limits=(-most, most),
        total=False,
    )
    return Markup(figure)  # noqa: S704


def _levels(data: dict[str, Any], labels: Sequence[str]) -> list[tuple[str, str | None, list[Any]]]:
    """(measure, trait, the number of each contestant)."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for number in data["levels"]:
        found.setdefault((number["measure"], number["trait"]), {})[number["contestant"]] = number
    return [(*name, [numbers.get(label) for label in labels]) for name, numbers in found.items()]


# --- the summary ------------------------------------------------------------------------------------------------------


def summary(data: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The findings in plain words, one contestant after the other; what does not show is said as well."""
    first = data["contestants"][0]["label"]
    titles = {trait["id"]: trait["title"] for trait in data["traits"]}
    result = []
    for contestant in data["contestants"][1:]:
        label = contestant["label"]
        changes = [c for c in data["changes"] if c["contestant"] == label]
        told = [*_on_changes(changes, titles), *_on_wins(data, label, first), *_on_votes(data, label, first)]
        effect = next(found for found in data["constitutions"] if found["contestant"] == label)
        told += [*_on_effect(effect), *_on_gates(g for g in data["gates"] if g["contestant"] == label)]
        result.append((f"{label} against {first}", told))
    return result


def _on_changes(changes: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Iterable[str]:
    moved = [c for c in changes if clear(c)]
    if not moved:
        tested = sum(c["p"] is not None for c in changes)
        yield f"Of {tested} differences none is clear."
        return
    overall = [f"{c['measure']} {text(c, signed=True)}" for c in moved if c["trait"] is None]
    if overall:
        yield f"Clear over all prompts: {'; '.join(overall)}."
    traits = [
        f"{titles.get(c['trait'], c['trait'])} ({c['measure']}) {text(c, signed=True)}"
        for c in moved
        if c["trait"] is not None
    ]
    yield f"Clear in traits: {'; '.join(traits)}." if traits else "In no single trait is a difference clear."


def _on_wins(data: Mapping[str, Any], label: str, first: str) -> Iterable[str]:
    for win in data["wins"]:
        if win["contestant"] == label and win["trait"] is None and win["value"] is not None:
            kind = win["judge"].replace("_", " ")
            says = f"The {kind} judge finds it more in character than {first} in {text(win)} of draws; 0.5 is no difference"
            unclear = win["low"] is not None and win["low"] <= 0.5 <= win["high"]
            yield f"{says}, and the interval includes it." if unclear else f"{says}."


def _on_votes(data: Mapping[str, Any], label: str, first: str) -> Iterable[str]:
    for pair in data["people"]["pairs"] if data["people"] else ():
        if (pair["contestant"], pair["against"]) == (label, first):
            decided = f"{pair['wins']} won, {pair['ties']} tied, {pair['losses']} lost"
            share = f"a share of {text(pair)}; 0.5 is no preference" if pair["why"] is None else pair["why"]
            yield f"Of {pair['votes']} blind votes by people in {pair['talks']} talks, {decided}: {share}."


def _on_effect(effect: Mapping[str, Any]) -> Iterable[str]:
    if effect["why"]:
        return
    if not (effect["whole"] or effect["shown"] or effect["silent"]):
        yield "Their constitutions say the same."
    for name, heading in GROUPS:
        if effect[name]:
            yield f"{heading}: {', '.join(row['title'] for row in effect[name])}."


def _on_gates(gates: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    found: dict[str, list[str]] = {}
    for gate in gates:
        found.setdefault(gate["verdict"], []).append(gate["gate"])
    words = {
        "lost": "Lost",
        "undecided": "Undecided, which is not passed",
        "held": "Held",
        FLOOR: "At the floor, nothing to lose",
        "not measured": "Not measured",
    }
    for verdict, heading in words.items():
        if verdict in found:
            yield f"{heading}: {', '.join(found[verdict])}."
