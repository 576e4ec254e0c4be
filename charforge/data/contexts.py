"""What a model is shown of the constitution: one trait with its examples, or the character as a whole.

The teacher sees the identity, one trait and examples of that trait, so that editing a trait touches the rows of that
trait only. The judge sees the whole character in brief.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

from rapidfuzz import fuzz

from charforge.constitution import Constitution, Example, Message, Trait
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
    """The teacher's system message: who the character is, and one trait in full."""
    prose = " ".join(trait.prose.split())
    text = prompts.render("in_character", identity=constitution.identity, title=trait.title, prose=prose)
    return {"role": "system", "content": text}


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


def teacher(constitution: Constitution, trait: Trait, prompt: str, recipe: Recipe) -> list[Message]:
    """Everything before the teacher's reply, the prompt included."""
    available, _ = split_examples(trait, recipe.judge.heldout_examples)
    shown = retrieve(available, prompt, recipe.responses.examples)
    return [system(constitution, trait), *as_turns(shown), {"role": "user", "content": prompt}]


def sheet(constitution: Constitution) -> str:
    """The character as a whole, in brief: the identity and each trait in one sentence."""
    traits = [{"title": trait.title, "summary": trait.summary} for trait in constitution.traits]
    return prompts.render("sheet", identity=constitution.identity, traits=traits)


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
