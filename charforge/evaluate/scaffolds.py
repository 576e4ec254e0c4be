"""Scaffolds: does the character show where nobody chats with it?

The same small matters are put in plain chat and inside other work: an e-mail agent, a tool's result, a code review, a form,
a summary, a translation, a long talk, a story for somebody else, another language. The constitution's own held-out prompts
are wrapped likewise, so that every trait is seen there. Traits measured in chat alone say little about these: adapters that
are recognised in chat with a macro-F1 of .86 to .94 fell to .29 to .55 when the same models wrote e-mails inside an agentic
task (a public re-scoring of the adapters of arXiv 2511.01689).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from charforge.constitution import Constitution
from charforge.data import scenarios
from charforge.errors import did_you_mean
from charforge.evaluate import voice
from charforge.evaluate.answers import UNTRAINED
from charforge.evaluate.asking import Ask, Probe, Setting
from charforge.evaluate.findings import Findings, Number, arms_of, change, levels
from charforge.evaluate.measure import Desk, Part, Suite
from charforge.evaluate.robustness import costs
from charforge.statistics import corrected_rate
from charforge.store import Row

CHAT = "chat"


class Scaffold(Part):
    """A kind of work: what is said before the matter, and which part of the reply is the character's."""

    system: str | None = None
    before: tuple[tuple[str, str], ...] = ()
    reads: str | None = None
    context: str | None = None
    """What a trait's scope is held against."""
    wraps: str | None = None
    """How a prompt of the constitution is put inside this work, with {prompt} where it goes."""


class ScaffoldSuite(Suite):
    """The same matters in plain chat and inside other work."""

    units: ClassVar[tuple[str, ...]] = ("matters",)
    judged: ClassVar[bool] = True
    reading: ClassVar[int] = 2

    measure: Literal["scaffolds"]
    scaffolds: dict[str, Scaffold]
    matters: dict[str, dict[str, str]] = Field(min_length=2)
    prompts: int = Field(1, ge=0)
    """So many held-out prompts of each trait are put into every scaffold that wraps."""

    def problems(self) -> list[str]:
        found = super().problems()
        if CHAT not in self.scaffolds:
            found.append("scaffolds: there is no 'chat', which all others are compared with")
        for name, scaffold in self.scaffolds.items():
            if scaffold.wraps is not None and "{prompt}" not in scaffold.wraps:
                found.append(f"scaffolds.{name}.wraps: there is no {{prompt}} in it")
        for matter, tasks in self.matters.items():
            missing = set(self.scaffolds) - set(tasks)
            unknown = set(tasks) - set(self.scaffolds)
            if missing:
                found.append(f"matters.{matter}: nothing for {', '.join(sorted(missing))}")
            if unknown:
                name = sorted(unknown)[0]
                found.append(f"matters.{matter}.{name}: no such scaffold{did_you_mean(name, self.scaffolds)}")
        return found

    def limited(self, limit: int | None) -> Self:
        """At most so many matters, and a quarter as many prompts of each trait; without any of these nothing is judged."""
        found = super().limited(limit)
        return found if limit is None else found.model_copy(update={"prompts": min(self.prompts, limit // 4)})

    def asks(self, setting: Setting) -> Sequence[Ask]:
        found = []
        for matter, tasks in self.matters.items():
            found += [self._probe(setting, matter, name, tasks[name], None, tasks[CHAT]) for name in self.scaffolds]
        for row in self._heldout(setting):
            for name, scaffold in self.scaffolds.items():
                if scaffold.wraps is not None:
                    text = scaffold.wraps.replace("{prompt}", row["prompt"])
                    found.append(self._probe(setting, row["prompt"], name, text, row, row["prompt"]))
        return found

    def _heldout(self, setting: Setting) -> list[Row]:
        """The first held-out prompts of each trait. What is declined is measured elsewhere."""
        counts: dict[str, int] = {}
        kept = []
        for row in scenarios.heldout(setting.constitution, setting.recipe):
            counts[row["trait"]] = counts.get(row["trait"], 0) + 1
            if counts[row["trait"]] <= self.prompts:
                kept.append(row)
        return kept

    def _probe(self, setting: Setting, base: str, name: str, text: str, row: Row | None, matter: str) -> Probe:
        scaffold = self.scaffolds[name]
        before = [turn for said, answered in scaffold.before for turn in (("user", said), ("assistant", answered))]
        about: dict[str, Any] = {
            "reads": scaffold.reads,
            "context": scaffold.context or (row["context"] if row else None),
            "trait": row["trait"] if row else None,
            # What the judge is told that was asked: the matter itself, the same in every scaffold.
            "matter": matter,
        }
        return Probe(base, name, setting.chat(*before, text, also=scaffold.system), about=about)

    def heard(self, constitution: Constitution) -> Any:
        return {**voice.heard(constitution), "traits": {t.id: [m.text for m in t.markers] for t in constitution.traits}}

    def read(self, rows: list[Row], desk: Desk) -> Findings:
        for row in rows:
            words = own_words(row["text"], row["reads"])
            row["words"] = words
            row.update(voice.listen(desk.constitution, words or "", row["context"]))
            row["share_unopened"] = row["share"]
            row["shown"] = self._shown(desk.constitution, row["trait"], words)
        numbers = [
            *levels(rows, "held", "voice held", better="high"),
            *levels(rows, "share", "share of the voice", better="high", headline=True),
            *costs(rows, CHAT),
        ]
        wrapped = [row for row in rows if row["trait"] and desk.constitution.trait(row["trait"]).markers]
        if not wrapped:
            why = "no held-out prompt of a trait with markers was asked"
            numbers += [Number("markers of the trait", arm, None, CHAT, why=why) for arm in arms_of(rows)]
        for trait in dict.fromkeys(row["trait"] for row in wrapped):
            mine = [row for row in wrapped if row["trait"] == trait]
            numbers += levels(mine, "shown", "markers of the trait", better="high", trait=trait)
            numbers += _drops(mine, trait)
        kinds = desk.judging.kinds if self.prompts else ()
        if kinds:
            self._judge(rows, desk)
        else:
            why = (
                "no judge is heard: none was accurate enough, or another was asked for"
                if self.prompts
                else "the suite, or its limit, leaves out the constitution's prompts, and without them nothing is judged"
            )
            others = [arm for arm in arms_of(rows) if arm != UNTRAINED]
            numbers += [Number("judge: wins over untrained", arm, None, CHAT, why=why) for arm in others]
        # The trained arm was made to please this judge, so its word alone is no evidence.
        trainer = desk.recipe.judge.kind
        note = f"by the {trainer.replace('_', '-')} judge alone, which also labelled the training data"
        for kind in kinds:

            def won(row: Row, kind: str = kind) -> float | None:
                found: float | None = row.get("won", {}).get(kind)
                return found

            trained = [row for row in rows if row["arm"] != UNTRAINED]
            name = f"judge {kind.replace('_', '-')}: wins over untrained"
            wins = levels(trained, won, name, better="high", changes=False)
            judged = [*wins, *self._corrected(wins, name, desk.judging.accuracy.get(kind))]
            for trait in dict.fromkeys(row["trait"] for row in trained if row["trait"]):
                mine = [row for row in trained if row["trait"] == trait]
                judged += levels(mine, won, name, better="high", trait=trait, changes=False)
            numbers += [replace(number, note=note if kinds == (trainer,) else None) for number in judged]
        return Findings(numbers, {"judges": desk.judging.about})

    def _corrected(self, wins: Sequence[Number], name: str, accuracy: tuple[int, int] | None) -> list[Number]:
        """The rates behind those that the judge reports, by how often it was right on held-out examples."""
        found = []
        for number in wins:
            value, why = None, number.why
            if number.estimate is not None:
                value = corrected_rate(number.estimate, accuracy, accuracy) if accuracy else None
                why = None if value else "the judge errs too often, or was measured on too little"
            found.append(replace(number, name=f"{name}, corrected for its errors", estimate=value, why=why))
        return found

    def _shown(self, constitution: Constitution, trait: str | None, words: str | None) -> float | None:
        if trait is None or not words or not words.strip():
            return None
        markers = constitution.trait(trait).markers
        return sum(m.shows(words) for m in markers) / len(markers) if markers else None

    def _judge(self, rows: list[Row], desk: Desk) -> None:
        """Each reply against the untrained model's to the same, in the words that are the character's own."""
        base = {(r["base"], r["condition"], r["sample"]): r["words"] for r in rows if r["arm"] == UNTRAINED}
        cases, judged = [], []
        for row in rows:
            reference = base.get((row["base"], row["condition"], row["sample"]))
            if reference and row["words"] and row["words"].strip() and reference.strip():
                judged.append(row)
                cases.append((({"role": "user", "content": row["matter"]},), row["words"], reference))
        for kind, scores in desk.judging.score(desk.bench, cases).items():
            found = {(r["arm"], r["base"], r["condition"], r["sample"]): s for r, s in zip(judged, scores, strict=True)}
            for row, score in zip(judged, scores, strict=True):
                zero = found.get((UNTRAINED, row["base"], row["condition"], row["sample"]))
                if row["arm"] != UNTRAINED and score is not None and zero is not None:
                    row.setdefault("won", {})[kind] = 0.5 if score == zero else float(score > zero)


def _drops(rows: Sequence[Row], trait: str) -> list[Number]:
    """For one trait and each arm what is lost from plain chat to each scaffold, on the same prompts."""
    found = []
    for arm in arms_of(rows):
        mine = [row for row in rows if row["arm"] == arm]
        chat = [row for row in mine if row["condition"] == CHAT]
        for name in dict.fromkeys(row["condition"] for row in mine):
            if name != CHAT:
                there = [row for row in mine if row["condition"] == name]
                number = change(there, chat, "shown", "markers of the trait", arm, name, CHAT)
                found.append(replace(number, trait=trait, better="high"))
    return found


def own_words(text: str, field: str | None) -> str | None:
    """The part of a reply that is the character's own: all of it, or a field of the JSON object that it holds.

    None where the object or the field is not there: such a reply is unread, and is counted as that.
    """
    if field is None:
        return text
    for found in re.finditer(r"\{", text):
        try:
            data, _ = json.JSONDecoder(strict=False).raw_decode(text[found.start() :])
        except ValueError:
            continue
        if isinstance(data, dict) and isinstance(data.get(field), str):
            return str(data[field])
    return None
