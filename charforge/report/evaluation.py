"""evaluation.html: what an evaluation found, with every row that its numbers are about.

Numbers come before words about them, and each links to its rows. A number that is not there says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charforge.evaluate.answers import PROMPTED, UNTRAINED
from charforge.evaluate.findings import FLOOR
from charforge.report import plots
from charforge.report.numbers import clear, in_words, is_change, known, lines, measured, relation
from charforge.report.page import GLYPHS, recipe, render
from charforge.report.rows import Anchors, kind, outcome
from charforge.report.tables import TRAINED, Writer, titles
from charforge.report.text import visible_within

_MANY = 4
"""Headline numbers of a suite that its words tell."""
_FEW = 10


def page(data: dict[str, Any]) -> str:
    """The evaluation as one HTML file; `charforge.report.build.evaluation` says what the data are."""
    clean = visible_within(data)
    suites = clean["suites"] or {}
    rows = {suite: found.get("rows") or [] for suite, found in suites.items()}
    arms = _arms(clean, rows)
    anchors = Anchors(rows, arms)
    writer = Writer(clean, arms, anchors)
    told = _on_suites(clean, arms)
    sections = [writer.section(suite, found, told[suite]) for suite, found in suites.items()]
    given = data["provenance"].get("recipe")
    values = {
        "r": clean,
        "arms": list(arms.values()),
        "summary": _summary(clean, arms),
        "profile": writer.profile(),
        "criteria": writer.criteria(),
        "sections": sections,
        "rows": anchors.shown(),
        "traits": titles(clean),
        "choices": _choices(clean, arms, rows),
        "recipe": recipe(given) if given else None,
    }
    return render("evaluation.html.jinja", values)


def _choices(
    data: dict[str, Any], arms: Mapping[str, Any], rows: Mapping[str, list[dict[str, Any]]]
) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What the rows can be filtered by."""
    every = [row for found in rows.values() for row in found]
    kinds, outcomes = sorted({kind(row) for row in every}), sorted({outcome(row) for row in every} - {""})
    return [
        ("suite", "suite", [(suite, suite) for suite in rows]),
        ("arm", "arm", [(arm, arm) for arm in arms]),
        ("trait", "trait", list(titles(data).items())),
        ("kind", "kind", [(word, word) for word in kinds]),
        ("outcome", "outcome", [(word, word) for word in outcomes]),
    ]


def _arms(data: dict[str, Any], rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """Every arm, those that only rows know last, with the role that gives each its shape and colour."""
    named = {arm["id"]: arm.get("title") or arm["id"] for arm in data["arms"] or []}
    for row in (row for found in rows.values() for row in found):
        named.setdefault(row["arm"], row["arm"])
    roles = {UNTRAINED: "base", PROMPTED: "prompted", TRAINED: "final"}
    found = {}
    for arm, title in named.items():
        role = roles.get(arm, "middle")
        found[arm] = {"id": arm, "title": title, "role": role, "glyph": GLYPHS[role]}
    return found


# --- the summary --------------------------------------------------------------------------------------------------


def _summary(data: dict[str, Any], arms: dict[str, dict[str, str]]) -> list[tuple[str, list[str]]]:
    """The findings in plain words, each under a heading: what is clear, what is not, and what could not be measured."""
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
    final = _final(arms)
    headlines = [
        (suite, {"condition": "", **n})
        for suite, found in (data["suites"] or {}).items()
        for n in found.get("numbers") or []
        if n.get("headline") and n.get("trait") is None and n["arm"] == final
    ]
    result += _on_changes([(suite, n) for suite, n in headlines if is_change(n)], {*arms, UNTRAINED, PROMPTED})
    gates = [
        gate
        for found in (data["suites"] or {}).values()
        if isinstance((found.get("details") or {}).get("gates"), list)
        for gate in found["details"]["gates"]
    ]
    if gates:
        result.append(("Abilities", _gated(gates, final) or ["No ability of this arm was tested."]))
    result += _on_missing([n for _, n in headlines])
    few = [(n["clusters"], suite) for suite, n in headlines if not is_change(n) and measured(n) and n.get("clusters")]
    least = min(few, default=(_FEW, ""))
    if least[0] < _FEW:
        questions = f"{least[0]} independent question{'s' if least[0] > 1 else ''}"
        result.append(("Few questions", [f"Some of these numbers rest on as few as {questions} ({least[1]})."]))
    return result


def _final(arms: Mapping[str, Any]) -> str:
    return TRAINED if TRAINED in arms or not arms else list(arms)[-1]


def _on_changes(changes: Sequence[tuple[str, Mapping[str, Any]]], arms: set[str]) -> list[tuple[str, list[str]]]:
    """Which headline changes are clear, and how many are not."""
    tested = [(suite, n) for suite, n in changes if known(n.get("adjusted"))]
    told = []
    for suite, n in tested:
        if clear(n):
            what = f"{n['name']} ({n['condition']}, {suite})" if n["condition"] else f"{n['name']} ({suite})"
            told.append(f"{what}: {relation(n['against'], [n], arms)} {in_words(n, signed=True)}{_judged(n)}.")
    rest = len(tested) - len(told)
    if told and rest:
        told.append(f"{_counted(rest, 'other headline change')} {'are' if rest > 1 else 'is'} not clear.")
    elif rest:
        told.append(
            f"None of {_counted(rest, 'headline change')} is clear. With few questions a change must be large to be."
        )
    elif not told:
        told.append("No headline change could be tested.")
    return [("What changed", [text[0].upper() + text[1:] for text in told])]


def _on_missing(numbers: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Which headline numbers have no value, by the kind of reason; each says its own in its suite."""
    missing = [n for n in numbers if not measured(n)]
    if not missing:
        return []
    told = [f"{len(missing)} of {_counted(len(numbers), 'headline number')} have no value."]
    floors = list(dict.fromkeys(n["name"] for n in missing if (n.get("why") or "").startswith(FLOOR)))
    others = [name for name in dict.fromkeys(n["name"] for n in missing) if name not in floors]
    if floors:
        told.append(f"At the floor, since the model did not answer what was asked: {', '.join(floors)}.")
    if others:
        told.append(f"For other reasons, which their suites say: {', '.join(others)}.")
    return [("Not measured", told)]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _on_suites(data: dict[str, Any], arms: Mapping[str, Any]) -> dict[str, list[str]]:
    """What each suite found, in a few sentences."""
    final = _final(arms)
    result = {}
    for suite, found in (data["suites"] or {}).items():
        told = _headlines(found.get("numbers") or [], final, {*arms, UNTRAINED, PROMPTED})
        gates = (found.get("details") or {}).get("gates")
        if isinstance(gates, list):
            told = [*_gated(gates, final), *told]
        result[suite] = told or ["No number of this suite is a headline; see its tables."]
    return result


def _headlines(numbers: Sequence[Mapping[str, Any]], final: str, arms: set[str]) -> list[str]:
    """A sentence for each line of the headline numbers, first one of each name; what has no value is said once for all."""
    own = [{"condition": "", **n} for n in numbers if n.get("headline") and n.get("trait") is None]
    ranked = []
    for name in dict.fromkeys(n["name"] for n in own):
        mine = [n for n in own if n["name"] == name]
        ranked += [(place, name, mine, line) for place, line in enumerate(lines(mine, arms))]
    told: list[str] = []
    lacking: dict[str, list[str]] = {}
    for _, name, mine, line in sorted(ranked, key=lambda item: item[0]):
        where = f"{name} ({line.name})" if line.name != "all" else name
        parts = []
        for arm in (final, UNTRAINED):
            n = line.cells.get(arm)
            if n is not None and measured(n):
                differs = is_change(n) and relation(n["against"], mine, arms).startswith("minus")
                tested = _tested(n) if differs and arm == final else ""
                parts.append(f"{in_words(n, signed=differs)} {arm}{tested}")
        sentence = (", and " if any(", which" in part for part in parts) else " and ").join(parts)
        changes = [n for (arm, _), n in line.changes.items() if arm == final]
        changed = [n for n in changes if measured(n)]
        from_untrained = [n for n in changed if n["against"] == UNTRAINED] or changed
        if from_untrained:
            n = from_untrained[0]
            said = relation(n["against"], mine, arms)
            start, differs = ("the", True) if said.startswith("change") else (final, False)
            said = f"{start} {said} is {in_words(n, signed=differs)}{_tested(n)}"
            sentence = f"{sentence}; {said}" if sentence else said
        gone = line.cells.get(final) or (changes[0] if changes and not changed else None)
        if gone is not None and not measured(gone):
            why = gone.get("why") or "no reason was recorded"
            if sentence:
                sentence += f"; no value {final} ({why})"
            else:
                lacking.setdefault(why, []).append(where)
        if sentence:
            told.append(f"{where[0].upper()}{where[1:]}: {sentence}.")
    nothing = [f"No value for {', '.join(names)}: {why}." for why, names in lacking.items()]
    rest = len(told) - _MANY
    more = [f"{_counted(rest, 'more headline number')} below."] if rest > 0 else []
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
    if not known(number.get("adjusted")):
        return ""
    if not clear(number):
        return f", which is not clear (adjusted p {plots.fixed(number['adjusted'])})"
    return f", which is clear{_judged(number, ' and')}"


def _judged(number: Mapping[str, Any], start: str = ",") -> str:
    """Whether a clear change is for the better, where one way is."""
    good = {"high": number["value"] > 0, "low": number["value"] < 0}.get(number.get("better") or "")
    return "" if good is None else f"{start} for the {'better' if good else 'worse'}"
