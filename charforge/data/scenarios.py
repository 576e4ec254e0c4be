"""Scenarios: the prompts, split before anything else is made.

Three sources: the constitution's probes (and, for boundaries, look-alikes), a bank of general prompts, and prompts that
the teacher writes after the training probes. What is held out is decided by the texts alone, by trait and by scenario,
so that one more prompt does not move the others; what the teacher writes is for training, and is dropped if it is too
close to anything known, held-out prompts above all.
"""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import yaml
from rapidfuzz import fuzz, process

from charforge.constitution import Constitution, Message, Trait, digest, slugify
from charforge.data import contexts, prompts
from charforge.engine import Request, complete, seed_for
from charforge.errors import UserError, did_you_mean
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_rows

NAME = "scenarios"
_ABOUT_ITSELF = ("identity", "self-knowledge", "relationships", "predecessors")
_SHOTS = 5


def stage(constitution: Constitution, recipe: Recipe, weights: Weights, process_name: str) -> Stage:
    """The stage. It depends on the probes and intensities of the traits, not on their prose."""
    bank = load_bank(Path(recipe.scenarios.bank))
    unknown = set(recipe.scenarios.heldout_traits) - {trait.id for trait in constitution.traits}
    if unknown:
        name = sorted(unknown)[0]
        known = [trait.id for trait in constitution.traits]
        raise UserError(f"scenarios.heldout_traits: no trait {name!r}{did_you_mean(name, known)}")
    return Stage(
        name=NAME,
        version=1,
        identity={
            "seed": recipe.seed,
            "settings": recipe.scenarios.model_dump(mode="json", exclude={"bank"}),
            "heldout_examples": recipe.judge.heldout_examples,
            "bank": digest(bank),
            "name": constitution.name,
            "traits": {trait.id: trait_digest(trait) for trait in constitution.traits},
            "prompts": prompts.digest("scenario"),
            "teacher": weights.identity,
            "engine": recipe.engine,
        },
        inputs={},
        process=process_name,
        run=run,
        weights=weights,
    )


def trait_digest(trait: Trait) -> str:
    """What the scenarios depend on of a trait."""
    return digest(
        [
            trait.section,
            trait.intensity,
            str(trait.where),
            trait.probes,
            trait.look_alikes,
            trait.is_boundary,
            [example.prompt for example in trait.examples],
            [temptation.prompt for temptation in trait.temptations],
        ]
    )


def load_bank(path: Path) -> dict[str, list[str]]:
    """The general prompts by category.

    Raises:
        UserError: if the file is not a suite of prompts.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = data["prompts"]
        return {str(category): [str(text) for text in texts] for category, texts in groups.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"not a bank of prompts: {error}", place=str(path), hint="see eval/README.md for the format"
        ) from error


def make(prompt: str, trait: str, kind: str, source: str, split: str, context: str | None = None) -> Row:
    """One scenario. Its id is the hash of its prompt and trait; `context` is what a trait's scope is held against."""
    return {
        "id": digest([prompt, trait])[:12],
        "prompt": prompt,
        "trait": trait,
        "kind": kind,
        "source": source,
        "split": split,
        "context": context,
    }


def _context(trait: Trait, kind: str) -> str | None:
    """The context of a trait's own prompt; what only looks like a boundary's has none."""
    return None if kind == "look-alike" else trait.context


def authored(constitution: Constitution, recipe: Recipe) -> list[Row]:
    """The scenarios that people wrote: probes, look-alikes and the general bank, with their split. Needs no model."""
    settings = recipe.scenarios
    rows: list[Row] = []
    for trait in constitution.traits:
        groups = [("boundary" if trait.is_boundary else "probe", trait.probes)]
        if trait.look_alikes:
            groups.append(("look-alike", trait.look_alikes))
        for kind, texts in groups:
            everything = trait.id in settings.heldout_traits
            heldout = set(texts) if everything else contexts.hold_out(texts, settings.heldout)
            rows.extend(
                make(
                    text,
                    trait.id,
                    kind,
                    "constitution",
                    "heldout" if text in heldout else "train",
                    _context(trait, kind),
                )
                for text in texts
            )
    return rows + _general(constitution, recipe, rows)


def _general(constitution: Constitution, recipe: Recipe, known: list[Row]) -> list[Row]:
    settings = recipe.scenarios
    taken = {normal(row["prompt"]) for row in known}
    taken |= {normal(text) for text in _authored_prompts(constitution)}
    candidates = [
        (text, category)
        for category, texts in load_bank(Path(settings.bank)).items()
        for text in texts
        if normal(text) not in taken
    ]
    # The split of a prompt depends on its text; which of them are used, and for which trait, on hashes as well.
    candidates.sort(key=lambda item: contexts.stable_fraction("order " + item[0]))
    rows: list[Row] = []
    room = {"train": settings.general, "heldout": settings.general_heldout}
    for text, category in candidates:
        split = "heldout" if contexts.stable_fraction("split " + text) < settings.heldout else "train"
        trait, kind = _trait_for(constitution, text, category)
        if trait.id in settings.heldout_traits and split == "train":
            continue
        if room[split] > 0:
            room[split] -= 1
            context = {"boundary": "boundary", "lookalike": None}.get(category, category)
            rows.append(make(text, trait.id, kind, "bank", split, context))
    return rows


def heldout(constitution: Constitution, recipe: Recipe, kind: str = "probe") -> list[Row]:
    """The constitution's own prompts of a kind that are held out, in the order of its traits."""
    of = ("heldout", "constitution", kind)
    return [row for row in authored(constitution, recipe) if (row["split"], row["source"], row["kind"]) == of]


def trained_on(constitution: Constitution, recipe: Recipe) -> frozenset[str]:
    """Every authored prompt that training data are made from, as `normal` writes it."""
    found = [row["prompt"] for row in authored(constitution, recipe) if row["split"] == "train"]
    for trait in constitution.traits:
        shown = contexts.split_examples(trait, recipe.judge.heldout_examples)[0]
        found += [example.prompt[-1]["content"] for example in shown]
        found += [temptation.prompt[-1]["content"] for temptation in trait.temptations]
    return frozenset(normal(text) for text in found)


def _authored_prompts(constitution: Constitution) -> list[str]:
    """What users say in the constitution's own dialogues."""
    prompts_of = [example.prompt for trait in constitution.traits for example in trait.examples]
    prompts_of += [temptation.prompt for trait in constitution.boundaries for temptation in trait.temptations]
    return [prompt[-1]["content"] for prompt in prompts_of]


def _trait_for(constitution: Constitution, text: str, category: str) -> tuple[Trait, str]:
    """Which trait a general prompt is answered from: the closest boundary, or one drawn by intensity.

    The draw is by weighted rendezvous hashing (Schindelhauer & Schomaker 2005): a new or edited trait takes its share of
    the prompts and leaves every other assignment as it was.
    """
    if category in ("boundary", "lookalike") and constitution.boundaries:
        closest = max(
            constitution.boundaries,
            key=lambda t: max((fuzz.token_set_ratio(text, p) for p in (*t.probes, *t.look_alikes)), default=0),
        )
        return closest, "boundary" if category == "boundary" else "look-alike"
    pool = [t for t in constitution.traits if not t.is_boundary and t.intensity > 0 and t.where.holds(category)]
    if category == "identity":
        pool = [trait for trait in pool if slugify(trait.section) in _ABOUT_ITSELF] or pool
    pool = pool or list(constitution.traits)

    def height(trait: Trait) -> float:
        return -max(trait.intensity, 0.01) / math.log(max(contexts.stable_fraction(f"{trait.id} {text}"), 1e-12))

    return max(pool, key=height), "general"


def normal(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def _expansion_requests(constitution: Constitution, recipe: Recipe, rows: list[Row]) -> list[Request]:
    settings = recipe.scenarios
    requests = []
    for trait in constitution.traits:
        for kind in ("boundary", "look-alike") if trait.is_boundary else ("probe",):
            seeds = [r["prompt"] for r in rows if (r["trait"], r["kind"], r["split"]) == (trait.id, kind, "train")]
            if not seeds or trait.id in settings.heldout_traits:
                continue
            for number in range(math.ceil(settings.expand * trait.intensity)):
                seed = seed_for(recipe.seed, NAME, trait.id, kind, number)
                shots = random.Random(seed).sample(seeds, min(_SHOTS, len(seeds)))
                about = {"trait": trait.id, "kind": kind, "number": number}
                requests.append(Request(_few_shot(constitution, shots), settings.sampling, seed, about))
    return requests


def _few_shot(constitution: Constitution, shots: list[str]) -> tuple[Message, ...]:
    """Known prompts as earlier answers to the same request: even a small model then writes one more of the kind."""
    ask = {"role": "user", "content": prompts.render("scenario", name=constitution.name)}
    turns = [message for shot in shots for message in (ask, {"role": "assistant", "content": shot})]
    return (*turns, ask)


def _clean(text: str) -> str | None:
    """The first line of what the teacher wrote, if it can be a prompt."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    line = re.sub(r"^(?:[-*•]|\d+[.)])\s*", "", line).strip().strip('"“”').strip()
    return line if 3 <= len(line.split()) <= 40 and line[-1] in ".?!\"'”’)" else None


def run(work: Work) -> Row:
    constitution, recipe = work.constitution, work.recipe
    rows = authored(constitution, recipe)
    drawn, about = complete(work, _expansion_requests(constitution, recipe, rows))
    known = [normal(text) for text in [*(row["prompt"] for row in rows), *_authored_prompts(constitution)]]
    drops = {"no usable line": 0, "too close to a known prompt": 0}
    for draft in drawn:
        text = _clean(draft["text"])
        if text is None:
            drops["no usable line"] += 1
            continue
        match = process.extractOne(normal(text), known, scorer=fuzz.token_set_ratio)
        if match and match[1] >= recipe.scenarios.similarity:
            drops["too close to a known prompt"] += 1
            continue
        known.append(normal(text))
        context = _context(constitution.trait(draft["trait"]), draft["kind"])
        rows.append(make(text, draft["trait"], draft["kind"], "expanded", "train", context))
    write_rows(work.directory / "drafts.jsonl", drawn)
    write_rows(work.directory / "rows.jsonl", rows)
    counts: dict[str, int] = {}
    for row in rows:
        counts[f"{row['split']} {row['source']}"] = counts.get(f"{row['split']} {row['source']}", 0) + 1
    return {**about, "scenarios": counts, "dropped": drops}
