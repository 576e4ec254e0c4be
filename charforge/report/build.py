"""Gathers a run's numbers, samples and provenance into one report, the source of every way to show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from charforge import judge
from charforge.characters import settings
from charforge.data.contexts import stable_fraction
from charforge.evaluate import selfhood
from charforge.evaluate.answers import PROMPTED, UNTRAINED
from charforge.models import resolve
from charforge.stage import Work
from charforge.store import Row, read_rows

SCHEMA = 1
_TITLES = {
    UNTRAINED: "the base model as it is",
    PROMPTED: "the base model with the constitution (in brief) as its system prompt",
    "trained": "the character",
    "twin": "another character, asked the same",
    "sft": "after supervised fine-tuning",
    "dpo": "after preference training",
    "sft+dpo": "after supervised fine-tuning and preference training",
}


def report(work: Work) -> dict[str, Any]:
    """The report as plain data; docs/report.md describes every field."""
    recipe, constitution = work.recipe, work.constitution
    rows = work.rows("evaluation")
    measures = _read(work.inputs["evaluation"] / "measures.json")
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    calibration = judge.read_calibration(work.inputs["judge"])
    believed = set(judge.believed(calibration, recipe))
    judges = [
        {
            "kind": kind,
            "accuracy": calibration[kind],
            "believed": kind in believed,
            "made_the_labels": kind == recipe.judge.kind,
        }
        for kind in sorted(calibration, key=lambda kind: kind != recipe.judge.kind)
    ]
    training = {}
    for role in ("sft", "dpo"):
        if role in work.inputs:
            curve = read_rows(work.inputs[role] / "loss.jsonl")
            training[role] = {"curve": curve, "result": _manifest(work, role)["about"]["result"]}
    model = resolve(recipe.model)
    return {
        "schema": SCHEMA,
        "character": {
            "name": constitution.name,
            "version": constitution.front.version,
            "reference": constitution.reference,
            "summary": constitution.front.summary,
            "build": work.stage.key[:12],
        },
        "model": {"title": model.title, "name": settings(recipe)["model"]["name"], "method": recipe.method},
        "traits": [
            {
                "id": t.id,
                "title": t.title,
                "section": t.section,
                "boundary": t.is_boundary,
                "summary": t.summary,
            }
            for t in constitution.traits
        ],
        "arms": [{"id": arm, "title": _TITLES.get(arm, arm)} for arm in arms],
        "judges": judges,
        "measures": measures,
        "samples": samples(rows, arms),
        "data": _read(work.inputs["preferences"] / "card.json"),
        "training": training,
        "warnings": warnings(work, measures, judges),
        "provenance": {
            "engine": recipe.engine,
            "seed": recipe.seed,
            "constitution_digest": constitution.digest,
            "keys": {role: source.key for role, source in work.stage.inputs.items()},
            "recipe": work.stage.identity["recipe"],
            "environment": _manifest(work, "evaluation")["about"]["environment"],
        },
    }


def evaluation(work: Work) -> dict[str, Any]:
    """What an evaluation by suites found, with every row that it is about: the source of its page and its exports."""
    recipe, constitution = work.recipe, work.constitution
    suites, arms = {}, []
    for role in work.stage.inputs:
        rows = work.rows(role)
        arms += [row["arm"] for row in rows]
        suites[role] = {**_read(work.inputs[role] / "measures.json"), "rows": rows}
    measures = {found["measure"]: found for found in suites.values()}
    model = resolve(recipe.model)
    about = work.stage.identity
    return {
        "schema": SCHEMA,
        "character": {
            "name": constitution.name,
            "version": constitution.front.version,
            "reference": constitution.reference,
            "summary": constitution.front.summary,
            "build": about["character"][:12],
        },
        "model": {"title": model.title, "name": settings(recipe)["model"]["name"], "method": recipe.method},
        "arms": [{"id": arm, "title": _TITLES.get(arm, arm)} for arm in dict.fromkeys(arms)],
        "traits": [{"id": t.id, "title": t.title, "section": t.section} for t in constitution.traits],
        "suites": suites,
        "verdict": selfhood.judge(measures).as_dict() if {"robustness", "coherence"} & set(measures) else None,
        "provenance": {
            "command": about["command"],
            "keys": {role: source.key for role, source in work.stage.inputs.items()},
            "recipe": settings(recipe),
            "environment": _manifest(work, next(iter(suites)))["about"]["environment"],
        },
    }


def samples(rows: list[Row], arms: list[str]) -> list[dict[str, Any]]:
    """Before and after, for every held-out prompt: the first sample of each arm, in an order drawn by the prompts' hashes.

    The first three are what the terminal shows; nobody picked them.
    """
    first = [row for row in rows if row["sample"] == 0]
    grouped: dict[str, list[Row]] = {}
    for row in first:
        grouped.setdefault(row["scenario"], []).append(row)
    ordered = sorted(grouped.items(), key=lambda item: stable_fraction("sample " + item[0]))
    result = []
    for _, found in ordered:
        head = found[0]
        replies = {row["arm"]: row for row in found}
        result.append(
            {
                "prompt": head["prompt"],
                "trait": head["trait"],
                "kind": head["kind"],
                "replies": {arm: replies[arm]["text"] for arm in arms},
                "scores": {arm: replies[arm]["scores"] for arm in arms},
                "outcomes": {arm: replies[arm].get("outcome") for arm in arms},
            }
        )
    return result


def warnings(work: Work, measures: dict[str, Any], judges: list[dict[str, Any]]) -> list[str]:
    """What a reader should know before they believe the numbers."""
    result = []
    if work.recipe.engine == "scripted":
        result.append("The replies are not a language model's: the engine was scripted. The numbers mean nothing.")
    for item in judges:
        if item["believed"]:
            continue
        found = item["accuracy"]
        if found["unscored"] > found["n"] / 2:
            result.append(
                f"The {item['kind']} judge gave no verdict on {found['unscored']} of {found['n']} held-out example pairs "
                f"(its labels held {found['mean_mass']:.2f} of the probability on average): its win rates are not shown."
            )
        else:
            result.append(
                f"The {item['kind']} judge is right on {found['value']:.2f} of the held-out example pairs, below the "
                f"{work.recipe.judge.min_accuracy:.2f} asked for: its win rates are not shown."
            )
    heard = [item["kind"] for item in judges if item["believed"]]
    if len(heard) == 1:
        result.append(
            f"The win rates come from one judge ({heard[0]}), which also made the training labels. The markers and "
            "the refusal outcomes involve no judge: read them beside the win rates."
        )
    if work.recipe.preferences.require_markers is not None:
        result.append(
            "Generated training replies had to pass the markers of the strong voice traits (preferences.require_markers): "
            "the markers tell whether that carried over to prompts that were never trained on, not that nobody aimed at it."
        )
    seen = measures["prompts"]["heldout"]
    if seen < 40:
        result.append(f"Only {seen} held-out prompts: the intervals are wide.")
    chosen = work.rows("preferences", "pairs.jsonl")
    if not any(row["source"] != "authored" for row in chosen):
        result.append("No generated pair was good enough to train on: DPO saw the authored pairs only.")
    return result


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _manifest(work: Work, role: str) -> dict[str, Any]:
    data: dict[str, Any] = _read(work.inputs[role] / "manifest.json")
    return data
