"""A number of an evaluation or a comparison in words: with its interval, what it is against, and whether it is clear."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from charforge.compare import CLEAR
from charforge.report import plots


def known(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def measured(number: Mapping[str, Any] | None) -> bool:
    """An estimate of nothing is None, or (from a judge without pairs) not a number."""
    return number is not None and known(number.get("value"))


def in_words(number: Mapping[str, Any] | None, *, signed: bool = False, digits: int = 2) -> str:
    """`0.93 [0.88, 0.96]`; a change has its sign."""
    if number is None or not measured(number):
        return "not measured"
    shown = plots.interval({"low": None, "high": None, **number}, digits)
    return f"+{shown}" if signed and number["value"] >= 0.5 * 10**-digits else shown


def overall(numbers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are about no single trait."""
    return [n for n in numbers if n.get("trait") is None]


def is_change(number: Mapping[str, Any]) -> bool:
    return number.get("against") is not None


def clear(number: Mapping[str, Any]) -> bool:
    """Whether the adjusted p of a change says that there is one."""
    return known(number.get("adjusted")) and number["adjusted"] < CLEAR


@dataclass(frozen=True)
class Line:
    """A line of a measure's table: a condition, or what the arms are in it less what they are in another one."""

    name: str
    cells: dict[str, Mapping[str, Any]]
    """The number of each arm."""
    changes: dict[tuple[str, str], Mapping[str, Any]]
    """Of an arm, from another arm."""
    within: bool
    """Whether the cells are differences between two conditions."""


def lines(numbers: Sequence[Mapping[str, Any]], arms: Collection[str]) -> list[Line]:
    """One measure's numbers line by line. `arms`: what is an arm; all else that a number is against is a condition.

    A change between two arms stands beside the levels of its condition. Where a condition has no level, as a measure may be a
    difference by nature, it stands beside that difference.
    """
    found: dict[tuple[str, str | None], Line] = {}

    def line(condition: str, inner: str | None) -> Line:
        if (condition, inner) not in found:
            name = condition or "all"
            name = f"{name} {relation(inner, numbers, arms)}" if inner is not None else name
            found[condition, inner] = Line(name, {}, {}, inner is not None)
        return found[condition, inner]

    for condition in dict.fromkeys(n["condition"] for n in numbers):
        here = [n for n in numbers if n["condition"] == condition]
        inner = [n["against"] for n in here if is_change(n) and n["against"] not in arms]
        beside = inner[0] if inner and all(is_change(n) for n in here) else None
        for n in here:
            if not is_change(n):
                line(condition, None).cells[n["arm"]] = n
            elif n["against"] in arms:
                line(condition, beside).changes[n["arm"], n["against"]] = n
            else:
                line(condition, n["against"]).cells[n["arm"]] = n
    return list(found.values())


def relation(against: str, numbers: Iterable[Mapping[str, Any]], arms: Collection[str]) -> str:
    """What a number is to that which it is against, after the name of its arm or condition: "change from untrained",
    "minus “plain”". What has no level and no test is no difference, as a correlation is none."""
    differs = any(not is_change(n) or known(n.get("p")) or known(n.get("detectable")) for n in numbers)
    if against in arms:
        return f"change from {against}" if differs else f"against {against}"
    return f"minus “{against}”" if differs else f"against “{against}”"
