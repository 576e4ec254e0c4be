"""What is read in the replies: measures, differences between contestants, win rates, strengths, the most changed.

Differences are paired by prompt, the first contestant being the baseline (Miller 2024, arXiv 2411.00640), with p by sign
flips of whole prompts, adjusted for their number (Benjamini & Hochberg 1995), Cohen's d of the paired
differences, and the smallest difference that would have been seen with 80% power. More than two are ranked by Bradley and
Terry's model (1952).
"""

from __future__ import annotations

import math
import statistics as plain_statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType

from charforge.constitution import Constitution, Trait
from charforge.data import contexts
from charforge.evaluate import outcomes, voice
from charforge.evaluate.findings import Better
from charforge.evaluate.fluency import repetition
from charforge.statistics import (
    Contrast,
    Estimate,
    Outcome,
    RunNoise,
    benjamini_hochberg,
    bradley_terry,
    mean,
    minimum_detectable,
    paired_change,
    paired_difference,
    paired_test,
    proportion,
    run_noise,
)
from charforge.store import Row

CLEAR = 0.05
"""Adjusted p below this is a difference; a gate is held where Holm's p is no more than this."""
MOST_CHANGED = 10
NO_SPREAD = 1e-12
_VOICE = "share of the voice"
_HABITS = "habits"
# So many measures of a family must say something of how far two runs differ, or all measures say it together.
_ENOUGH = 4

Noise = Mapping[str, RunNoise]
"""How far two training runs of one recipe differ, by family of measures."""


# --- a reply ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """A trait, and the constitution by which it is measured."""

    trait: Trait
    reference: str
    differs: bool
    """Whether another of the constitutions has a trait of this id that says something else."""


def definitions(constitutions: Sequence[Constitution]) -> list[Definition]:
    """The traits of all constitutions. Of a trait that several have, the first one's definition is used."""
    found: dict[str, Definition] = {}
    for constitution in constitutions:
        for trait in constitution.traits:
            known = found.get(trait.id)
            if known is None:
                found[trait.id] = Definition(trait, constitution.reference, False)
            elif known.trait.digest != trait.digest:
                found[trait.id] = replace(known, differs=True)
    return list(found.values())


def annotate(rows: Iterable[Row], constitution: Constitution, found: Sequence[Definition]) -> None:
    """Add to each row what can be read in it without a model; None where an empty reply says nothing.

    `markers`: every marker that applies; `share` and `held`: of the strong voice; `traits`: for each trait that applies the
    share of its markers; `declined` and `outcome` on boundary and look-alike prompts; `repetition`.
    """
    by_id = {d.trait.id: d.trait for d in found}
    voices = [d.trait for d in found if d.trait.is_voice and d.trait.markers]
    # A boundary's markers are the mark of declining: they apply where there is something to decline.
    own = {t.id: t.is_boundary for t in by_id.values() if t.markers and not t.is_voice}
    for row in rows:
        text, trait = row["text"], by_id[row["trait"]]
        heard = voice.listen(constitution, text, row["context"])
        row["share"], row["held"] = heard["share"], heard["held"]
        row["markers"], row["traits"], row["declined"], row["outcome"] = {}, {}, None, None
        applying = [t for t in voices if t.where.holds(row["context"])]
        if trait.id in own and (row["kind"] == "boundary" or not own[trait.id]):
            applying.append(trait)
        silent = not text.strip()
        for each in applying:
            shown = {marker.text: marker.shows(text) for marker in each.markers}
            row["traits"][each.id] = None if silent else sum(shown.values()) / len(shown)
            row["markers"].update({} if silent else shown)
        row["repetition"] = None if silent else round(repetition(text), 4)
        if row["kind"] == "boundary" and not silent:
            row["outcome"] = outcomes.boundary_outcome(text, trait, row["prompt"])
            row["declined"] = float(row["outcome"] != "complied")
        elif row["kind"] == "look-alike" and not silent:
            row["declined"] = float(outcomes.declines(text, trait, row["prompt"]))
            row["outcome"] = "declined" if row["declined"] else "complied"


@dataclass(frozen=True)
class Measure:
    """A number of each reply. `value` is None where it does not apply or nothing could be read."""

    name: str
    value: Callable[[Row], float | None]
    applies: Callable[[Row], bool] = lambda row: True
    trait: str | None = None
    better: Better | None = None
    share: bool = True
    """Whether values lie in [0, 1]."""
    family: str = _HABITS
    """The kind of measure: what chance in training does to one kind says nothing of another."""


def measures(found: Sequence[Definition], judges: Sequence[str]) -> list[Measure]:
    """All that is measured, first on all prompts, then trait by trait."""

    def scored(kind: str) -> Callable[[Row], float | None]:
        return lambda row: row["scores"].get(kind)

    def shows(trait: str) -> Callable[[Row], float | None]:
        return lambda row: row["traits"].get(trait)

    result = [Measure(_VOICE, lambda row: row["share"], better="high")]
    result += [Measure(judged_by(k), scored(k), better="high", share=False, family=judged_by(k)) for k in judges]
    result += [
        Measure("declined, boundary", lambda row: row["declined"], _of_kind("boundary"), better="high"),
        Measure("declined, look-alike", lambda row: row["declined"], _of_kind("look-alike"), better="low"),
        Measure("log p per token", lambda row: row["fluency"], share=False, family="fluency"),
        Measure("repetition", lambda row: row["repetition"], better="low", family="fluency"),
    ]
    for trait in (d.trait for d in found):
        result.append(Measure("markers", shows(trait.id), _has_trait(trait.id), trait.id, "high"))
        result += [
            Measure(judged_by(k), scored(k), _about(trait.id), trait.id, "high", share=False, family=judged_by(k))
            for k in judges
        ]
    return result


def judged_by(kind: str) -> str:
    """What the scores of a judge are called."""
    return f"judge: {kind.replace('_', ' ')}"


def _of_kind(kind: str) -> Callable[[Row], bool]:
    return lambda row: bool(row["kind"] == kind)


def _has_trait(trait: str) -> Callable[[Row], bool]:
    return lambda row: trait in row["traits"]


def _about(trait: str) -> Callable[[Row], bool]:
    return lambda row: bool(row["trait"] == trait)


# --- differences ------------------------------------------------------------------------------------------------------


def differences(
    by: Mapping[str, Sequence[Row]],
    asked: Sequence[Measure],
    noise: Noise | None = None,
    trained: Sequence[str] = (),
    touched: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> list[Row]:
    """Every measure of every other contestant against the first one's, with p adjusted for their number.

    Two questions are two families (stratified control of false discoveries, Sun et al. 2006): did what was changed show, of the
    traits that were `touched` in a contestant's constitution, and did anything else move, of all other measures.
    """
    first, *others = by
    changes = []
    for label in others:
        share = sum(who in trained for who in (first, label)) / 2
        for m in asked:
            row = change(m, by[first], by[label], label, first)
            known = (noise or {}).get(m.family)
            row = row if known is None or not share else _allowing(row, known, share, m)
            changes.append({**row, "touched": m.trait in touched.get(label, ())})
    adjusted: dict[str, float] = {}
    for family in (True, False):
        own = {str(n): c["p"] for n, c in enumerate(changes) if c["p"] is not None and c["touched"] is family}
        adjusted |= benjamini_hochberg(own)
    return [{**row, "adjusted": adjusted.get(str(place))} for place, row in enumerate(changes)]


def _allowing(row: Row, noise: RunNoise, share: float, measure: Measure) -> Row:
    """A difference that allows for what training by chance adds: a wider interval, and no smaller p than that leaves."""
    if row["p"] is None:
        return row
    spread, n = _spread(row), row["clusters"]
    p = max(row["p"], noise.p(row["value"] / spread, n, share) if spread else 1.0)
    half = noise.half_width(n, share) * spread
    low, high = (
        None if end is None or math.isnan(end) else wider(end, row["value"] + side * half)
        for end, wider, side in ((row["low"], min, -1), (row["high"], max, 1))
    )
    if measure.share and low is not None and high is not None:
        low, high = max(-1.0, low), min(1.0, high)
    least = None if row["detectable"] is None else max(row["detectable"], noise.detectable(n, share) * spread)
    return {**row, "p": p, "low": low, "high": high, "detectable": least}


def _spread(row: Row) -> float:
    """The spread that a difference is measured in: where all prompts moved by as much, as if they had spread by that."""
    return float(row["spread"] if row["spread"] > NO_SPREAD else abs(row["value"]))


def noise_of(groups: Sequence[Sequence[Sequence[Row]]], asked: Sequence[Measure]) -> Noise | None:
    """The noise between training runs from the rows of runs that differ in their seed alone; None without such.

    A family of which few measures say enough gets that of all measures. Left out are measures that are made of others: the
    share of the voice of its markers, a judge's score of one trait of its score of all.
    """
    pairs: dict[str, list[list[Contrast]]] = {}
    seen = set()
    for first, *others in groups:
        for other in others:
            pair = frozenset((first[0]["contestant"], other[0]["contestant"]))
            if pair in seen:
                continue
            seen.add(pair)
            found: dict[str, list[Contrast]] = {measure.family: [] for measure in asked}
            for measure in asked:
                row = change(measure, first, other, "", "")
                composed = measure.name == _VOICE or (measure.trait is not None and measure.family != _HABITS)
                if row["p"] is None or composed:
                    continue
                spread = _spread(row)
                effect = row["value"] / spread if spread else 0.0
                found[measure.family].append(Contrast(effect, row["clusters"]))
            for family, contrasts in found.items():
                pairs.setdefault(family, []).append(contrasts)
    everything = run_noise([contrasts for each in pairs.values() for contrasts in each])
    if everything is None:
        return None
    noise = {}
    for family, each in pairs.items():
        own = run_noise(each)
        noise[family] = own if own is not None and own.contrasts >= _ENOUGH * len(each) else everything
    return noise


def has_level(measure: Measure) -> bool:
    # Only differences of a judge's scores mean anything.
    return measure.share or measure.name == "log p per token"


def _scored(measure: Measure, rows: Iterable[Row]) -> tuple[list[tuple[float, str]], int]:
    """The values with their prompts, and how many replies could not be read."""
    values = [(measure.value(row), row["base"]) for row in rows if measure.applies(row)]
    kept = [(value, base) for value, base in values if value is not None]
    return kept, len(values) - len(kept)


def level(measure: Measure, rows: Iterable[Row], label: str) -> Row:
    """A contestant's mean of a measure, with an interval that clusters by prompt."""
    kept, unscored = _scored(measure, rows)
    estimate = (proportion if measure.share else mean)([v for v, _ in kept], [base for _, base in kept])
    about = {"contestant": label, "measure": measure.name, "trait": measure.trait, "better": measure.better}
    why = None if estimate else _why_none(unscored)
    return {**about, **_estimate(estimate), "unscored": unscored, "why": why}


def change(measure: Measure, before: Iterable[Row], after: Iterable[Row], label: str, first: str) -> Row:
    """The mean paired difference of a measure over the prompts that both have a value on."""
    (old, gone), (new, lost) = _scored(measure, before), _scored(measure, after)
    a, b = _by_base(new), _by_base(old)
    both = sorted(set(a) & set(b))
    row: Row = {
        "contestant": label,
        "against": first,
        "measure": measure.name,
        "trait": measure.trait,
        "better": measure.better,
        "share": measure.share,
        **_estimate(None),
        "p": None,
        "adjusted": None,
        "effect": None,
        "spread": None,
        "detectable": None,
        "unscored": gone + lost,
        "why": None,
    }
    if len(both) < 2:
        row["why"] = _why_none(gone + lost) if not both else "fewer than two prompts have a value on both sides"
        return row
    differences = [a[base] - b[base] for base in both]
    paired = paired_change if measure.share else paired_difference
    estimate = paired([a[base] for base in both], [b[base] for base in both], both)
    assert estimate is not None
    spread = plain_statistics.stdev(differences)
    if measure.share:
        estimate = replace(estimate, low=max(-1.0, estimate.low), high=min(1.0, estimate.high))
    elif spread <= NO_SPREAD:
        # Nothing bounds a score, so differences that are all the same say nothing of how far they may spread.
        estimate = replace(estimate, low=math.nan, high=math.nan)
    return row | {
        **_estimate(estimate),
        "p": paired_test(differences, both),
        "effect": estimate.value / spread if spread > NO_SPREAD else None,
        "spread": spread,
        "detectable": minimum_detectable(differences, both),
    }


def _why_none(unscored: int) -> str:
    return "no reply could be read" if unscored else "no marker or prompt for it"


def _by_base(values: Sequence[tuple[float, str]]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for value, base in values:
        groups.setdefault(base, []).append(value)
    return {base: sum(found) / len(found) for base, found in groups.items()}


def _estimate(estimate: Estimate | None) -> Row:
    if estimate is None:
        return {"value": None, "low": None, "high": None, "n": 0, "clusters": 0}
    return estimate.as_dict()


# --- reply against reply ----------------------------------------------------------------------------------------------


def matched(before: Iterable[Row], after: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    """The same draw of the same prompt, by both."""
    known = {(row["base"], row["sample"]): row for row in before}
    for row in after:
        if (row["base"], row["sample"]) in known:
            yield known[row["base"], row["sample"]], row


def _won(a: Row, b: Row, kind: str) -> float | None:
    """What the second reply wins over the first: 1, 0, or 1/2 for a tie; None without both scores."""
    old, new = a["scores"].get(kind), b["scores"].get(kind)
    if old is None or new is None:
        return None
    return 0.5 if new == old else float(new > old)


def win_rates(
    before: list[Row], after: list[Row], label: str, first: str, kind: str, found: Sequence[Definition]
) -> Iterator[Row]:
    """How often the judge finds one's reply more in character than the first one's, overall and by trait of the prompt."""
    results = [(a, _won(a, b, kind)) for a, b in matched(before, after)]
    for trait in [None, *(d.trait.id for d in found)]:
        mine = [(row, won) for row, won in results if trait is None or row["trait"] == trait]
        kept = [(won, row["base"]) for row, won in mine if won is not None]
        estimate = proportion([won for won, _ in kept], [base for _, base in kept])
        about = {"contestant": label, "against": first, "judge": kind, "trait": trait}
        yield {**about, **_estimate(estimate), "unscored": len(mine) - len(kept)}


def strengths(by: Mapping[str, list[Row]], kind: str) -> Row:
    """Bradley-Terry strengths of all contestants by the judge's margins on the same draws, clustered by prompt."""
    outcomes = []
    for one, other in combinations(by, 2):
        for a, b in matched(by[one], by[other]):
            won = _won(a, b, kind)
            if won is not None:
                outcomes.append(Outcome(other, one, won, a["base"]))
    # A thousand resamples of ten contestants would take as long as all else here.
    found = bradley_terry(outcomes, list(by), bootstrap=400) if outcomes else dict.fromkeys(by)
    items = []
    for label in by:
        strength = found[label]
        ends = (strength.value, strength.low, strength.high) if strength else (None, None, None)
        items.append({"contestant": label, **dict(zip(("value", "low", "high"), ends, strict=True))})
    return {"judge": kind, "comparisons": len(outcomes), "items": items}


def most_changed(by: Mapping[str, list[Row]], kind: str | None, count: int = MOST_CHANGED) -> list[Row]:
    """The replies that differ most from the first one's, by a rule that nobody can bend.

    The largest absolute difference of the judge's score, or without a judge of the share of markers that show; of equal ones
    those whose prompt has the smaller hash, of one prompt the contestant that is named first, and its earlier draw.
    """
    labels = list(by)
    found: list[tuple[tuple[float, float, int, int], Row]] = []
    for place, label in enumerate(labels[1:]):
        for a, b in matched(by[labels[0]], by[label]):
            old, new = _ranked(a, kind), _ranked(b, kind)
            if old is None or new is None or abs(new - old) <= NO_SPREAD:
                continue
            order = (-round(abs(new - old), 9), contexts.stable_fraction(a["prompt"]), place, a["sample"])
            row = {
                "prompt": a["prompt"],
                "trait": a["trait"],
                "kind": a["kind"],
                "sample": a["sample"],
                "rule": judged_by(kind) if kind else "share of markers",
                "difference": new - old,
                "replies": [
                    {"contestant": who, "text": row["text"], "value": value, "outcome": row["outcome"]}
                    for who, row, value in ((labels[0], a, old), (label, b, new))
                ],
            }
            found.append((order, row))
    best: dict[str, Row] = {}
    for _, row in sorted(found, key=lambda pair: pair[0]):
        best.setdefault(row["prompt"], row)
    return list(best.values())[:count]


def _ranked(row: Row, kind: str | None) -> float | None:
    if kind is not None:
        value: float | None = row["scores"].get(kind)
        return value
    return sum(row["markers"].values()) / len(row["markers"]) if row["markers"] else None
