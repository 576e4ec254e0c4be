"""From contestants to findings: the stages of a comparison, and the one that reads all replies."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from charforge import characters, judge, people
from charforge.compare.asking import asked, learned, limited, reply_stage, retention_stages, sources
from charforge.compare.contestant import Contestant
from charforge.compare.explaining import effects, fact, touched_traits, warnings
from charforge.compare.gates import decided, gate_tests
from charforge.compare.reading import (
    Definition,
    Noise,
    annotate,
    definitions,
    differences,
    has_level,
    level,
    measures,
    most_changed,
    noise_of,
    strengths,
    win_rates,
)
from charforge.constitution import Constitution, Message, digest
from charforge.engine.bench import Bench
from charforge.engine.scoring import Item
from charforge.errors import UserError
from charforge.evaluate import probing, retention, suites
from charforge.evaluate.answers import UNTRAINED
from charforge.evaluate.findings import FLOOR, plain
from charforge.evaluate.judging import Judging, measured
from charforge.evaluate.measure import Desk
from charforge.models import resolve
from charforge.recipe import Margins, Recipe
from charforge.stage import Made, Stage, Weights, Work
from charforge.store import Row, write_atomic, write_rows

NAME = "compared"
# Raised when the code reads the same rows differently.
READING = 4
# Below so many prompts the intervals are wide whatever is compared.
_FEW = 40


def stages(
    constitution: Constitution,
    recipe: Recipe,
    found: Sequence[Contestant],
    *,
    calibration: str | None,
    limit: int | None,
    leave_out: Sequence[str],
    bounds: Margins,
    command: str,
    preset: str | None = None,
    retained: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    votes: Sequence[Row] = (),
    runs: Sequence[Sequence[Contestant]] = (),
    notes: Sequence[str] = (),
) -> list[Stage]:
    """The stages of a comparison: the replies of each contestant, and one that reads them all.

    `constitution` and `recipe` are those that are measured by, `calibration` is the key of their judges. `preset` asks the
    retention suite as well; `retained` are artifacts (stage, key) that hold its rows already, by label and part. `votes` are
    those of people, from `people.votes`. `runs` are from `other_runs`; `notes` are said among the warnings.
    """
    everything = sources(found, (constitution, recipe))
    prompts, left_out = asked(everything, learned(found), leave_out)
    prompts = limited(prompts, limit)
    if not prompts:
        raise UserError("no prompt is held out from all of these", hint="compare fewer, or others")
    replies = {c.label: reply_stage(c, recipe, prompts) for c in found}
    inputs: dict[str, Stage | Made] = {f"replies:{label}": stage for label, stage in replies.items()}
    inputs |= {f"character:{c.label}": Made(characters.NAME, c.key) for c in found if c.key}
    others = {c.label: c for group in runs for c in group if c.label not in replies}
    again = {label: reply_stage(c, recipe, prompts) for label, c in others.items()}
    inputs |= {f"run:{label}": stage for label, stage in again.items()}
    if calibration:
        inputs["judge"] = Made(judge.NAME, calibration)
    answered: list[Stage] = []
    if preset:
        for c in found:
            for stage in retention_stages(c, constitution, recipe, preset):
                answered.append(stage)
                inputs[f"retention:{c.label}:{stage.name}"] = stage
    elif retained:
        for label, parts in retained.items():
            inputs |= {f"retention:{label}:{part}": Made(name, key) for part, (name, key) in parts.items()}
    suite = suites.load("retention") if preset or retained else None
    compared = Stage(
        name=NAME,
        version=1,
        identity={
            "reading": READING,
            "contestants": [[c.label, c.kind, c.digest] for c in found],
            "told": [c.constitution.digest for c in (x.character for x in found) if c],
            "measured_by": [constitution.reference, constitution.digest],
            "prompts": [[r["base"], r["trait"], r["kind"], r["context"]] for r in prompts],
            "left_out": left_out,
            "judges": judge.identity(constitution, recipe, second=True) if calibration else None,
            "min_accuracy": recipe.judge.min_accuracy,
            "margins": bounds.model_dump(mode="json"),
            "retention": [suite.version, suite.reading] if suite else None,
            "engine": recipe.engine,
            "command": command,
            **({"votes": digest(list(votes))} if votes else {}),
            **({"runs": [[c.label for c in group] for group in runs]} if runs else {}),
            **({"notes": list(notes)} if notes else {}),
        },
        inputs=inputs,
        process=probing.PROCESS,
        run=_Compare(
            tuple(found),
            tuple(prompts),
            tuple(left_out),
            bounds,
            tuple(votes),
            tuple(tuple(group) for group in runs),
            tuple(notes),
        ),
        # Fluency is weighed under the first one's base model.
        weights=Weights(resolve(found[0].model)),
    )
    return [*replies.values(), *again.values(), *answered, compared]


@dataclass(frozen=True)
class _Compare:
    """Reads the replies of all contestants."""

    contestants: tuple[Contestant, ...]
    prompts: tuple[Row, ...]
    left_out: tuple[str, ...]
    bounds: Margins
    votes: tuple[Row, ...]
    runs: tuple[tuple[Contestant, ...], ...] = ()
    """Each trained contestant with other training runs of the same."""
    notes: tuple[str, ...] = ()

    def __call__(self, work: Work) -> Row:
        from charforge.report import comparison

        found = definitions([c for c, _ in sources(self.contestants, (work.constitution, work.recipe))])
        labels = [c.label for c in self.contestants]
        about = {row["base"]: row for row in self.prompts}
        roles = {label: f"replies:{label}" for label in labels}
        roles |= {c.label: f"run:{c.label}" for group in self.runs for c in group if c.label not in roles}
        rows = [
            {**row, **about[row["base"]], "contestant": label} for label in roles for row in work.rows(roles[label])
        ]
        annotate(rows, work.constitution, found)
        bench = Bench(work)
        judging = measured(work.inputs["judge"], work.recipe) if "judge" in work.inputs else Judging()
        self._weigh(rows, work, bench, judging)
        votes = self._voted(bench, judging)
        gates = self._retained(work, bench)
        bench.close()
        again = {label: [row for row in rows if row["contestant"] == label] for label in roles}
        noise = noise_of([[again[c.label] for c in group] for group in self.runs], measures(found, judging.kinds))
        trained = [c.label for c in self.contestants if c.kind == "character"]
        told = {c.label: c.character.constitution if c.character else None for c in self.contestants}
        touched = {label: touched_traits(told[labels[0]], told[label]) for label in labels[1:]}
        rows = [row for row in rows if row["contestant"] in labels]
        data = {
            **self._about(work, found, judging),
            **read(rows, labels, found, judging.kinds, self.bounds, gates, noise, trained, touched),
            "runs": self._runs(noise),
            "people": people.read(votes, labels, judging.kinds),
        }
        data["warnings"] += [*self.notes, *_on_silence(rows, labels)]
        if data["runs"]:
            data["warnings"] += self._of_runs(data["runs"])
        data["constitutions"] = [
            {"contestant": label, "against": labels[0], **effects(told[labels[0]], told[label], data["changes"], label)}
            for label in labels[1:]
        ]
        write_rows(work.directory / "rows.jsonl", rows)
        if noise is not None:
            write_rows(
                work.directory / "runs.jsonl", [r for label in again if label not in labels for r in again[label]]
            )
        if votes:
            write_rows(work.directory / "votes.jsonl", votes)
        write_atomic(work.directory / "comparison.html", comparison.page(data))
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(work.directory / "comparison.json", text + "\n")
        return {**bench.about, "replies": len(rows), "prompts": len(self.prompts), "judges": list(judging.kinds)}

    def _weigh(self, rows: list[Row], work: Work, bench: Bench, judging: Judging) -> None:
        """What models say of each reply: how likely it is to the first one's base model, and the judges' scores."""
        assert work.stage.weights is not None
        said: list[tuple[Message, ...]] = [({"role": "user", "content": row["prompt"]},) for row in rows]
        items = [Item((), messages, row["text"]) for messages, row in zip(said, rows, strict=True)]
        first = self.contestants[0].label
        baseline = {(row["base"], row["sample"]): row["text"] for row in rows if row["contestant"] == first}
        for row, weighed in zip(rows, bench.log_probabilities(work.stage.weights, items), strict=True):
            row["fluency"] = weighed["mean"] if row["text"].strip() else None
        cases = [
            (messages, row["text"], baseline[row["base"], row["sample"]])
            for messages, row in zip(said, rows, strict=True)
        ]
        scores = judging.score(bench, cases)
        for place, row in enumerate(rows):
            row["scores"] = {kind: found[place] if row["text"].strip() else None for kind, found in scores.items()}

    def _runs(self, noise: Noise | None) -> Row | None:
        """How far training runs of one recipe differ, by family of measures, and which ones say so; None if not known."""
        if noise is None:
            return None
        families = {
            family: {"spreads": math.sqrt(each.variance), "df": each.df, "contrasts": each.contrasts}
            for family, each in noise.items()
        }
        return {"families": families, "groups": [[c.label for c in group] for group in self.runs]}

    def _of_runs(self, runs: Row) -> Iterator[str]:
        groups = "; ".join(" and ".join(group) for group in runs["groups"])
        known = ", ".join(f"{name} {each['spreads']:.2f}" for name, each in runs["families"].items())
        yield (
            "Differences allow for chance in training, which no number of prompts averages away: how far two runs of one "
            f"recipe differ, in spreads between prompts: {known} (from {groups}). Gates, win rates and rankings do not: they "
            "are about these very weights."
        )
        labels = [c.label for c in self.contestants]
        if any(set(group) <= set(labels) for group in runs["groups"]):
            yield (
                "Two of these are runs of one recipe and are also what says how far such runs differ: between these two hardly "
                "anything can be clear. A third seed would tell more."
            )
        alone = [c.label for c in self.contestants if c.kind == "character"]
        alone = [label for label in alone if not any(label in group for group in runs["groups"])]
        if alone:
            yield f"No other run is known of {', '.join(alone)}: what the runs of others vary stands in for it."

    def _voted(self, bench: Bench, judging: Judging) -> list[Row]:
        """People's votes, with the judges' scores of both replies where they may be judged."""
        votes = [dict(row) for row in self.votes]
        judged = [row for row in votes if people.can_be_judged(row)]
        scores = judging.score(bench, people.cases(judged)) if judged else {}
        for number, row in enumerate(judged):
            row["scores"] = {kind: found[2 * number : 2 * number + 2] for kind, found in scores.items()}
        return votes

    def _retained(self, work: Work, bench: Bench) -> list[Row]:
        """The gates of the retention suite, each against the first contestant."""
        first = self.contestants[0].label
        rows: list[Row] = []
        for c in self.contestants:
            roles = [role for role in work.inputs if role.startswith(f"retention:{c.label}:")]
            arm = UNTRAINED if c.label == first else c.label
            rows += [{**row, "arm": arm} for role in roles for row in work.rows(role)]
        if not rows:
            return []
        suite = suites.load("retention")
        assert isinstance(suite, retention.RetentionSuite)
        if self.bounds.retention is not None:
            same = dict.fromkeys(retention.SETS, self.bounds.retention)
            suite = suite.model_copy(update={"margins": retention.Margins(**same)})
        found = suite.read(rows, Desk(work.constitution, work.recipe, bench, Judging())).details["gates"]
        return [
            {
                "contestant": gate["arm"],
                "gate": f"retention: {gate['set']}",
                **{name: gate[name] for name in ("change", "low", "high", "bound", "margin", "p", "pairs")},
                "prompts": gate["questions"],
                "unread": gate["unread"],
                "detectable": gate["mde"],
                "verdict": gate["verdict"] if gate["verdict"] == FLOOR else None,
                # The suite calls the baseline by the name that it has there.
                "why": (gate["why"] or "").replace("the untrained model", first) if gate["verdict"] == FLOOR else None,
            }
            for gate in found
        ]

    def _about(self, work: Work, found: Sequence[Definition], judging: Judging) -> Row:
        facts = [fact(work, c) for c in self.contestants]
        calibration = judge.read_calibration(work.inputs["judge"]) if "judge" in work.inputs else {}
        notes = [*warnings(facts), *self._notes(work, calibration, judging)]
        return {
            "schema": 1,
            "contestants": [
                {
                    "label": c.label,
                    "kind": c.kind,
                    "id": c.id,
                    "title": _TITLES[c.kind],
                    "model": resolve(c.model).title,
                    "method": about["method"],
                    "summary": c.character.constitution.front.summary if c.character else "",
                }
                for c, about in zip(self.contestants, facts, strict=True)
            ],
            "measured_by": work.constitution.reference,
            "engine": work.recipe.engine,
            "judges": [
                {"kind": kind, "accuracy": plain({k: calibration[kind][k] for k in ("value", "low", "high", "n")})}
                for kind in judging.kinds
            ],
            "prompts": {"asked": len(self.prompts), "samples": work.recipe.evaluation.samples,
                        "left_out": list(self.left_out)},
            "traits": [
                {"id": d.trait.id, "title": d.trait.title, "section": d.trait.section, "measured_by": d.reference,
                 "differs": d.differs}
                for d in found
            ],
            "warnings": notes,
            "provenance": {
                "command": work.stage.identity["command"],
                "keys": {role: source.key for role, source in work.stage.inputs.items()},
                "margins": self.bounds.model_dump(mode="json"),
                "recipe": characters.settings(work.recipe),
            },
        }  # fmt: skip

    def _notes(self, work: Work, calibration: Mapping[str, Any], judging: Judging) -> Iterator[str]:
        if work.recipe.engine == "scripted":
            yield "A fixed rule wrote the replies, not a language model: the numbers mean nothing."
        if not judging.kinds:
            why = "none was accurate enough" if calibration else "their calibration is not in this store"
            yield f"No judge of {work.constitution.reference} is heard: {why}. There are no win rates."
        if self.left_out:
            yield f"{len(self.left_out)} held-out prompts were left out: another of these was trained on them."
        if not self.runs and any(c.kind == "character" for c in self.contestants):
            yield (
                "Of each of these one training run is read. Another seed of the same recipe may differ as much: train one "
                "(charforge train RECIPE --set seed=1), and differences allow for it, unless --runs is 0."
            )
        if len(self.prompts) < _FEW:
            yield f"Only {len(self.prompts)} prompts: the intervals are wide."


def _on_silence(rows: Sequence[Row], labels: Sequence[str]) -> Iterator[str]:
    texts = {label: [row["text"] for row in rows if row["contestant"] == label] for label in labels}
    empty = {label: sum(not text.strip() for text in found) for label, found in texts.items()}
    if any(empty.values()):
        told = ", ".join(f"{label} {count} of {len(texts[label])}" for label, count in empty.items() if count)
        yield f"Empty replies, in which nothing can be read: {told}."


_TITLES = {
    "character": "a trained character",
    "model": "a bare model",
    "prompt": "a base model with a constitution (in brief) as its system prompt",
}


def read(
    rows: Sequence[Row],
    labels: Sequence[str],
    found: Sequence[Definition],
    judges: Sequence[str],
    bounds: Margins,
    retention_gates: Sequence[Row] = (),
    noise: Noise | None = None,
    trained: Sequence[str] = (),
    touched: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Row:
    """Everything that follows from the annotated rows. The first label is the baseline of all differences.

    With the `noise` between training runs, differences between those that were `trained` allow for it. Gates do not: they
    are about the very weights that are compared.
    """
    by = {label: [row for row in rows if row["contestant"] == label] for label in labels}
    first, others = labels[0], labels[1:]
    asked = measures(found, judges)
    gates = []
    for label in others:
        mine = gate_tests(by[first], by[label], label, first, bounds)
        mine += [gate for gate in retention_gates if gate["contestant"] == label]
        gates += decided(mine)
    wins = [
        w for label in others for kind in judges for w in win_rates(by[first], by[label], label, first, kind, found)
    ]
    data = {
        "levels": [level(m, by[label], label) for m in asked for label in labels if has_level(m)],
        "changes": differences(by, asked, noise, trained, touched),
        "wins": wins,
        "strengths": strengths(by, judges[0]) if judges and len(labels) > 2 else None,
        "gates": gates,
        "most_changed": most_changed(by, judges[0] if judges else None),
    }
    return {name: plain(value) for name, value in data.items()}
