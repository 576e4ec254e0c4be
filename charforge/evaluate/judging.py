"""Judges at work in an evaluation: blind to the arm, measured beforehand, and tried on known cases with every batch.

Only judges that were accurate enough when the character was trained are heard. Before what they judge they are given canaries,
weighed anew each time: pairs of their own calibration that they were right about, the surest and some that are drawn. A judge
that errs on one of these is broken, whatever it says about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from charforge import judge
from charforge.constitution import Message
from charforge.data import contexts
from charforge.engine.bench import Bench
from charforge.errors import StageError
from charforge.recipe import Recipe
from charforge.store import Row, read_rows

CANARIES = 4


@dataclass
class Judging:
    """The judges that are heard, each with its canaries (rows of its calibration)."""

    canaries: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    accuracy: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """How many of its calibration's pairs each was right on: (right, all)."""
    about: Row = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.canaries)

    def score(self, bench: Bench, cases: Sequence[tuple[Sequence[Message], str, str]]) -> dict[str, list[float | None]]:
        """For each judge a score of each case (what was said, reply, reference), None where it gave no verdict.

        System messages are left out: they would say which arm it is. The canaries are tried whenever a judge is about to judge
        something new; scores that are there already passed them when they were made.

        Raises:
            StageError: if a judge errs on a canary.
        """
        asked = [
            judge.Case(tuple(m for m in said if m["role"] != "system"), reply, reference)
            for said, reply, reference in cases
        ]
        found: dict[str, list[float | None]] = {}
        for kind, known in self.canaries.items():
            self.about[kind] = {"canaries": 0, "wrong": 0}
            guarded = bench.guarded(partial(self._try, bench, kind, known))
            found[kind] = [score.value for score in judge.score(guarded, cast("judge.Kind", kind), asked)]
        return found

    def _try(self, bench: Bench, kind: str, known: Sequence[Row]) -> None:
        planted = [case for row in known for case in _both_sides(row)]
        scores = judge.score(bench.anew(), cast("judge.Kind", kind), planted)
        margins = [judge.difference(good, bad) for good, bad in zip(scores[::2], scores[1::2], strict=True)]
        wrong = [n for n, margin in enumerate(margins) if margin is None or margin <= 0]
        self.about[kind] = {"canaries": len(margins), "wrong": len(wrong)}
        if wrong:
            raise StageError(
                f"the {kind.replace('_', '-')} judge errs on {len(wrong)} of {len(margins)} cases whose answer is known",
                place=f"the reply to {self.canaries[kind][wrong[0]]['prompt'][:80]!r}",
                hint="its scores can not be believed: does it run on the same model as when it was measured?",
            )


def _both_sides(row: Row) -> tuple[judge.Case, judge.Case]:
    said: tuple[Message, ...] = ({"role": "user", "content": row["prompt"]},)
    good, bad = row["in_character"], row["other"]
    return judge.Case(said, good, bad), judge.Case(said, bad, bad)


def measured(calibration: Path, recipe: Recipe, judges: Sequence[str] | None = None, *, draw: str = "") -> Judging:
    """The judges that were accurate enough in this artifact of their calibration, of those that are named (None: of all).
    `draw` decides which canaries are drawn."""
    found = judge.read_calibration(calibration)
    heard = [kind for kind in judge.believed(found, recipe) if judges is None or kind in judges]
    tried = read_rows(calibration / "rows.jsonl")
    right = {kind: (round(found[kind]["value"] * found[kind]["n"]), found[kind]["n"]) for kind in heard}
    return Judging({kind: canaries(tried, kind, draw) for kind in heard}, right)


def canaries(calibration: Sequence[Row], kind: str, draw: str = "") -> tuple[Row, ...]:
    """Pairs of a judge's calibration that it was right about: half of them those with the widest margins, the others drawn
    from what is left of the wider half, where no rounding turns a verdict round."""
    own = [row for row in calibration if row["judge"] == kind and (row["margin"] or 0) > 0]
    own.sort(key=lambda row: (-row["margin"], row["example"]))
    surest, rest = own[: CANARIES // 2], own[CANARIES // 2 : max(CANARIES, len(own) // 2)]
    rest.sort(key=lambda row: contexts.stable_fraction(f"{draw} {row['example']} {row['other']}"))
    return (*surest, *rest[: CANARIES - len(surest)])
