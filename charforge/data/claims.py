"""Claims: what a model reads out of passages by a person, one sentence in the first person for each.

A claim is worth no more than the words it rests on, so each is kept with a sentence of its passage, and one that says what
every assistant says, or that is close to another, is dropped.
"""

from __future__ import annotations

import re

from rapidfuzz import fuzz

from charforge.constitution import Constitution, corpus
from charforge.constitution.corpus import Claim, Passage
from charforge.data import prompts
from charforge.engine import Request, complete, seed_for
from charforge.markers import sentences, word_count
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_rows

NAME = "claims"
_MOST = 40
# A claim that shares less than this (token-set ratio, 0-100) with any sentence of its passage rests on nothing.
_SUPPORTED = 60
# Talk of a model about itself or to its reader, which is no claim about the person.
_ASSISTANT = re.compile(
    r"\b(?:AI|assistant|language model|help you|you|your|sorry|glad to|the following)\b", re.IGNORECASE
)


def stage(constitution: Constitution, recipe: Recipe, weights: Weights, process_name: str) -> Stage:
    passages = _chosen(constitution)
    return Stage(
        name=NAME,
        version=1,
        identity={
            "seed": recipe.seed,
            "sampling": recipe.critiques.sampling.model_dump(mode="json"),
            "name": constitution.name,
            "passages": [passage.id for passage in passages],
            "prompts": prompts.digest("claim"),
            "teacher": weights.identity,
            "engine": recipe.engine,
        },
        inputs={},
        process=process_name,
        run=run,
        weights=weights,
    )


def _chosen(constitution: Constitution) -> list[Passage]:
    assert constitution.corpus is not None
    open_ = [passage for passage in corpus.read(constitution.corpus) if not passage.held_out]
    return sorted(open_, key=lambda passage: passage.id)[:_MOST]


def run(work: Work) -> Row:
    requests = []
    for passage in _chosen(work.constitution):
        text = prompts.render("claim", name=work.constitution.name, passage=passage.text)
        seed = seed_for(work.recipe.seed, NAME, passage.id)
        about = {"passage": passage.id, "source": passage.source}
        requests.append(Request(({"role": "user", "content": text},), work.recipe.critiques.sampling, seed, about))
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about


def gather(rows: list[Row], constitution: Constitution, most: int = 8) -> list[Claim]:
    """The claims worth keeping, each with the sentence of its passage that is closest to it."""
    assert constitution.corpus is not None
    passages = {passage.id: passage for passage in corpus.read(constitution.corpus)}
    kept: list[tuple[float, Claim]] = []
    for row in rows:
        said = sentences(row["text"])
        first = " ".join(said[0].split()) if said else ""
        passage = passages.get(row["passage"])
        if (
            passage is None
            or not re.match(r"I\s", first)
            or not 5 <= word_count(first) <= 30
            or _ASSISTANT.search(first)
        ):
            continue
        quotes = [s for s in sentences(passage.text) if 4 <= word_count(s) <= 40 and '"' not in s]
        if not quotes:
            continue
        quote = max(quotes, key=lambda s: fuzz.token_set_ratio(s, first))
        if fuzz.token_set_ratio(quote, first) < _SUPPORTED:
            continue
        if any(fuzz.token_set_ratio(first, claim.prose) > 70 for _, claim in kept):
            continue
        title = re.sub(r"^I\s+(?:am|hold|believe|value|think)?\s*(?:to|that|in)?\s*", "", first.rstrip(".!?"))
        title = " ".join(title.split()[:6]).strip(" ,;:")
        if title:
            claim = Claim(title[:1].upper() + title[1:], first, quote, passage)
            kept.append((fuzz.token_set_ratio(quote, first), claim))
    kept.sort(key=lambda item: (-item[0], item[1].title))
    return [claim for _, claim in kept[:most]]
