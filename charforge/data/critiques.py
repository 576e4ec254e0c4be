"""Critiques and revisions: the teacher looks at a reply from the trait's point of view, then says it again, better.

The method is that of Bai et al. 2022 (Constitutional AI, arXiv 2212.08073), in the character's own voice. The authored
contrasts ("Not this", with a "Why") are the demonstrations: a plain reply, what is missing in it, and the reply in character.
"""

from __future__ import annotations

from charforge.constitution import Constitution, Message, Trait
from charforge.data import contexts, prompts
from charforge.data.responses import trait_digests
from charforge.engine import Request, complete, seed_for
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_rows

_DEMONSTRATIONS = 2


def stages(
    constitution: Constitution, recipe: Recipe, responses: Stage, weights: Weights, process_name: str
) -> list[Stage]:
    """A critique and a revision stage for each round; a later round works on the revisions of the one before."""
    result: list[Stage] = []
    drafts = responses
    for number in range(1, recipe.critiques.rounds + 1):
        suffix = "" if number == 1 else f"-{number}"
        identity = {
            "seed": recipe.seed,
            "round": number,
            "share": recipe.critiques.share,
            "sampling": recipe.critiques.sampling.model_dump(mode="json"),
            "heldout_examples": recipe.judge.heldout_examples,
            "identity": constitution.identity,
            "name": constitution.name,
            "traits": trait_digests(constitution),
            "prompts": prompts.digest("in_character", "critique", "revision"),
            "teacher": weights.identity,
            "engine": recipe.engine,
        }
        critique = Stage(f"critiques{suffix}", 1, identity, {"drafts": drafts}, process_name, run_critiques, weights)
        revision = Stage(
            f"revisions{suffix}",
            1,
            {**identity, "sampling": recipe.responses.sampling.model_dump(mode="json")},
            {"critiques": critique},
            process_name,
            run_revisions,
            weights,
        )
        result += [critique, revision]
        drafts = revision
    return result


def _opening(work: Work, trait: Trait) -> list[Message]:
    """The system message and the demonstrations."""
    available = contexts.dosed(trait, work.recipe.judge.heldout_examples)
    messages = [contexts.system(work.constitution, trait)]
    shown = [e for e in available if e.contrast and e.why][:_DEMONSTRATIONS]
    for example in shown:
        assert example.contrast and example.why
        messages += _asked(work.constitution, trait, example.prompt, example.contrast)
        messages += _answered(example.why)
        messages.append({"role": "assistant", "content": example.reply})
    return messages


def _asked(constitution: Constitution, trait: Trait, prompt: list[Message], draft: str) -> list[Message]:
    text = prompts.render("critique", name=constitution.name, summary=trait.summary)
    return [*prompt, {"role": "assistant", "content": draft}, {"role": "user", "content": text}]


def _answered(critique: str) -> list[Message]:
    return [
        {"role": "assistant", "content": critique},
        {"role": "user", "content": prompts.render("revision")},
    ]


def _critique_messages(work: Work, row: Row, draft: str) -> list[Message]:
    trait = work.constitution.trait(row["trait"])
    prompt = [{"role": "user", "content": row["prompt"]}]
    return [*_opening(work, trait), *_asked(work.constitution, trait, prompt, draft)]


def _about(row: Row) -> Row:
    return {key: row[key] for key in ("scenario", "trait", "kind", "context", "prompt")}


def run_critiques(work: Work) -> Row:
    """One critique per scenario, of its first draft."""
    requests = []
    for row in work.rows("drafts"):
        drawn = contexts.stable_fraction("critique " + row["prompt"]) < work.recipe.critiques.share
        if row["sample"] == 0 and row["text"] and drawn:
            messages = tuple(_critique_messages(work, row, row["text"]))
            seed = seed_for(work.recipe.seed, work.stage.name, row["scenario"])
            about = {**_about(row), "draft": row["text"], "source": "critique"}
            requests.append(Request(messages, work.recipe.critiques.sampling, seed, about))
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about


def run_revisions(work: Work) -> Row:
    """One revision per critique."""
    requests = []
    for row in work.rows("critiques"):
        messages = (*_critique_messages(work, row, row["draft"]), *_answered(row["text"]))
        seed = seed_for(work.recipe.seed, work.stage.name, row["scenario"])
        about = {**_about(row), "critique": row["text"], "source": "revision", "sample": 0}
        requests.append(Request(messages, work.recipe.responses.sampling, seed, about))
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about
