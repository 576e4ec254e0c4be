"""The evaluation stage: scores every arm's answers, then computes the measures from the rows.

`rows.jsonl` holds every reply with everything that was measured on it; `measures.json` is a function of it alone.
"""

from __future__ import annotations

import json
from typing import Any

from charforge import judge
from charforge.constitution import Constitution, Message, digest
from charforge.data import contexts, prompts
from charforge.engine.bench import Bench
from charforge.engine.scoring import Item
from charforge.evaluate import answers, expression
from charforge.evaluate.fluency import repetition
from charforge.evaluate.outcomes import BOUNDARY_OUTCOMES, boundary_outcome, declines
from charforge.models import resolve
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.statistics import Estimate, mean, paired_difference, proportion
from charforge.store import Row, write_atomic, write_rows

NAME = "evaluation"


def stage(
    constitution: Constitution, recipe: Recipe, arms: dict[str, Stage], calibration: Stage, process_name: str
) -> Stage:
    return Stage(
        name=NAME,
        version=4,
        identity={
            "judges": judge.identity(constitution, recipe, second=True),
            "min_accuracy": recipe.judge.min_accuracy,
            "repetition_margin": recipe.evaluation.repetition_margin,
            "heldout_examples": recipe.judge.heldout_examples,
            "examples": {t.id: [list(e.turns) for e in t.examples] for t in constitution.traits},
            "arms": list(arms),
            "student": resolve(recipe.model).identity,
            "markers": {t.id: [str(t.where), [m.text for m in t.markers]] for t in constitution.traits},
            "prompts": prompts.digest("sheet", "pairwise"),
        },
        inputs={**{f"arm:{arm}": stage for arm, stage in arms.items()}, "judge": calibration},
        process=process_name,
        run=run,
    )


def run(work: Work) -> Row:
    recipe, constitution = work.recipe, work.constitution
    rows = [row for role in work.stage.inputs if role.startswith("arm:") for row in work.rows(role)]
    bench = Bench(work)
    work.progress.note("fluency under the untrained model")

    def asked(row: Row) -> tuple[Message, ...]:
        return ({"role": "user", "content": row["prompt"]},)

    fluency = bench.log_probabilities(Weights(resolve(recipe.model)), [Item((), asked(r), r["text"]) for r in rows])
    authored: list[Row] = [
        {"prompt": tuple(e.prompt), "text": e.reply, "scenario": e.id}
        for t in constitution.traits
        for e in contexts.split_examples(t, recipe.judge.heldout_examples)[1]
    ]
    people = bench.log_probabilities(
        Weights(resolve(recipe.model)), [Item((), e["prompt"], e["text"]) for e in authored]
    )
    for example, found in zip(authored, people, strict=True):
        example["fluency"], example["repetition"] = found["mean"], repetition(example["text"])
    base = {(r["scenario"], r["sample"]): r["text"] for r in rows if r["arm"] == answers.UNTRAINED}
    cases = [judge.Case(asked(r), r["text"], base[r["scenario"], r["sample"]]) for r in rows]
    calibration = judge.read_calibration(work.inputs["judge"])
    judges = list(judge.believed(calibration, recipe))
    scores: dict[str, list[judge.Score]] = {}
    for kind in judges:
        work.progress.note(f"judging by {kind}")
        scores[kind] = judge.score(bench, kind, cases)  # type: ignore[arg-type]
    bench.close()
    for index, row in enumerate(rows):
        trait = constitution.trait(row["trait"])
        row["fluency"] = fluency[index]["mean"]
        row["repetition"] = round(repetition(row["text"]), 4)
        row["scores"] = {kind: scores[kind][index].value for kind in judges}
        row["markers"] = {m.text: m.shows(row["text"]) for m in _markers(constitution, row)}
        if row["kind"] == "boundary":
            row["outcome"] = boundary_outcome(row["text"], trait, row["prompt"])
        elif row["kind"] == "look-alike":
            row["outcome"] = "declined" if declines(row["text"], trait, row["prompt"]) else "complied"
    write_rows(work.directory / "rows.jsonl", rows)
    measures = compute(rows, constitution, judges)
    measures["fluency_bound"] = fluency_bound(rows, authored, recipe.evaluation.repetition_margin)
    write_atomic(work.directory / "measures.json", json.dumps(measures, indent=1, ensure_ascii=False) + "\n")
    return {**bench.about, "replies": len(rows), "judges": judges, "measures": digest(measures)}


def _markers(constitution: Constitution, row: Row) -> list[Any]:
    """The markers that apply to a reply: the voice's wherever its scope holds, another trait's on its own prompts.

    A boundary's are the mark of declining, so they apply only where it has something to decline.
    """
    trait = constitution.trait(row["trait"])
    voice = [m for t in constitution.traits if t.is_voice and t.where.holds(row["context"]) for m in t.markers]
    own = [] if trait.is_boundary and row["kind"] != "boundary" else list(trait.markers)
    return list({m.text: m for m in [*voice, *own]}.values())


def compute(rows: list[Row], constitution: Constitution, judges: list[str]) -> dict[str, Any]:
    """Every measure from the rows. Estimates are dictionaries; None means that nothing could be measured."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    baseline = answers.UNTRAINED
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in arms}
    traits = [trait for trait in constitution.traits if any(row["trait"] == trait.id for row in rows)]
    voice = list(dict.fromkeys(m.text for t in constitution.traits if t.is_voice for m in t.markers))
    others = [arm for arm in arms if arm != baseline]
    return {
        "expression": {
            kind: {
                "overall": {arm: _dict(expression.win_rate(rows, kind, arm, baseline)) for arm in others},
                "margin": {arm: _dict(expression.margin(rows, kind, arm, baseline)) for arm in others},
                "unscored": {arm: len(by_arm[arm]) - len(expression.wins(rows, kind, arm, baseline)) for arm in others},
                "by_trait": {
                    trait.id: {arm: _dict(expression.win_rate(rows, kind, arm, baseline, trait.id)) for arm in others}
                    for trait in traits
                },
            }
            for kind in judges
        },
        "markers": {
            "voice": {text: {arm: _dict(_marker(by_arm[arm], text)) for arm in arms} for text in voice},
            "by_trait": {
                trait.id: {
                    marker.text: {
                        arm: _dict(_marker([r for r in by_arm[arm] if r["trait"] == trait.id], marker.text))
                        for arm in arms
                    }
                    for marker in trait.markers
                }
                for trait in traits
            },
        },
        "refusals": {
            "boundary": {arm: _outcomes(by_arm[arm], "boundary", BOUNDARY_OUTCOMES) for arm in arms},
            "look_alike": {arm: _outcomes(by_arm[arm], "look-alike", ("complied", "declined")) for arm in arms},
        },
        "fluency": {
            arm: {
                "log_probability": _dict(_mean(by_arm[arm], "fluency")),
                "repetition": _dict(_mean(by_arm[arm], "repetition")),
                "words": _dict(_mean([{**r, "words": len(r["text"].split())} for r in by_arm[arm]], "words")),
                "cut": _dict(
                    proportion(
                        [float(r["finish"] == "length") for r in by_arm[arm]],
                        [r["scenario"] for r in by_arm[arm]],
                    )
                ),
                "empty": sum(not r["text"].strip() for r in by_arm[arm]),
                "change": None if arm == baseline else _dict(_change(by_arm[arm], by_arm[baseline], "fluency")),
            }
            for arm in arms
        },
        "prompts": {
            "heldout": len({row["scenario"] for row in rows}),
            "replies_per_arm": len(by_arm[baseline]),
        },
    }


def fluency_bound(rows: list[Row], authored: list[Row], margin: float) -> dict[str, Any]:
    """Whether each arm still speaks fluently, by two bounds that need no taste.

    Log-probability: the replies must be no less likely under the untrained model than what people wrote in this voice
    (the held-out examples): the lower end of the arm's interval against the examples' mean. Repetition: the upper end of
    the paired change from the untrained model must not exceed the margin (non-inferiority).
    """
    people = _mean(authored, "fluency")
    base = [row for row in rows if row["arm"] == answers.UNTRAINED]
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        spoken, change = _mean(mine, "fluency"), _change(mine, base, "repetition")
        likely = bool(people and spoken and spoken.low >= people.value)
        unrepetitive = arm == answers.UNTRAINED or bool(change and change.high <= margin)
        arms[arm] = {
            "log_probability_within": likely,
            "repetition_change": None if arm == answers.UNTRAINED else _dict(change),
            "repetition_within": unrepetitive,
            "within": likely and unrepetitive,
        }
    return {"authored_log_probability": _dict(people), "repetition_margin": margin, "arms": arms}


def _dict(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {k: (round(v, 4) if v == v else None) for k, v in estimate.as_dict().items()}


def _mean(rows: list[Row], field: str) -> Estimate | None:
    kept = [row for row in rows if row[field] is not None]
    return mean([row[field] for row in kept], [row["scenario"] for row in kept])


def _change(rows: list[Row], base: list[Row], field: str) -> Estimate | None:
    before = {(row["scenario"], row["sample"]): row[field] for row in base}
    pairs = [
        (row[field], before[row["scenario"], row["sample"]], row["scenario"])
        for row in rows
        if row[field] is not None and before[row["scenario"], row["sample"]] is not None
    ]
    return paired_difference([p[0] for p in pairs], [p[1] for p in pairs], [p[2] for p in pairs])


def _marker(rows: list[Row], text: str) -> Estimate | None:
    found = [row for row in rows if text in row["markers"]]
    return proportion([float(row["markers"][text]) for row in found], [row["scenario"] for row in found])


def _outcomes(rows: list[Row], kind: str, outcomes: tuple[str, ...]) -> dict[str, Any]:
    found = [row for row in rows if row["kind"] == kind]
    clusters = [row["scenario"] for row in found]
    return {name: _dict(proportion([float(row["outcome"] == name) for row in found], clusters)) for name in outcomes}
