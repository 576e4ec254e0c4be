"""Answers: replies to the held-out prompts, one stage for each arm. None sees the constitution but the prompted arm."""

from __future__ import annotations

from charforge.constitution import Constitution
from charforge.data import contexts, prompts, scenarios
from charforge.engine import Request, complete, seed_for
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_rows

UNTRAINED, PROMPTED = "untrained", "prompted"


def stage(
    arm: str,
    constitution: Constitution,
    recipe: Recipe,
    weights: Weights,
    process_name: str,
    trained: Stage | None = None,
) -> Stage:
    """The stage `answers-ARM`. It depends on the held-out prompts, not on the training data."""
    heldout = [row for row in scenarios.authored(constitution, recipe) if row["split"] == "heldout"]
    prompted = arm == PROMPTED
    return Stage(
        name=f"answers-{arm}",
        version=1,
        identity={
            "arm": arm,
            "seed": recipe.seed,
            "settings": recipe.evaluation.model_dump(
                mode="json", exclude={"prompted_arm", "repetition_margin", "margins"}
            ),
            "prompts": [[row["id"], row["prompt"], row["kind"], row["context"]] for row in heldout],
            "system": contexts.sheet(constitution) if prompted else None,
            "template": prompts.digest("sheet") if prompted else None,
            "student": weights.identity,
            "engine": recipe.engine,
        },
        inputs={"trained": trained} if trained else {},
        process=process_name,
        run=run,
        weights=weights,
    )


def run(work: Work) -> Row:
    arm = work.stage.identity["arm"]
    system = work.stage.identity["system"]
    opening = ({"role": "system", "content": system},) if system else ()
    requests = []
    for row in scenarios.authored(work.constitution, work.recipe):
        if row["split"] != "heldout":
            continue
        about = {
            "scenario": row["id"],
            "trait": row["trait"],
            "kind": row["kind"],
            "context": row["context"],
            "source": row["source"],
            "prompt": row["prompt"],
            "arm": arm,
        }
        for sample in range(work.recipe.evaluation.samples):
            # The same seed in every arm: a paired comparison shares what luck it can.
            seed = seed_for(work.recipe.seed, "answers", row["id"], sample)
            messages = (*opening, {"role": "user", "content": row["prompt"]})
            requests.append(Request(messages, work.recipe.evaluation.sampling, seed, {**about, "sample": sample}))
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about
