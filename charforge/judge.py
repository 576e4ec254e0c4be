"""Judges: which of two replies is more in character, and how often a judge is right.

`likelihood_ratio` scores a reply by the mean over its tokens of log p(token | constitution, prompt) - log p(token | prompt):
how much more likely the constitution makes it. `pairwise` asks a model which of two replies is the character's, in both
orders, and reads the probability of the label. `corpus` is the first with passages that a person wrote, those most like
prompt and reply, in place of the constitution: would that person have written this? Each is measured on what it has never
seen before its word is used: examples of the constitution, and for the corpus held-out passages against another author's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rapidfuzz import fuzz

from charforge import shipped
from charforge.constitution import Constitution, Message, corpus, digest
from charforge.data import contexts, prompts
from charforge.engine.bench import Bench, Question
from charforge.engine.scoring import Item
from charforge.errors import StageError, UserError
from charforge.models import ResolvedModel, resolve
from charforge.recipe import Endpoint, ModelReference, Recipe
from charforge.stage import Stage, Weights, Work
from charforge.statistics import Estimate, share
from charforge.store import Row, read_rows, write_atomic, write_rows

Kind = Literal["likelihood_ratio", "pairwise", "corpus"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NAME = "judge"
_LABELS = ("A", "B")
# Below this probability on the two labels together the model did not answer the question; the verdict is void.
_MIN_MASS = 0.5


@dataclass(frozen=True)
class Case:
    """A reply to be scored, and the reply that a pairwise judge compares it with."""

    messages: tuple[Message, ...]
    reply: str
    reference: str


@dataclass(frozen=True)
class Score:
    """`value`: more is more in character; only differences between replies to one prompt mean anything.

    For the likelihood ratio in nats per token; for the pairwise judge P(beats the reference) - 1/2. None: no verdict.
    """

    value: float | None
    mass: float = 1.0


def model_of(recipe: Recipe) -> ResolvedModel | Endpoint:
    """The model that judges: the recipe's, or the student's untrained weights."""
    chosen = recipe.judge.model
    if isinstance(chosen, Endpoint):
        return chosen
    return resolve(chosen if isinstance(chosen, ModelReference) else recipe.model)


def identity(constitution: Constitution, recipe: Recipe, *, second: bool) -> dict[str, Any]:
    """All that determines the verdicts of the judge, and of the second one, for the keys of stages that use them."""
    model = model_of(recipe)
    used = {recipe.judge.kind, recipe.judge.second if second else None}
    return {
        "kind": recipe.judge.kind,
        "second": recipe.judge.second if second else None,
        "model": {"endpoint_model": model.model} if isinstance(model, Endpoint) else model.identity,
        "context": digest(list(contexts.judge(constitution, recipe))),
        "prompts": prompts.digest("sheet", "pairwise"),
        "corpus": _corpus_identity(constitution, recipe) if "corpus" in used else None,
    }


def _corpus_identity(constitution: Constitution, recipe: Recipe) -> dict[str, Any]:
    if constitution.corpus is None:
        raise UserError(
            "judge: corpus: the constitution names no corpus",
            place=str(constitution.path),
            hint="add 'corpus: FOLDER' to its front matter, or choose another judge",
        )
    own, heldout = contexts.own_passages(constitution)
    return {
        "own": [passage.id for passage in own],
        "heldout": [passage.id for passage in heldout],
        "others": [passage.id for passage in corpus.read(others_path(recipe))],
        "passages": recipe.judge.passages,
        "prompts": prompts.digest("passages", "passage"),
    }


def others_path(recipe: Recipe) -> Path:
    """Where the writing of others is: a folder or file as it is named, or a shipped one."""
    named = Path(recipe.judge.others)
    return named if named.exists() else shipped.folder("eval") / recipe.judge.others


def score(bench: Bench, kind: Kind, cases: Sequence[Case]) -> list[Score]:
    """Score replies; equal cases cost nothing twice."""
    work = bench.work
    model = model_of(work.recipe)
    if kind == "likelihood_ratio":
        assert isinstance(model, ResolvedModel)
        context = contexts.judge(work.constitution, work.recipe)
        inside = bench.log_probabilities(Weights(model), [Item(context, case.messages, case.reply) for case in cases])
        outside = bench.log_probabilities(Weights(model), [Item((), case.messages, case.reply) for case in cases])
        return [
            Score(None) if a["mean"] is None or b["mean"] is None else Score(a["mean"] - b["mean"])
            for a, b in zip(inside, outside, strict=True)
        ]
    if kind == "corpus":
        return _corpus_scores(bench, cases)
    sheet: tuple[Message, ...] = ({"role": "system", "content": contexts.sheet(work.constitution)},)
    name = work.constitution.name

    def question(case: Case, first: str, second: str) -> str:
        asked = "\n".join(message["content"] for message in case.messages if message["role"] == "user")
        return prompts.render("pairwise", name=name, prompt=asked, first=first, second=second)

    # A reply compared with itself needs no verdict: it is the zero of the scale.
    open_cases = [case for case in cases if case.reply != case.reference]
    asked = [question(case, case.reply, case.reference) for case in open_cases]
    asked += [question(case, case.reference, case.reply) for case in open_cases]
    questions = [Question(sheet, ({"role": "user", "content": text},), _LABELS) for text in asked]
    rows = iter(bench.choices(Weights(model), questions))
    straight = [next(rows) for _ in open_cases]
    verdicts = iter([_combine(case, row, next(rows)) for case, row in zip(open_cases, straight, strict=True)])
    return [next(verdicts) if case.reply != case.reference else Score(0.0) for case in cases]


def _corpus_scores(bench: Bench, cases: Sequence[Case]) -> list[Score]:
    """Per token, log p(reply | passages, prompt) - log p(reply | prompt); each reply is shown the passages closest to it."""
    work = bench.work
    model = model_of(work.recipe)
    assert isinstance(model, ResolvedModel)
    pool, _ = contexts.own_passages(work.constitution)

    def item(case: Case) -> Item:
        text = " ".join([*(m["content"] for m in case.messages if m["role"] == "user"), case.reply])
        # The passages differ from case to case, so they are no shared context.
        told = contexts.passages(work.constitution, pool, text, work.recipe.judge.passages)
        return Item((), (told, *case.messages), case.reply)

    inside = bench.log_probabilities(Weights(model), [item(case) for case in cases])
    outside = bench.log_probabilities(Weights(model), [Item((), case.messages, case.reply) for case in cases])
    return [
        Score(None) if a["mean"] is None or b["mean"] is None else Score(a["mean"] - b["mean"])
        for a, b in zip(inside, outside, strict=True)
    ]


def passage_pairs(constitution: Constitution, recipe: Recipe) -> list[tuple[corpus.Passage, corpus.Passage]]:
    """Each held-out passage of the person with one by somebody else: the most similar in words that is still free, so that
    the topic alone can not tell them apart."""
    _, heldout = contexts.own_passages(constitution)
    free = list(corpus.read(others_path(recipe)))
    pairs = []
    for passage in sorted(heldout, key=lambda p: p.id):
        if not free:
            free = list(corpus.read(others_path(recipe)))
        other = max(free, key=lambda p: (fuzz.token_set_ratio(p.text, passage.text), p.id))
        free.remove(other)
        pairs.append((passage, other))
    return pairs


def _combine(case: Case, straight: Row, swapped: Row) -> Score:
    """The mean over both orders of P(the reply's label | one of the labels); None where the labels hold too little."""
    masses = [sum(row["p"]) for row in (straight, swapped)]
    mass = min(masses)
    if mass < _MIN_MASS:
        return Score(None, mass)
    value = (straight["p"][0] / masses[0] + swapped["p"][1] / masses[1]) / 2
    return Score(value - 0.5, mass)


# --- calibration ----------------------------------------------------------------------------------------------------


def stage(constitution: Constitution, recipe: Recipe, plain: Stage, process_name: str) -> Stage:
    """The stage that measures the judges on held-out examples. The threshold is no part of it: see `check`."""
    return Stage(
        name=NAME,
        version=2,
        identity={
            "judges": identity(constitution, recipe, second=True),
            "heldout_examples": recipe.judge.heldout_examples,
            "examples": {
                trait.id: [[list(e.turns), e.contrast] for e in trait.examples] for trait in constitution.traits
            },
        },
        inputs={"plain": plain},
        process=process_name,
        run=run,
    )


@dataclass(frozen=True)
class _Pair:
    """Two replies to one prompt, of which the first is the character's."""

    trait: str
    prompt: tuple[Message, ...]
    example: str
    reply: str
    against: str
    other: str


def run(work: Work) -> Row:
    """Score every held-out example's reply against its contrast and against the plain model's reply."""
    plain = {row["example"]: row["text"] for row in work.rows("plain") if row["source"] == "calibration"}
    bench = Bench(work)
    pairs: list[_Pair] = []
    for trait in work.constitution.traits:
        _, heldout = contexts.split_examples(trait, work.recipe.judge.heldout_examples)
        for example in heldout:
            others = {"contrast": example.contrast, "plain": plain.get(example.id)}
            for against, other in others.items():
                if other and other.strip() != example.reply.strip():
                    pairs.append(_Pair(trait.id, tuple(example.prompt), example.id, example.reply, against, other))
    if not pairs:
        raise StageError(
            "no example is held out, so no judge can be measured",
            place=str(work.constitution.path),
            hint="write at least two examples per trait, some with a 'Not this'",
        )
    rows: list[Row] = []
    report: Row = {}
    second = work.recipe.judge.second
    kinds: list[Kind] = [work.recipe.judge.kind]
    if (
        second != "none"
        and second not in kinds
        and not (second != "pairwise" and isinstance(model_of(work.recipe), Endpoint))
    ):
        kinds.append(second)
    asked = {"role": "user", "content": prompts.render("passage")}
    written = [
        _Pair("corpus", (asked,), mine.id, mine.text, "another author", other.text)
        for mine, other in (passage_pairs(work.constitution, work.recipe) if "corpus" in kinds else [])
    ]
    for kind in kinds:
        work.progress.note(f"calibrating {kind}")
        # A corpus judge answers for what the person wrote; the others were shown no passage.
        measured = [*pairs, *written] if kind == "corpus" else pairs
        cases = [Case(pair.prompt, pair.reply, pair.other) for pair in measured]
        cases += [Case(pair.prompt, pair.other, pair.other) for pair in measured]
        scores = score(bench, kind, cases)
        results: list[Row] = []
        for i, pair in enumerate(measured):
            margin = difference(scores[i], scores[i + len(measured)])
            results.append({"example": pair.example, "against": pair.against, "margin": margin})
            rows.append(
                {
                    "judge": kind,
                    "trait": pair.trait,
                    "prompt": pair.prompt[-1]["content"],
                    "in_character": pair.reply,
                    "other": pair.other,
                    **results[-1],
                    "mass": scores[i].mass,
                }
            )
        report[kind] = {
            **_rounded(accuracy(results)),
            "unscored": sum(r["margin"] is None for r in results),
            "mean_mass": round(sum(scores[i].mass for i in range(len(measured))) / len(measured), 4),
            "against": {
                against: _rounded(accuracy([r for r in results if r["against"] == against]))
                for against in sorted({r["against"] for r in results})
            },
        }
    bench.close()
    write_rows(work.directory / "rows.jsonl", rows)
    write_atomic(work.directory / "calibration.json", json.dumps(report, indent=1, sort_keys=True) + "\n")
    return {
        **bench.about,
        "accuracy": {kind: report[kind]["value"] for kind in kinds},
        "unscored": {kind: report[kind]["unscored"] for kind in kinds},
    }


def corpus_stage(constitution: Constitution, recipe: Recipe, process_name: str) -> Stage:
    """The stage that measures a corpus alone as a judge: which of two passages did this person write?"""
    return Stage(
        name="corpus-judge",
        version=1,
        identity={"judges": identity(constitution, recipe, second=False)},
        inputs={},
        process=process_name,
        run=run_corpus,
    )


def run_corpus(work: Work) -> Row:
    """Score every held-out passage against one by somebody else."""
    asked = ({"role": "user", "content": prompts.render("passage")},)
    pairs = passage_pairs(work.constitution, work.recipe)
    bench = Bench(work)
    cases = [Case(asked, mine.text, other.text) for mine, other in pairs]
    cases += [Case(asked, other.text, other.text) for _, other in pairs]
    scores = score(bench, "corpus", cases)
    bench.close()
    rows: list[Row] = [
        {
            "example": mine.id,
            "against": "another author",
            "margin": difference(scores[i], scores[i + len(pairs)]),
            "own": mine.text,
            "other": other.text,
        }
        for i, (mine, other) in enumerate(pairs)
    ]
    write_rows(work.directory / "rows.jsonl", rows)
    report = {"corpus": {**_rounded(accuracy(rows)), "unscored": sum(row["margin"] is None for row in rows)}}
    write_atomic(work.directory / "calibration.json", json.dumps(report, indent=1, sort_keys=True) + "\n")
    return {**bench.about, "accuracy": {"corpus": report["corpus"]["value"]}}


def difference(a: Score, b: Score) -> float | None:
    return None if a.value is None or b.value is None else round(a.value - b.value, 6)


def _rounded(estimate: Estimate) -> Row:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in estimate.as_dict().items()}


def accuracy(results: Sequence[Row]) -> Estimate:
    """Share of pairs with a positive margin; no verdict counts as wrong.

    An example can stand in two pairs, which are not independent: the interval is taken at the number of examples.
    """
    n, clusters = len(results), len({row["example"] for row in results})
    right = sum(row["margin"] is not None and row["margin"] > 0 for row in results)
    if not n:
        return Estimate(math.nan, 0.0, 1.0, 0, 0)
    low, high = share(right / n, clusters)
    return Estimate(right / n, low, high, n, clusters)


def read_calibration(directory: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((directory / "calibration.json").read_text(encoding="utf-8"))
    return data


def check(directory: Path, recipe: Recipe) -> None:
    """Stop the run if the judge that makes the labels is not accurate enough.

    Raises:
        StageError: with the accuracy, the examples it got wrong, and the way out.
    """
    kind = recipe.judge.kind
    found = read_calibration(directory)[kind]
    if found["value"] >= recipe.judge.min_accuracy:
        return
    wrong = [
        row
        for row in read_rows(directory / "rows.jsonl")
        if row["judge"] == kind and (row["margin"] is None or row["margin"] <= 0)
    ]
    shown = "\n".join(f"  - {row['trait']} (against {row['against']}): {row['prompt'][:80]!r}" for row in wrong[:5])
    raise StageError(
        f"the {kind} judge is right on {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}] of "
        f"{found['n']} held-out example pairs; judge.min_accuracy asks for {recipe.judge.min_accuracy:.2f}.\n"
        f"Labels by this judge would teach noise, so nothing was trained. Among its mistakes:\n{shown}",
        place=str(directory / "rows.jsonl"),
        hint="use a larger judge.model, write examples whose contrast is clearer, or lower judge.min_accuracy knowingly",
    )


def believed(calibration: dict[str, Any], recipe: Recipe) -> Iterable[str]:
    """The judges that are accurate enough to be heard, the recipe's first."""
    ordered = sorted(calibration, key=lambda kind: kind != recipe.judge.kind)
    return [kind for kind in ordered if calibration[kind]["value"] >= recipe.judge.min_accuracy]
