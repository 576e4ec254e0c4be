"""Responses: candidates for the chosen side, by the teacher in character; and the student's own, as it is.

`responses` shows the teacher the identity, the scenario's trait and similar examples. For a council it holds the drafts
of the voices instead, and `council` the replies made of them. `plain` shows the untrained student the prompt alone:
candidates for the rejected side, and the replies that judges are calibrated against.
"""

from __future__ import annotations

from charforge.constitution import Constitution
from charforge.data import contexts, prompts
from charforge.engine import Request, complete, seed_for
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_rows

NAME = "responses"
COUNCIL = "council"
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
            "voices": [[voice.constitution.digest, voice.weight] for voice in constitution.voices],
            "prompts": prompts.digest("in_character"),
            "teacher": weights.identity,
            "engine": recipe.engine,
        },
        inputs={"scenarios": scenarios},
        process=process_name,
        run=run,
        weights=weights,
    )


def council_stage(
    constitution: Constitution, recipe: Recipe, drafts: Stage, weights: Weights, process_name: str
) -> Stage:
    """The stage that makes one reply of the drafts of a council's voices, as the council's procedure says."""
    return Stage(
        name=COUNCIL,
        version=1,
        identity={
            "seed": recipe.seed,
            "settings": recipe.responses.model_dump(mode="json", exclude={"plain_samples"}),
            "heldout_examples": recipe.judge.heldout_examples,
            "identity": constitution.identity,
            "procedure": constitution.procedure,
            "traits": trait_digests(constitution),
            "prompts": prompts.digest("in_character", "council"),
            "teacher": weights.identity,
            "engine": recipe.engine,
        },
        inputs={"drafts": drafts},
        process=process_name,
        run=run_council,
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
    return {
        "scenario": row["id"],
        "trait": row["trait"],
        "kind": row["kind"],
        "context": row["context"],
        "prompt": row["prompt"],
    }


def run(work: Work) -> Row:
    requests = []
    for row in work.rows("scenarios"):
        if row["split"] != "train":
            continue
        if work.constitution.voices:
            requests += _drafts(work, row)
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


def _drafts(work: Work, row: Row) -> list[Request]:
    """Drafts by each voice of a council: for every reply one by the lightest voice, and of the others as many as their
    weight says (three at most)."""
    recipe, voices = work.recipe, work.constitution.voices
    lightest = min(voice.weight for voice in voices)
    requests = []
    for voice in voices:
        name = voice.constitution.name
        trait, messages = contexts.voice(voice.constitution, row, recipe)
        heard = min(3, max(1, round(voice.weight / lightest)))
        for number in range(recipe.responses.samples * heard):
            seed = seed_for(recipe.seed, NAME, row["id"], name, number)
            about = {
                **about_scenario(row),
                "source": "voice",
                "voice": name,
                "voice_trait": trait.id,
                "weight": voice.weight,
                "sample": number // heard,
            }
            requests.append(Request(tuple(messages), recipe.responses.sampling, seed, {**about, "number": number}))
    return requests


def run_council(work: Work) -> Row:
    """One reply for each round of drafts, of which every draft is in one."""
    rounds: dict[tuple[str, int], list[Row]] = {}
    for row in work.rows("drafts"):
        rounds.setdefault((row["scenario"], row["sample"]), []).append(row)
    requests = []
    for (scenario, sample), drafts in rounds.items():
        trait = work.constitution.trait(drafts[0]["trait"])
        # The weightiest voice speaks last, where a reader, and a small model, heeds it most.
        heard = [d for d in sorted(drafts, key=lambda draft: draft["weight"]) if d["text"].strip()]
        said = [(draft["voice"], draft["text"]) for draft in heard]
        prompt = drafts[0]["prompt"]
        messages = contexts.reconcile(work.constitution, trait, said, prompt, work.recipe)
        about = {
            **{key: drafts[0][key] for key in ("scenario", "trait", "kind", "context", "prompt")},
            "source": "council",
            "voices": {draft["voice"]: draft["weight"] for draft in heard},
            "drafts": [draft["key"] for draft in heard],
            "sample": sample,
        }
        seed = seed_for(work.recipe.seed, COUNCIL, scenario, sample)
        requests.append(Request(tuple(messages), work.recipe.responses.sampling, seed, about))
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
