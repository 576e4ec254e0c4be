"""Situations: what the plain model says under a constitution where every character must answer somehow.

Several replies to each prompt; where the constitution does not decide, they disagree. Used by the void report.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from charforge import shipped
from charforge.constitution import Constitution
from charforge.constitution.void import Situation, load_situations
from charforge.data import contexts, prompts
from charforge.engine import Request, complete, seed_for
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_rows

NAME = "situations"


def situations_file() -> Path:
    return shipped.find("eval", "situations", ".yaml")


def stage(constitution: Constitution, recipe: Recipe, weights: Weights, process_name: str) -> Stage:
    situations = load_situations(situations_file())
    return Stage(
        name=NAME,
        version=1,
        identity={
            "seed": recipe.seed,
            "samples": recipe.evaluation.samples,
            "sampling": recipe.evaluation.sampling.model_dump(mode="json"),
            "situations": [[item.id, list(item.prompts)] for item in situations],
            "system": contexts.sheet(constitution),
            "template": prompts.digest("sheet"),
            "student": weights.identity,
            "engine": recipe.engine,
        },
        inputs={},
        process=process_name,
        run=run,
        weights=weights,
    )


def run(work: Work) -> Row:
    system = {"role": "system", "content": work.stage.identity["system"]}
    requests = []
    for situation_id, texts in work.stage.identity["situations"]:
        for text in texts:
            for sample in range(work.recipe.evaluation.samples):
                seed = seed_for(work.recipe.seed, NAME, text, sample)
                about = {"situation": situation_id, "prompt": text, "sample": sample}
                messages = (system, {"role": "user", "content": text})
                requests.append(Request(messages, work.recipe.evaluation.sampling, seed, about))
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about


def spread(rows: Sequence[Row], situations: Sequence[Situation]) -> dict[str, dict[str, Any]]:
    """How much the replies to one prompt differ, per situation: the mean over its prompts and pairs of replies of 1 -
    their token-set ratio (0: the same words, 1: none in common), with the two replies that differ most.

    It is a measure of words. It ranks situations within one run; two replies can say the same in other words.
    """
    by_prompt: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        by_prompt.setdefault((row["situation"], row["prompt"]), []).append(str(row["text"]).strip())
    result: dict[str, dict[str, Any]] = {}
    for situation in situations:
        pairs = [
            (1 - fuzz.token_set_ratio(a, b) / 100, prompt, a, b)
            for (name, prompt), texts in by_prompt.items()
            if name == situation.id
            for a, b in itertools.combinations(texts, 2)
        ]
        if pairs:
            widest = max(pairs)
            result[situation.id] = {
                "spread": round(statistics.fmean(pair[0] for pair in pairs), 4),
                "prompt": widest[1],
                "replies": [widest[2], widest[3]],
            }
    return result
