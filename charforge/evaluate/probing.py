"""Asks the arms of a trained character what a suite asks, and measures their replies. One stage for each suite and arm, and
one that measures, so that another suite, or a changed marker, asks nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from charforge.constitution import Constitution
from charforge.data import contexts, prompts
from charforge.engine import Request, complete, seed_for
from charforge.evaluate import robustness, scaffolds, voice
from charforge.evaluate.answers import PROMPTED
from charforge.evaluate.suites import Probe, RobustnessSuite, ScaffoldSuite, Suite
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.statistics import Estimate
from charforge.store import Row, write_atomic, write_rows


@dataclass(frozen=True)
class Arm:
    """A model that is asked: `trained` is the stage that made its weights, None for the untrained model."""

    name: str
    weights: Weights
    process: str
    trained: Stage | None = None


def limited(suite: Suite, limit: int | None) -> Suite:
    """The suite with at most so many of its independent units, the first of each kind."""
    if limit is None:
        return suite
    if isinstance(suite, RobustnessSuite):
        kept = {name: getattr(suite, name)[:limit] for name in ("plain", "identity", "invitations")}
        return suite.model_copy(update=kept)
    return suite.model_copy(update={"matters": dict(list(suite.matters.items())[:limit])})


def stages(constitution: Constitution, recipe: Recipe, suites: Sequence[Suite], arms: Sequence[Arm]) -> list[Stage]:
    """The stages of an evaluation: those of one arm stand together, so that its weights are loaded once."""
    asked: dict[str, dict[str, Stage]] = {suite.name: {} for suite in suites}
    result: list[Stage] = []
    for arm in arms:
        system = contexts.sheet(constitution) if arm.name == PROMPTED else None
        for suite in suites:
            stage = Stage(
                name=f"{suite.name}-{arm.name}",
                version=1,
                identity={
                    "suite": suite.model_dump(mode="json", exclude={"description"}),
                    "arm": arm.name,
                    "seed": recipe.seed,
                    "samples": recipe.evaluation.samples,
                    "sampling": recipe.evaluation.sampling.model_dump(mode="json"),
                    "system": system,
                    "template": prompts.digest("sheet") if system else None,
                    "student": arm.weights.identity,
                    "engine": recipe.engine,
                },
                inputs={"trained": arm.trained} if arm.trained else {},
                process=arm.process,
                run=partial(_ask, suite, arm.name, system),
                weights=arm.weights,
            )
            asked[suite.name][arm.name] = stage
            result.append(stage)
    for suite in suites:
        heard = {
            t.id: [t.intensity, str(t.where), [m.text for m in t.markers]] for t in constitution.traits if t.is_voice
        }
        result.append(
            Stage(
                name=f"measure-{suite.name}",
                version=1,
                identity={"measure": suite.measure, "voice": heard, "strong": voice.STRONG},
                inputs={f"arm:{name}": stage for name, stage in asked[suite.name].items()},
                process="measure",
                run=partial(_measure, suite),
            )
        )
    return result


def _probes(suite: Suite, system: str | None) -> list[Probe]:
    if isinstance(suite, ScaffoldSuite):
        return scaffolds.probes(suite, system)
    return robustness.probes(suite, system)


def _ask(suite: Suite, arm: str, system: str | None, work: Work) -> Row:
    requests = []
    for probe in _probes(suite, system):
        for sample in range(work.recipe.evaluation.samples):
            about = {
                "arm": arm,
                "probe": probe.id,
                "base": probe.base,
                "condition": probe.condition,
                "reads": probe.reads,
                "context": probe.context,
                # What was said, word for word: a reader must be able to see what a number is about.
                "messages": list(probe.messages),
                "prefill": probe.prefill if probe.prefill_tokens else "",
                "prefill_tokens": probe.prefill_tokens,
                "sample": sample,
            }
            # The same draw for the same request in every arm.
            seed = seed_for(work.recipe.seed, suite.name, probe.condition, probe.base, sample)
            requests.append(
                Request(
                    probe.messages,
                    work.recipe.evaluation.sampling,
                    seed,
                    about,
                    prefill=probe.prefill if probe.prefill_tokens else "",
                    prefill_tokens=probe.prefill_tokens,
                )
            )
    rows, about = complete(work, requests)
    write_rows(work.directory / "rows.jsonl", rows)
    return about


def _measure(suite: Suite, work: Work) -> Row:
    rows = [row for role in work.stage.inputs for row in work.rows(role)]
    for row in rows:
        words = scaffolds.own_words(row["text"], row["reads"])
        opened = not row["prefill_tokens"]
        row["words"] = words
        heard = voice.listen(work.constitution, words or "", row["context"], opening=opened)
        row.update(heard)
        row["share_unopened"] = voice.listen(work.constitution, words or "", row["context"], opening=False)["share"]
    write_rows(work.directory / "rows.jsonl", rows)
    found = (scaffolds if isinstance(suite, ScaffoldSuite) else robustness).measure(rows)
    data = {"suite": suite.name, "version": suite.version, "measure": suite.measure, "arms": _plain(found)}
    write_atomic(work.directory / "measures.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    return {"replies": len(rows)}


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in value.as_dict().items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
