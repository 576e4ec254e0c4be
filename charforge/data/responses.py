"""Responses: candidates for the chosen side, by the teacher in character; and the student's own, as it is.

`responses` shows the teacher the identity, the scenario's trait and similar examples. `plain` shows the untrained student
the prompt alone: candidates for the rejected side, and the replies that judges are calibrated against.
"""

from __future__ import annotations

from charforge.constitution import Constitution
from charforge.data import contexts, prompts
from charforge.engine import Request, complete, seed_for
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_rows

NAME = "responses"
PLAIN = "plain"


def trait_digests(constitution: Constitution) -> dict[str, str]:
    return {trait.id: trait.digest for trait in constitution.traits}


def stage(constitution: Constitution, recipe: Recipe, scenarios: Stage, weights: Weights, process_name: str) -> Stage:
    return Stage(
        name=NAME,
        version=1,
        identity={
            "seed": recipe.seed,
            "settings": recipe.responses.model_dump(mode="json", exclude={"plain_samples"}),
            "heldout_examples": recipe.judge.heldout_examples,
            "identity": constitution.identity,
            "traits": trait_digests(constitution),
            "prompts": prompts.digest("in_character"),
            "teacher": weights.identity,
            "engine": recipe.engine,
        },
        inputs={"scenarios": scenarios},
        process=process_name,
        run=run,
        weights=weights,
    )


def plain_stage(
    constitution: Constitution, recipe: Recipe, scenarios: Stage, weights: Weights, process_name: str
) -> Stage:
    return Stage(
        name=PLAIN,
        version=1,
        identity={
            "seed": recipe.seed,
            "samples": recipe.responses.plain_samples,
            "sampling": recipe.responses.sampling.model_dump(mode="json"),
            "heldout_examples": recipe.judge.heldout_examples,
            "examples": {t.id: [e.prompt for e in t.examples] for t in constitution.traits},
            "student": weights.identity,
            "engine": recipe.engine,
        },
        inputs={"scenarios": scenarios},
        process=process_name,
        run=run_plain,
        weights=weights,
    )


def about_scenario(row: Row) -> Row:
    """What every row of data carries of its scenario."""
    return {"scenario": row["id"], "trait": row["trait"], "kind": row["kind"], "prompt": row["prompt"]}


def run(work: Work) -> Row:
    requests = []
    for row in work.rows("scenarios"):
        if row["split"] != "train":
            continue
        trait = work.constitution.trait(row["trait"])
        messages = tuple(contexts.teacher(work.constitution, trait, row["prompt"], work.recipe))
        for sample in range(work.recipe.responses.samples):
            about = {**about_scenario(row), "source": "teacher", "sample": sample}
            seed = seed_for(work.recipe.seed, NAME, row["id"], sample)
            requests.append(Request(messages, work.recipe.responses.sampling, seed, about))
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about


def run_plain(work: Work) -> Row:
    settings = work.recipe.responses
    requests = []

    def ask(messages: tuple[dict[str, str], ...], about: Row, sample: int) -> None:
        seed = seed_for(work.recipe.seed, PLAIN, list(messages), sample)
        requests.append(Request(messages, settings.sampling, seed, {**about, "sample": sample}))

    for row in work.rows("scenarios"):
        if row["split"] == "train":
            for sample in range(settings.plain_samples):
                message = {"role": "user", "content": row["prompt"]}
                ask((message,), {**about_scenario(row), "source": "plain"}, sample)
    for trait in work.constitution.traits:
        _, heldout = contexts.split_examples(trait, work.recipe.judge.heldout_examples)
        for example in heldout:
            about = {"example": example.id, "trait": trait.id, "source": "calibration"}
            ask(tuple(example.prompt), {**about, "prompt": example.prompt[-1]["content"]}, 0)
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about
