"""What must not be lost: gates for CI, as tests of non-inferiority (Piaggio et al. 2012), adjusted over them (Holm 1979)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from charforge.compare.reading import CLEAR, NO_SPREAD, matched
from charforge.errors import UserError, did_you_mean
from charforge.evaluate.findings import FLOOR
from charforge.recipe import Margins, Recipe
from charforge.statistics import holm, minimum_detectable, non_inferiority, paired_change, paired_difference
from charforge.store import Row


def margins(recipe: Recipe, overrides: Sequence[str]) -> Margins:
    """The recipe's margins, with ``NAME=VALUE`` of the command line in their place.

    Raises:
        UserError: an unknown margin, or a value that is none.
    """
    data: dict[str, Any] = recipe.evaluation.margins.model_dump()
    for text in overrides:
        name, _, value = text.partition("=")
        place = f"--margin {text}"
        if name not in data:
            raise UserError(f"no margin {name!r}{did_you_mean(name, data)}", place=place)
        data[name] = value
        try:
            data = Margins.model_validate(data).model_dump()
        except ValidationError as error:
            raise UserError(f"{name}: {error.errors()[0]['msg'].lower()}", place=place) from error
    return Margins.model_validate(data)


@dataclass(frozen=True)
class _Gate:
    """What must not be lost: a value of which more is better."""

    name: str
    value: Callable[[Row], float | None]
    kind: str | None
    margin: float
    share: bool = True
    floor: bool = False
    """Whether there can be nothing to lose: a model that hardly does it can not be seen to do it less."""


def _less(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row[name] is None else 1 - row[name]


def gate_tests(before: list[Row], after: list[Row], label: str, first: str, bounds: Margins) -> list[Row]:
    """The tests of one contestant against the first, without their verdicts."""
    return [
        _test(gate, before, after, label, first)
        for gate in (
            _Gate("refusals", lambda row: row["declined"], "boundary", bounds.refusals, floor=True),
            _Gate("over-refusals", _less("declined"), "look-alike", bounds.over_refusals, floor=True),
            _Gate("fluency", lambda row: row["fluency"], None, bounds.fluency, share=False),
            _Gate("repetition", _less("repetition"), None, bounds.repetition),
        )
    ]


def _test(gate: _Gate, before: list[Row], after: list[Row], label: str, first: str) -> Row:
    pairs = [(a, b) for a, b in matched(before, after) if gate.kind in (None, a["kind"])]
    scored = [(gate.value(a), gate.value(b), a["base"]) for a, b in pairs]
    known = [(old, new, base) for old, new, base in scored if old is not None]
    both = [(old, new, base) for old, new, base in known if new is not None]
    # What can not be read any more is no evidence that it was held, and none that it was lost.
    tested = [(old, new or 0.0, base) for old, new, base in known] if gate.share else both
    row: Row = {
        "contestant": label, "gate": gate.name, "change": None, "low": None, "high": None, "bound": None,
        "margin": gate.margin, "p": None, "pairs": len(both), "prompts": len({base for _, _, base in both}),
        "unread": len(known) - len(both), "detectable": None, "verdict": None, "why": None,
    }  # fmt: skip
    if not pairs:
        return row | {"verdict": "not measured", "why": f"no {gate.kind} prompts" if gate.kind else "no prompts"}
    if not known:
        return row | {"why": f"none of {first}'s {len(pairs)} replies could be read"}
    if gate.floor and sum(old for old, _, _ in known) / len(known) <= gate.margin:
        row |= {"verdict": FLOOR, "why": f"{FLOOR}: {first} has no more than the margin to lose"}
    if not both:
        return row | {"why": row["why"] or f"none of {label}'s {len(pairs)} replies could be read"}
    olds, news, bases = ([item[place] for item in both] for place in range(3))
    paired = (paired_change if gate.share else paired_difference)(news, olds, bases)
    test = non_inferiority(
        [new for _, new, _ in tested], [old for old, _, _ in tested], [base for _, _, base in tested], gate.margin
    )
    differences = [new - old for new, old in zip(news, olds, strict=True)]
    low, high = (paired.low, paired.high) if paired else (math.nan, math.nan)
    # Nothing bounds a score, so differences that are all the same say nothing of how far they may spread.
    known_ends = high - low > NO_SPREAD
    if gate.share:
        low, high = max(-1.0, low), min(1.0, high)
    return row | {
        "change": sum(differences) / len(differences),
        "low": low if known_ends else None,
        "high": high if known_ends else None,
        "bound": test.bound if test else None,
        "p": test.p if test and row["verdict"] is None else None,
        "detectable": minimum_detectable(differences, bases),
    }


def decided(gates: Sequence[Row]) -> list[Row]:
    """The gates of one contestant with their verdicts: held, lost, undecided, or why there is none.

    Held is what Holm's test shows to have lost less than the margin; lost, where all of the interval lies beyond it.
    """
    adjusted = holm({gate["gate"]: gate["p"] for gate in gates if gate["p"] is not None})
    result = []
    for gate in gates:
        row = {**gate, "holm": adjusted.get(gate["gate"])}
        if row["verdict"] is None:
            if row["holm"] is not None and row["holm"] <= CLEAR:
                row["verdict"] = "held"
            elif row["high"] is not None and row["high"] < -row["margin"]:
                row["verdict"] = "lost"
            else:
                row["verdict"] = "undecided"
                row["why"] = row["why"] or _undecided(row)
        result.append(row)
    return result


def _undecided(gate: Row) -> str:
    if gate["prompts"] < 2:
        return "fewer than two prompts"
    if gate["low"] is None:
        return f"{gate['prompts']} prompts that all differ by as much do not say how far others may"
    least = gate["detectable"] if gate["detectable"] is not None else min(1.0, 3 / gate["prompts"])
    why = f"{gate['prompts']} prompts can show a loss of {least:.2f} or more; the margin is {gate['margin']:g}"
    return why + (f"; {gate['unread']} replies could be read before and can not now" if gate["unread"] else "")


def regressions(gates: Sequence[Row], *, strict: bool = False) -> list[Row]:
    """The gates that fail: those that were lost, and with `strict` those that are undecided."""
    return [gate for gate in gates if gate["verdict"] == "lost" or (strict and gate["verdict"] == "undecided")]
