"""Findings: what a measure found, as a flat list of numbers that tables, reports and comparisons are made of.

Every number names its arm and condition, has an interval, says how many rows could not be scored, and where there is no
value says why. Changes are paired: on the same base, one arm against the untrained model, or one condition against another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from charforge.evaluate import asking
from charforge.evaluate.answers import UNTRAINED
from charforge.statistics import (
    Estimate,
    benjamini_hochberg,
    mean,
    minimum_detectable,
    paired_change,
    paired_test,
    proportion,
)
from charforge.store import Row

FLOOR = "floor"
Better = Literal["high", "low"]


@dataclass(frozen=True)
class Number:
    """One number of an evaluation."""

    name: str
    """What was measured: "held", "caving"."""
    arm: str
    estimate: Estimate | None
    condition: str = ""
    trait: str | None = None
    against: str | None = None
    """For a paired change: the arm or the condition that it is a change from."""
    unscored: int = 0
    why: str | None = None
    """Why there is no value; begins with "floor" where the model did not answer the questions at all."""
    note: str | None = None
    """What a reader of the value must know."""
    better: Better | None = None
    headline: bool = False
    p: float | None = None
    adjusted: float | None = None
    """p, adjusted for all changes of the suite (Benjamini-Hochberg)."""
    detectable: float | None = None
    """The smallest true change that would have been seen with 80% power."""
    range: tuple[float, float] | None = (0.0, 1.0)
    """Between what the value lies, for drawing; None: nothing bounds it."""

    def as_dict(self) -> Row:
        data = asdict(self)
        estimate = data.pop("estimate")
        return {**{k: _rounded(v) for k, v in data.items()}, **_estimate(estimate)}


@dataclass
class Findings:
    """What a measure found: numbers, and what else a reader wants to see (curves, matrices, the ends of talks)."""

    numbers: list[Number] = field(default_factory=list)
    details: Row = field(default_factory=dict)

    def as_dict(self) -> Row:
        """Plain data. Changes get their p adjusted for all changes of this suite."""
        tested = {str(i): n.p for i, n in enumerate(self.numbers) if n.p is not None}
        adjusted = benjamini_hochberg(tested) if tested else {}
        numbers = [replace(n, adjusted=adjusted.get(str(i))) for i, n in enumerate(self.numbers)]
        return {"numbers": [number.as_dict() for number in numbers], "details": plain(self.details)}


Value = str | Callable[[Row], float | None]


def _reader(value: Value) -> Callable[[Row], float | None]:
    return (lambda row: row.get(value)) if isinstance(value, str) else value


def arms_of(rows: Sequence[Row]) -> list[str]:
    """The arms in the order in which they were asked."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def levels(
    rows: Sequence[Row],
    value: Value,
    name: str,
    *,
    group: str = "condition",
    better: Better | None = None,
    headline: bool = False,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    trait: str | None = None,
    changes: bool = True,
) -> list[Number]:
    """For each group of rows and each arm the mean of a value, and its paired change from the untrained model.

    `value` is a field of the rows, or a function of a row; None means that the row could not be scored. Intervals cluster by
    `base`. Values in [0, 1] are proportions with an interval that holds near 0 and 1.

    Raises:
        ValueError: if a value lies outside `bounds`, or is no number.
    """
    read = _reader(value)
    found: list[Number] = []
    for label in dict.fromkeys(row.get(group, "") for row in rows):
        here = [row for row in rows if row.get(group, "") == label]
        for arm in arms_of(rows):
            mine = [row for row in here if row["arm"] == arm]
            scored = [(read(row), row["base"]) for row in mine]
            kept = [(v, base) for v, base in scored if v is not None]
            if bounds is not None and any(not bounds[0] <= v <= bounds[1] for v, _ in kept):
                raise ValueError(f"{name}: a value lies outside {bounds}")
            estimator = proportion if bounds == (0.0, 1.0) else mean
            estimate = estimator([v for v, _ in kept], [base for _, base in kept]) if kept else None
            if estimate and bounds is not None:
                low, high = max(bounds[0], estimate.low), min(bounds[1], estimate.high)
                estimate = replace(estimate, low=low, high=high)
            number = Number(name, arm, estimate, str(label), trait, better=better, headline=headline, range=bounds)
            found.append(replace(number, unscored=len(mine) - len(kept), why=_why_none(mine, len(kept))))
        if changes:
            for arm in arms_of(here):
                if arm != UNTRAINED:
                    before = [row for row in here if row["arm"] == UNTRAINED]
                    after = [row for row in here if row["arm"] == arm]
                    number = change(after, before, read, f"{name}", arm, str(label), UNTRAINED)
                    found.append(replace(number, trait=trait, better=better, headline=headline))
    return found


def silent(rows: Sequence[Row]) -> str:
    """Why choices have no value: what their labels held, too little for an answer."""
    mass = sum(row["mass"] for row in rows) / len(rows)
    return f"{FLOOR}: the answers hold {mass:.2f} of the probability, less than {asking.FLOOR:g}"


def _why_none(rows: Sequence[Row], kept: int) -> str | None:
    if kept:
        return None
    if not rows:
        return "nothing was asked"
    if any(row.get("kind") == "choice" for row in rows):
        weighed = [row for row in rows if "mass" in row]
        if weighed and max(row["mass"] for row in weighed) < asking.FLOOR:
            return silent(weighed)
        return f"{FLOOR}: no question was answered in every order"
    return "no reply could be scored"


def change(
    after: Sequence[Row],
    before: Sequence[Row],
    value: Value,
    name: str,
    arm: str,
    condition: str,
    against: str,
) -> Number:
    """The mean paired difference over the bases that both sides have, with p and the detectable change."""
    a, b = _means(after, value), _means(before, value)
    both = sorted(set(a) & set(b))
    number = Number(name, arm, None, condition, against=against, range=(-1.0, 1.0))
    if len(both) < 2:
        return replace(number, why="fewer than two questions have a value on both sides")
    differences = [a[base] - b[base] for base in both]
    estimate = paired_change([a[base] for base in both], [b[base] for base in both], both)
    if estimate and all(0 <= side[base] <= 1 for side in (a, b) for base in both):
        # Shares can not change by more than 1, whatever a t interval of a few of them says.
        estimate = replace(estimate, low=max(-1.0, estimate.low), high=min(1.0, estimate.high))
    return replace(
        number,
        estimate=estimate,
        p=paired_test(differences, both),
        detectable=minimum_detectable(differences, both),
    )


def _means(rows: Sequence[Row], value: Value) -> dict[str, float]:
    """The mean of a value for each base that has one."""
    read = _reader(value)
    groups: dict[str, list[float]] = {}
    for row in rows:
        found = read(row)
        if found is not None:
            groups.setdefault(row["base"], []).append(found)
    return {base: sum(values) / len(values) for base, values in groups.items()}


def differences(after: Sequence[Row], before: Sequence[Row], value: Value) -> list[Row]:
    """What `change` takes the mean of, as rows: for each base that both sides of one arm have, the `difference`."""
    a, b = _means(after, value), _means(before, value)
    return [{"base": base, "difference": a[base] - b[base]} for base in sorted(set(a) & set(b))]


def over_untrained(
    name: str, condition: str, within: Mapping[str, Sequence[Row]], *, better: Better | None, headline: bool = False
) -> list[Number]:
    """For each other arm how much more its `differences` are than those within the untrained model, on the same bases:
    a change within an arm says nothing of training while the untrained model's may be the same."""
    found = []
    for arm, rows in within.items():
        if arm != UNTRAINED and UNTRAINED in within:
            number = change(rows, within[UNTRAINED], "difference", name, arm, condition, UNTRAINED)
            found.append(replace(number, better=better, headline=headline, range=(-2.0, 2.0)))
    return found


def plain(value: Any) -> Any:
    """Estimates and numbers as plain data, for JSON: no NaN, no endless digits."""
    if isinstance(value, Estimate):
        return _estimate(value.as_dict())
    if isinstance(value, Number):
        return value.as_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _rounded(value)


def _estimate(data: Row | None) -> Row:
    if data is None:
        return {"value": None, "low": None, "high": None, "n": 0, "clusters": 0}
    return {key: _rounded(item) for key, item in data.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if value == value and abs(value) != float("inf") else None
    return list(value) if isinstance(value, tuple) else value
