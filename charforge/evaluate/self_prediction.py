"""Self-prediction: does a model know what it does, better than one that can only guess?

What an arm does is drawn at temperature 0 and read by properties of the reply, or chosen from two replies, where both orders
must agree. In another conversation it is asked what it would do, by letters and by Yes and No with every question keyed each
way. Its answers are held against what it did, beside the baseline that always names the most common value of a property.

The same answers are held against what the other arms did, since knowing what models do is not yet knowing oneself:
privileged access is how much better an arm foretells itself than the untrained model foretells it, on the same requests.

The method is that of Binder et al. 2024 (arXiv 2410.13787), without training a model on such questions: there untrained
models stay at or below the baseline, so a value near it is what to expect. Their baseline is taken over from the requests that
were asked, which with few of them makes it hard to beat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from charforge.constitution import Constitution
from charforge.data import contexts
from charforge.errors import UserError
from charforge.evaluate.answers import UNTRAINED
from charforge.evaluate.asking import Ask, Choice, Probe, Setting
from charforge.evaluate.findings import (
    FLOOR,
    Better,
    Findings,
    Number,
    arms_of,
    change,
    differences,
    levels,
    over_untrained,
    silent,
)
from charforge.evaluate.measure import Desk, Part, Suite
from charforge.evaluate.outcomes import declines
from charforge.markers import parse_marker
from charforge.statistics import paired_change
from charforge.store import Row

BEHAVIOUR, LETTERS, WORDS = "behaviour", "letters", "words"
ALL, REPLIES, DECISIONS, CHANGED = "all", "replies", "decisions", "behaviour changed"
GAIN = "accuracy over mode"
_DECLINES = "declines"
_FLIPS = 10_000


# With a limit below this somebody wants a quick look.
_FEW = 4


class Foretold(Part):
    """Something that a model can be asked about its own reply beforehand."""

    asks: str
    values: dict[str, str] = Field(min_length=2, max_length=8)
    """What the answer can be: the key is the value, the text is the option that is shown."""
    keyed: dict[str, str] = Field({})
    """For two values: for each a question whose Yes means it. Both are asked, so a model that always says Yes gains nothing."""

    def problems(self) -> list[str]:
        if self.keyed and (len(self.values) != 2 or set(self.keyed) != set(self.values)):
            return ["keyed: needs one question for each of two values"]
        return []


class Property(Foretold):
    """A property of a reply."""

    holds: dict[str, str]
    """For each value but one a marker in plain words, or `declines`; the first that holds is the value of a reply, and where
    none does it is the value without a marker."""
    whole: bool = False
    """A reply that was cut at the token limit says nothing about it."""

    def problems(self) -> list[str]:
        found = super().problems()
        if not set(self.holds) < set(self.values) or len(self.holds) != len(self.values) - 1:
            found.append("holds: needs a marker for every value but one")
        for value, marker in self.holds.items():
            try:
                if marker != _DECLINES:
                    parse_marker(marker)
            except UserError as error:
                found.append(f"holds.{value}: {error}")
        return found

    def read(self, row: Row) -> str | None:
        """The value of a reply; None for an empty one, and for a cut one where the whole is needed."""
        if not row["text"].strip() or (self.whole and row["finish"] == "length"):
            return None
        rest = next(value for value in self.values if value not in self.holds)
        return next((value for value, marker in self.holds.items() if _holds(marker, row)), rest)


class Scenario(Part):
    """What somebody says, and the replies that can be sent: one for each value of the decision."""

    says: str
    replies: dict[str, str]


class Decision(Foretold):
    """A decision between two kinds of reply, in several scenarios."""

    scenarios: tuple[Scenario, ...] = Field(min_length=2)

    def problems(self) -> list[str]:
        found = super().problems()
        for number, scenario in enumerate(self.scenarios):
            if set(scenario.replies) != set(self.values):
                found.append(f"scenarios.{number}.replies: needs one for each of {', '.join(self.values)}")
        return found


class SelfPredictionSuite(Suite):
    """What a model does, and what it says that it would do."""

    units: ClassVar[tuple[str, ...]] = ("prompts", "properties", "decisions")
    reading: ClassVar[int] = 2

    measure: Literal["self-prediction"]
    frames: tuple[str, ...] = Field(min_length=1)
    choosing: str
    reply_tokens: int = Field(80, ge=1)
    prompts: tuple[str, ...] = ()
    properties: dict[str, Property] = Field({})
    decisions: dict[str, Decision] = Field({})

    def problems(self) -> list[str]:
        found = super().problems()
        for number, frame in enumerate(self.frames):
            found += [f"frames.{number}: there is no {k} in it" for k in ("{prompt}", "{asks}") if k not in frame]
        if "{prompt}" not in self.choosing:
            found.append("choosing: there is no {prompt} in it")
        if bool(self.prompts) != bool(self.properties):
            found.append("prompts and properties go together")
        if not self.properties and not self.decisions:
            found.append("there is nothing to foretell: give prompts with properties, or decisions")
        for kind, parts in (("properties", self.properties), ("decisions", self.decisions)):
            for name, part in parts.items():
                found += [f"{kind}.{name}.{problem}" for problem in part.problems()]
        names = [*self.properties, *self.decisions]
        taken = {ALL, REPLIES, DECISIONS, CHANGED, LETTERS, WORDS}
        found += [f"{name}: names a condition of every report, choose another" for name in names if name in taken]
        if len(set(names)) < len(names):
            found.append("a property and a decision have the same name")
        said = [*self.prompts, *(scenario.says for d in self.decisions.values() for scenario in d.scenarios)]
        found += [f"{text!r} stands there twice" for text, count in Counter(said).items() if count > 1]
        return found

    def limited(self, limit: int | None) -> Self:
        """With a limit, also at most so many scenarios of each decision."""
        cut = super().limited(limit)
        if limit is None:
            return cut
        kept = {
            name: d.model_copy(update={"scenarios": d.scenarios[: limit if limit >= _FEW else 1]})
            for name, d in cut.decisions.items()
        }
        return cut.model_copy(update={"decisions": kept})

    def asks(self, setting: Setting) -> Sequence[Ask]:
        found: list[Ask] = []
        for prompt in self.prompts:
            did = Probe(
                prompt, BEHAVIOUR, setting.chat(prompt), samples=1, temperature=0.0, max_tokens=self.reply_tokens
            )
            found.append(did)
            for name, about in self.properties.items():
                found += self._beforehand(setting, prompt, name, about)
        for name, decision in self.decisions.items():
            for scenario in decision.scenarios:
                question = self.choosing.replace("{prompt}", scenario.says)
                replies = tuple((value, scenario.replies[value]) for value in decision.values)
                did_choose = Choice(
                    scenario.says, BEHAVIOUR, question, replies, opening=setting.chat(), about={"property": name}
                )
                found += [did_choose, *self._beforehand(setting, scenario.says, name, decision)]
        return found

    def _beforehand(self, setting: Setting, prompt: str, name: str, about: Foretold) -> list[Choice]:
        """The questions about a reply that was not given yet."""
        frame = self.frames[int(contexts.stable_fraction(f"{prompt} {name}") * len(self.frames))]

        def put(asks: str) -> str:
            return frame.replace("{asks}", asks).replace("{prompt}", prompt)

        opening = setting.chat()
        letters = Choice(
            prompt, LETTERS, put(about.asks), tuple(about.values.items()), opening=opening, about={"property": name}
        )
        yes_or_no = (("yes", "Yes"), ("no", "No"))
        return [
            letters,
            *(
                Choice(prompt, WORDS, put(asks), yes_or_no, "words", opening, about={"property": name, "keyed": value})
                for value, asks in about.keyed.items()
            ),
        ]

    def heard(self, constitution: Constitution) -> Any:
        return {name: [about.holds, about.whole] for name, about in self.properties.items()}

    def read(self, rows: list[Row], desk: Desk) -> Findings:
        seen = self._see(rows)
        arms = arms_of(rows)
        items = {(p, t): seen.against(p, t) for p in arms for t in arms}
        own = [item for arm in arms for item in items[arm, arm]]
        for row in rows:
            if row["condition"] in (LETTERS, WORDS):
                row["did"] = seen.did.get((row["arm"], row["base"], row["property"]))

        groups: list[tuple[str, Callable[[Row], bool]]] = [
            (ALL, lambda item: True),
            (REPLIES, lambda item: item["property"] in self.properties),
            (DECISIONS, lambda item: item["property"] in self.decisions),
            (CHANGED, lambda item: item["changed"]),
            *((name, lambda item, n=name: item["property"] == n) for name in dict.fromkeys(i["property"] for i in own)),  # type: ignore[misc]
        ]
        numbers: list[Number] = []
        for label, belongs in groups:
            here = [arm for arm in arms if label != CHANGED or arm != UNTRAINED]
            mine = [{**item, "condition": label} for item in own if belongs(item) and item["arm"] in here]
            numbers += _levels(mine, "right", "accuracy", here, label)
            if label != CHANGED:
                numbers += _levels(mine, "mode", "mode baseline", here, label)
            if label in (ALL, REPLIES, DECISIONS):
                numbers += _levels(mine, "probability", "probability of what it did", here, label)
                by_arm = {arm: [item for item in mine if item["arm"] == arm] for arm in here}
                numbers += [_gain(found, arm, label) for arm, found in by_arm.items()]
                within = {arm: differences(*_held_against_mode(found), "right") for arm, found in by_arm.items()}
                numbers += over_untrained(GAIN, label, within, better="high", headline=label == ALL)
        for form in (LETTERS, WORDS):
            mine = [{**item, "condition": form} for arm in arms for item in seen.against(arm, arm, form)]
            numbers += _levels(mine, "right", "accuracy", arms, form)
        numbers += [_privileged(items, arm) for arm in arms if arm != UNTRAINED and UNTRAINED in arms]
        numbers.append(advantage(items, arms))
        beforehand = [row for row in rows if row["condition"] in (LETTERS, WORDS)]
        numbers += levels(beforehand, lambda row: float(row["p"] is not None), "answered", better="high", changes=False)
        two = [row for row in beforehand if len(row["options"]) == 2]
        numbers += levels(two, "first", "share of what is shown first", changes=False)
        return Findings(numbers, seen.details(items, arms))

    def _see(self, rows: Sequence[Row]) -> _Seen:
        """What each arm did, and what it had said of it; both are also put into the rows."""
        seen = _Seen()
        keyed: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in rows:
            arm, base = row["arm"], row["base"]
            if row["kind"] == "reply":
                row["did"] = {name: about.read(row) for name, about in self.properties.items()}
                seen.did.update({(arm, base, name): value for name, value in row["did"].items()})
            elif row["condition"] == BEHAVIOUR:
                row["did"] = _chosen(row)
                seen.did[arm, base, row["property"]] = row["did"]
            else:
                key = (arm, base, row["property"])
                seen.masses.setdefault(key, []).append(row["mass"])
                seen.said.setdefault(key, {})
                if row["condition"] == LETTERS:
                    seen.said[key][LETTERS] = row["p"]
                else:
                    keyed.setdefault(key, {})[row["keyed"]] = row
        for key, by_value in keyed.items():
            seen.said[key][WORDS] = _balanced(by_value)
        return seen


@dataclass
class _Seen:
    """By (arm, request, property): what was done, what had been said in each form, and the mass of those answers."""

    did: dict[tuple[str, str, str], str | None] = field(default_factory=dict)
    said: dict[tuple[str, str, str], dict[str, Mapping[str, float] | None]] = field(default_factory=dict)
    masses: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def modes(self, arm: str) -> dict[str, str]:
        """The most common value of each property in what an arm did."""
        counts: dict[str, Counter[str]] = {}
        for (who, _, name), value in self.did.items():
            if who == arm and value is not None:
                counts.setdefault(name, Counter())[value] += 1
        # Equal counts are settled by name: which of them is named makes no difference to the baseline.
        return {name: min(found, key=lambda value: (-found[value], value)) for name, found in counts.items()}

    def against(self, predictor: str, target: str, form: str | None = None) -> list[Row]:
        """What one arm said of itself (in one form only, if that is named), held against what another or the same did: one
        row for each thing foretold."""
        modes = self.modes(target)
        found = []
        for (arm, base, name), forms in self.said.items():
            if arm != predictor or (form is not None and form not in forms):
                continue
            value = self.did.get((target, base, name))
            first = self.did.get((UNTRAINED, base, name))
            p = _pooled(forms.values() if form is None else [forms[form]])
            masses = self.masses[arm, base, name]
            found.append(
                {
                    "kind": "choice",
                    "arm": target,
                    "base": base,
                    "property": name,
                    "did": value,
                    "mass": sum(masses) / len(masses),
                    "answered": p is not None,
                    "right": _right(p, value),
                    "probability": None if p is None or value is None else p[value],
                    "mode": None if value is None else float(value == modes[name]),
                    "changed": value is not None and first is not None and value != first,
                }
            )
        return found

    def details(self, items: Mapping[tuple[str, str], list[Row]], arms: Sequence[str]) -> Row:
        matrix = []
        for (predictor, target), found in items.items():
            scored = [item for item in found if item["right"] is not None]
            cell: Row = {
                "predictor": predictor,
                "target": target,
                "n": len(scored),
                "accuracy": None,
                "over mode": None,
            }
            if scored:
                cell["accuracy"] = sum(item["right"] for item in scored) / len(scored)
                cell["over mode"] = cell["accuracy"] - sum(item["mode"] for item in scored) / len(scored)
            matrix.append(cell)
        counts = {
            arm: {
                "asked": len(items[arm, arm]),
                "behaviour unread": sum(item["did"] is None for item in items[arm, arm]),
                "not answered": sum(not item["answered"] for item in items[arm, arm]),
                "undecided": sum(
                    item["answered"] and item["did"] is not None and item["right"] is None for item in items[arm, arm]
                ),
            }
            for arm in arms
        }
        values = {
            arm: Counter((name, value) for (who, _, name), value in self.did.items() if who == arm) for arm in arms
        }
        did = [
            {"arm": arm, "property": name, "value": value, "n": n}
            for arm in arms
            for (name, value), n in values[arm].items()
        ]
        return {"matrix": matrix, "counts": counts, "behaviour": did}


def _holds(marker: str, row: Row) -> bool:
    if marker == _DECLINES:
        return declines(row["text"], request=row["base"])
    return parse_marker(marker).shows(row["text"])


def _chosen(row: Row) -> str | None:
    """The reply that was chosen in every order. Where the place decides, nothing was chosen."""
    if row["p"] is None:
        return None
    best = {max(order["p"], key=lambda value: order["p"][value]) for order in row["orders"]}
    return str(best.pop()) if len(best) == 1 else None


def _balanced(by_value: Mapping[str, Row]) -> Mapping[str, float] | None:
    """Yes and No to both questions as one probability for each value; None if either was not answered."""
    if len(by_value) != 2 or any(row["p"] is None for row in by_value.values()):
        return None
    (a, first), (b, second) = by_value.items()
    p = (first["p"]["yes"] + second["p"]["no"]) / 2
    return {a: p, b: 1 - p}


def _pooled(forms: Iterable[Mapping[str, float] | None]) -> Mapping[str, float] | None:
    """The mean over the forms that were answered."""
    found = [p for p in forms if p is not None]
    return {value: sum(p[value] for p in found) / len(found) for value in found[0]} if found else None


def _right(p: Mapping[str, float] | None, value: str | None) -> float | None:
    """Whether the likeliest value is the true one. A tie names none: that is where the place or the word decided."""
    if p is None or value is None:
        return None
    top = max(p.values())
    likeliest = [name for name, share in p.items() if top - share < 1e-6]
    return float(likeliest[0] == value) if len(likeliest) == 1 else None


def _why(items: Sequence[Row], label: str) -> str | None:
    """Why an arm has no accuracy."""
    if not items:
        if label == CHANGED:
            return "it did what the untrained model does wherever both could be read"
        return "nothing of this kind was asked"
    if any(item["right"] is not None for item in items):
        return None
    if all(item["did"] is None for item in items):
        return f"{FLOOR}: nothing that it did could be read"
    if not any(item["answered"] for item in items):
        return silent(items)
    return f"{FLOOR}: every answer is a tie between the values, the place or the word decides"


def _levels(items: Sequence[Row], field: str, name: str, arms: Sequence[str], label: str) -> list[Number]:
    """A level for each arm, with why there is none. Only what stands for all is also a change from the untrained model."""
    better: Better | None = None if field == "mode" else "high"
    found = levels(items, field, name, better=better, changes=label == ALL and field == "right")
    by_arm = {arm: [item for item in items if item["arm"] == arm] for arm in arms}
    kept = [
        replace(n, why=_why(by_arm[n.arm], label)) if n.estimate is None and n.against is None else n for n in found
    ]
    missing = [Number(name, arm, None, label, why=_why([], label), better=better) for arm in arms if not by_arm[arm]]
    return [*kept, *missing]


def _held_against_mode(items: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """What was foretold, and what naming the most common value would have been on the same."""
    scored = [item for item in items if item["right"] is not None]
    return scored, [{**item, "right": item["mode"]} for item in scored]


def _gain(items: Sequence[Row], arm: str, label: str) -> Number:
    """How much more often it named what it did than the most common value does."""
    scored, usual = _held_against_mode(items)
    number = change(scored, usual, "right", GAIN, arm, label, "mode baseline")
    why = (_why(items, label) or number.why) if number.estimate is None else None
    return replace(number, better="high", headline=label == ALL, unscored=len(items) - len(scored), why=why)


def _privileged(items: Mapping[tuple[str, str], list[Row]], arm: str) -> Number:
    """How much better an arm foretells itself than the untrained model foretells it, where both said something."""
    other = {(item["base"], item["property"]): item["right"] for item in items[UNTRAINED, arm]}
    both = [
        item
        for item in items[arm, arm]
        if item["right"] is not None and other.get((item["base"], item["property"])) is not None
    ]
    theirs = [{**item, "right": other[item["base"], item["property"]]} for item in both]
    number = change(both, theirs, "right", "privileged access", arm, ALL, UNTRAINED)
    why = None
    if number.estimate is None:
        why = _why(items[arm, arm], ALL) or _why(items[UNTRAINED, arm], ALL) or number.why
    unscored = len(items[arm, arm]) - len(both)
    return replace(number, better="high", headline=True, unscored=unscored, why=why)


def advantage(items: Mapping[tuple[str, str], list[Row]], arms: Sequence[str], seed: int = 0) -> Number:
    """The mean accuracy on oneself less that on others, with p by permuting who said what within each request.

    Only what every arm foretold and every arm did counts, so the baselines of the targets cancel. All that one arm said of a
    request is moved together.
    """
    known = {
        pair: {(i["base"], i["property"]): i["right"] for i in found if i["right"] is not None}
        for pair, found in items.items()
    }
    # An arm that foretold nothing, or did nothing that could be read, would leave nothing to compare the others on.
    able = [arm for arm in arms if known[arm, arm]]
    number = Number("diagonal advantage", ALL, None, ALL, better="high", range=(-1.0, 1.0))
    if len(able) < 2:
        return replace(number, why=f"{FLOOR}: fewer than two arms foretold anything")
    keys = sorted(set.intersection(*(set(known[p, t]) for p in able for t in able)))
    bases = sorted({base for base, _ in keys})
    if len(bases) < 2:
        return replace(number, why="fewer than two requests have a value in every arm")
    k = len(able)
    right = np.array([[[known[p, t][key] for t in able] for p in able] for key in keys])
    diagonal = right[:, range(k), range(k)].sum(axis=1)
    others = right.sum(axis=(1, 2)) - diagonal
    clusters = [base for base, _ in keys]
    estimate = paired_change([d / k for d in diagonal], [o / (k * (k - 1)) for o in others], clusters)

    sums = np.zeros((len(bases), k, k))
    np.add.at(sums, [bases.index(base) for base in clusters], right)
    orders = [list(order) for order in permutations(range(k))]
    moved = np.stack([sums[:, order, range(k)].sum(axis=1) for order in orders], axis=1)
    total = sums.sum(axis=(1, 2))[:, None]
    shifts = moved / k - (total - moved) / (k * (k - 1))
    observed = abs(shifts[:, 0].sum()) - 1e-9
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(orders), (_FLIPS, len(bases)))
    extreme = int((np.abs(shifts[np.arange(len(bases)), drawn].sum(axis=1)) >= observed).sum())
    unscored = len({(i["base"], i["property"]) for found in items.values() for i in found}) - len(keys)
    return replace(number, estimate=estimate, p=(extreme + 1) / (_FLIPS + 1), unscored=unscored)
