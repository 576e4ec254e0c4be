"""What a model is shown of the constitution: one trait with its examples, or the character as a whole.

The teacher sees the identity, one trait and examples of that trait, so that editing a trait touches the rows of that
trait only. The judge sees the whole character in brief.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from rapidfuzz import fuzz

from charforge.constitution import Constitution, Example, Message, Trait, corpus, digest
from charforge.constitution.corpus import Passage
from charforge.data import prompts
from charforge.recipe import Recipe


def stable_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def hold_out(texts: Sequence[str], share: float) -> set[str]:
    """Which of the texts are held out: those whose own hash says so, so that one more text moves no other.

    Of two or more texts at least one is held out and at least one is not.
    """
    ordered = sorted(set(texts), key=stable_fraction)
    kept = {text for text in ordered if stable_fraction(text) < share}
    if len(ordered) > 1:
        kept |= {ordered[0]}
        kept -= {ordered[-1]}
    return kept


@cache
def split_examples(trait: Trait, heldout: float) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """A trait's examples for training and contexts, and those kept back to calibrate judges (at least one of two)."""
    kept = hold_out([example.id for example in trait.examples], heldout)
    return (
        tuple(e for e in trait.examples if e.id not in kept),
        tuple(e for e in trait.examples if e.id in kept),
    )


def system(constitution: Constitution, trait: Trait) -> Message:
    """The teacher's system message: who the character is, and one trait in full, as strong as its dials say."""
    told = {
        "title": trait.title,
        "prose": " ".join(trait.prose.split()),
        "offers": [offer.rstrip(".") for offer in trait.offers],
        "shows": None if trait.is_boundary or trait.is_tension else _shows(trait.intensity),
        "scope": trait.where.words,
    }
    return {"role": "system", "content": prompts.render("in_character", identity=constitution.identity, trait=told)}


def _shows(intensity: float) -> str:
    """The dial in words; the words themselves are in the prompt."""
    return next(
        word for floor, word in ((0.9, "always"), (0.6, "often"), (0.3, "sometimes"), (0, "hint")) if intensity >= floor
    )


def retrieve(examples: Sequence[Example], prompt: str, count: int) -> list[Example]:
    """The examples whose prompts are most like this one, the most similar last (closest to the prompt)."""
    ranked = sorted(
        examples,
        key=lambda e: (-fuzz.token_set_ratio(e.prompt[-1]["content"], prompt), stable_fraction(e.id)),
    )
    return list(reversed(ranked[:count]))


def as_turns(examples: Sequence[Example]) -> list[Message]:
    """Examples as earlier turns of the conversation."""
    return [
        message
        for example in examples
        for message in (*example.prompt, {"role": "assistant", "content": example.reply})
    ]


def dosed(trait: Trait, heldout: float) -> tuple[Example, ...]:
    """The training examples of a trait that its intensity lets into data and contexts: all of them from 0.7 upwards."""
    available, _ = split_examples(trait, heldout)
    ordered = sorted(available, key=lambda e: stable_fraction("dose " + e.id))
    kept = {e.id for e in ordered[: math.ceil(trait.dose * len(ordered))]}
    return tuple(e for e in available if e.id in kept)


def shown_examples(trait: Trait, prompt: str, recipe: Recipe) -> list[Example]:
    """What the teacher is shown of a trait's examples: the most similar to the prompt, fewer for a faint trait."""
    count = math.ceil(recipe.responses.examples * trait.dose)
    return retrieve(dosed(trait, recipe.judge.heldout_examples), prompt, count)


def teacher(constitution: Constitution, trait: Trait, prompt: str, recipe: Recipe) -> list[Message]:
    """Everything before the teacher's reply, the prompt included."""
    shown = shown_examples(trait, prompt, recipe)
    return [system(constitution, trait), *as_turns(shown), {"role": "user", "content": prompt}]


def told(constitution: Constitution, trait: Trait, recipe: Recipe) -> str:
    """The digest of all that a teacher can be told of a trait, in replies, critiques and revisions."""
    examples = dosed(trait, recipe.judge.heldout_examples)
    return digest([system(constitution, trait), trait.summary, [[list(e.turns), e.contrast, e.why] for e in examples]])


def voice(constitution: Constitution, row: dict[str, Any], recipe: Recipe) -> tuple[Trait, list[Message]]:
    """Everything before a draft by one voice of a council, and the trait of the voice that is closest to the prompt."""
    prompt = row["prompt"]

    def closeness(trait: Trait) -> tuple[float, float]:
        texts = [*trait.probes, *(e.prompt[-1]["content"] for e in trait.examples)]
        return max((fuzz.token_set_ratio(text, prompt) for text in texts), default=0.0), stable_fraction(
            trait.id + prompt
        )

    fitting = [trait for trait in constitution.traits if trait.where.holds(row["context"])] or constitution.traits
    pool = [trait for trait in fitting if trait.is_boundary == (row["kind"] == "boundary")] or fitting
    closest = max(pool, key=closeness)
    return closest, teacher(constitution, closest, prompt, recipe)


def reconcile(
    constitution: Constitution, trait: Trait, drafts: Sequence[tuple[str, str]], prompt: str, recipe: Recipe
) -> list[Message]:
    """Everything before a council's reply: who it is, its procedure, and the drafts (voice, text) of its voices."""
    text = prompts.render(
        "council",
        told=system(constitution, trait)["content"],
        procedure=constitution.procedure,
        drafts=[{"voice": name, "text": " ".join(draft.split())} for name, draft in drafts],
    )
    shown = shown_examples(trait, prompt, recipe)
    return [{"role": "system", "content": text}, *as_turns(shown), {"role": "user", "content": prompt}]


def sheet(constitution: Constitution) -> str:
    """The character as a whole, in brief: the identity and each trait in one sentence."""
    traits = [{"title": trait.title, "summary": trait.summary} for trait in constitution.traits]
    return prompts.render("sheet", identity=constitution.identity, traits=traits)


def own_passages(constitution: Constitution) -> tuple[tuple[Passage, ...], tuple[Passage, ...]]:
    """The passages of a constitution's corpus: those for contexts, and those held out to measure judges."""
    assert constitution.corpus is not None
    everything = corpus.read(constitution.corpus)
    return tuple(p for p in everything if not p.held_out), tuple(p for p in everything if p.held_out)


def passages(constitution: Constitution, pool: Sequence[Passage], text: str, count: int) -> Message:
    """A system message with the passages of the pool that are most like a text, the closest last."""
    ranked = sorted(pool, key=lambda p: (-fuzz.token_set_ratio(p.text, text), p.id))[:count]
    told = [passage.text for passage in reversed(ranked)]
    name = constitution.name
    return {
        "role": "system",
        "content": prompts.render("passages", identity=constitution.identity, name=name, passages=told),
    }


def judge(constitution: Constitution, recipe: Recipe) -> tuple[Message, ...]:
    """The judge's context: the sheet, and examples from as many different traits as possible."""
    pools = [
        sorted(split_examples(trait, recipe.judge.heldout_examples)[0], key=lambda e: stable_fraction(e.id))
        for trait in sorted(constitution.traits, key=lambda t: stable_fraction(t.id))
    ]
    chosen: list[Example] = []
    depth = 0
    while len(chosen) < recipe.judge.examples and any(len(pool) > depth for pool in pools):
        chosen.extend(pool[depth] for pool in pools if len(pool) > depth)
        depth += 1
    shown = chosen[: recipe.judge.examples]
    return ({"role": "system", "content": sheet(constitution)}, *as_turns(shown))
