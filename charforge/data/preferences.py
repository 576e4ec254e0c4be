"""Preferences: the judge ranks all candidates of a prompt, and what is worth learning from is kept.

For SFT: the best fluent candidate of each prompt, and the authored training examples. For DPO: pairs of the best candidate
and the student's own plain reply, and of an authored reply and its contrast, where the margin is large enough.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from charforge import judge
from charforge.constitution import Constitution, Message, Trait
from charforge.data import contexts, prompts
from charforge.engine.bench import Bench
from charforge.engine.scoring import Item
from charforge.evaluate.fluency import repetition
from charforge.evaluate.outcomes import declines
from charforge.markers import Marker
from charforge.models import resolve
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, write_atomic, write_rows

NAME = "preferences"
# Traces of a prompt that must not be learned: the next speaker's label, template tokens, talk about the constitution.
_LEAKS = ("<|", "|>", "User:", "Human:", "my constitution")


def stage(
    constitution: Constitution,
    recipe: Recipe,
    candidates: dict[str, Stage],
    process_name: str,
) -> Stage:
    return Stage(
        name=NAME,
        version=4,
        identity={
            "judges": judge.identity(constitution, recipe, second=False),
            "settings": recipe.preferences.model_dump(mode="json"),
            "heldout_examples": recipe.judge.heldout_examples,
            "student": resolve(recipe.model).identity,
            "examples": {
                trait.id: [[list(e.turns), e.contrast] for e in trait.examples] for trait in constitution.traits
            },
            "temptations": {t.id: [[list(e.turns), e.thought] for e in t.temptations] for t in constitution.boundaries},
            "prompts": prompts.digest("temptation"),
            "markers": {
                t.id: [t.section, t.intensity, str(t.where), [m.text for m in t.markers]] for t in constitution.traits
            },
        },
        inputs=candidates,
        process=process_name,
        run=run,
    )


def _unusable(row: Row, recipe: Recipe, constitution: Constitution) -> str | None:
    """Why a candidate can not be learned from, or None."""
    text = row["text"]
    if not text.strip():
        return "empty"
    if row["finish"] == "length" and not row.get("trimmed"):
        return "cut at the token limit"
    speakers = [constitution.name, *(voice.constitution.name for voice in constitution.voices)]
    if any(leak in text for leak in (*_LEAKS, *(f"{name}:" for name in speakers))):
        return "traces of the prompt"
    if repetition(text) > recipe.preferences.max_repetition:
        return "repetitive"
    if row["kind"] == "look-alike" and declines(text, constitution.trait(row["trait"]), row["prompt"]):
        return "declines a harmless request"
    if any(not marker.shows(text) for marker in _required(row, recipe, constitution)):
        return "breaks a required marker"
    return None


def _required(row: Row, recipe: Recipe, constitution: Constitution) -> list[Marker]:
    """The markers that a generated reply must pass: of the strong voice traits, and of a boundary that was touched."""
    floor = recipe.preferences.require_markers
    if floor is None:
        return []
    trait = constitution.trait(row["trait"])
    voice = [
        t for t in constitution.traits if t.is_voice and t.intensity >= floor and t.where.holds(row.get("context"))
    ]
    if row["kind"] == "boundary":
        voice.append(trait)
    return [marker for t in voice for marker in t.markers]


def _trim(row: Row) -> Row:
    """A cut reply without the sentence that was cut, if a whole one is left."""
    if row["finish"] != "length":
        return row
    whole = re.match(r"(?s).*[.!?](?=[\"'”’)]*(?:\s|$))[\"'”’)]*", row["text"])
    return {**row, "text": whole[0].strip(), "trimmed": True} if whole else row


def run(work: Work) -> Row:
    recipe, constitution = work.recipe, work.constitution
    settings = recipe.preferences
    drops: Counter[str] = Counter()
    groups: dict[str, list[Row]] = {}
    for role in work.stage.inputs:
        for row in work.rows(role):
            if row["source"] == "calibration":
                continue
            candidate = _trim(row) if settings.trim else row
            reason = None
            if not candidate["text"].strip():
                reason = "empty"
            elif row["source"] != "plain":
                reason = _unusable(candidate, recipe, constitution)
            if reason:
                drops[reason] += 1
            else:
                groups.setdefault(row["scenario"], []).append(candidate)
    for scenario, rows in list(groups.items()):
        if all(row["source"] == "plain" for row in rows):
            drops["prompts without a usable candidate"] += 1
            del groups[scenario]  # nothing to learn from, so nothing to score
    everything = [row for rows in groups.values() for row in rows]
    bench = Bench(work)

    def prompt_of(row: Row) -> tuple[Message, ...]:
        return ({"role": "user", "content": row["prompt"]},)

    work.progress.note("fluency under the untrained model")
    student = resolve(recipe.model)
    fluency = bench.log_probabilities(Weights(student), [Item((), prompt_of(row), row["text"]) for row in everything])
    work.progress.note(f"ranking by {recipe.judge.kind}")
    plain: dict[str, str] = {r["scenario"]: r["text"] for r in reversed(everything) if r["source"] == "plain"}
    cases = [judge.Case(prompt_of(r), str(r["text"]), plain.get(r["scenario"], str(r["text"]))) for r in everything]
    scores = judge.score(bench, recipe.judge.kind, cases)
    for row, measured, score in zip(everything, fluency, scores, strict=True):
        row["fluency"], row["score"] = measured["mean"], score.value

    sft: list[Row] = []
    pairs: list[Row] = []
    for rows in groups.values():
        usable = []
        for row in rows:
            if row["source"] == "plain":
                continue
            if row["fluency"] is None or row["fluency"] < settings.min_fluency:
                drops["not fluent"] += 1
            elif row["score"] is None:
                drops["no verdict"] += 1
            else:
                usable.append(row)
        if not usable:
            drops["prompts without a fluent candidate"] += 1
            continue
        best = max(usable, key=lambda row: row["score"])
        if settings.min_score is not None and best["score"] < settings.min_score:
            drops["prompts whose best candidate is below min_score"] += 1
            continue
        about = {key: best[key] for key in ("scenario", "trait", "kind", "source", "score", "fluency")}
        message = {"role": "user", "content": best["prompt"]}
        sft.append({**about, "prompt": [message], "completion": best["text"]})
        rejected = [r for r in rows if r["source"] == "plain" and r.get("score") is not None and r["text"].strip()]
        if not rejected:
            continue
        worst = min(rejected, key=lambda row: row["score"])
        margin = best["score"] - worst["score"]
        if margin < settings.min_margin:
            drops["pairs below min_margin"] += 1
            continue
        pairs.append(
            {
                **about,
                "prompt": [message],
                "chosen": best["text"],
                "rejected": worst["text"],
                "rejected_score": worst["score"],
                "margin": round(margin, 6),
            }
        )
    authored_sft, authored_pairs = _authored(work, bench, drops)
    bench.close()
    sft += authored_sft
    pairs += authored_pairs
    write_rows(work.directory / "candidates.jsonl", everything)
    write_rows(work.directory / "sft.jsonl", sft)
    write_rows(work.directory / "pairs.jsonl", pairs)
    card = _card(sft, pairs, drops, everything)
    write_atomic(work.directory / "card.json", json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    write_atomic(work.directory / "card.md", _card_markdown(card, constitution))
    return {**bench.about, "sft": len(sft), "pairs": len(pairs), "dropped": dict(drops)}


def _authored(work: Work, bench: Bench, drops: Counter[str]) -> tuple[list[Row], list[Row]]:
    """The constitution's own training examples, as SFT rows and, with their contrast, as pairs."""
    sft: list[Row] = []
    pairs: list[Row] = []
    cases: list[judge.Case] = []
    for trait in work.constitution.traits:
        sft += _temptations(trait) if work.recipe.preferences.example_repeats else []
        for example in contexts.dosed(trait, work.recipe.judge.heldout_examples):
            about = {"scenario": example.id, "trait": trait.id, "kind": "authored", "source": "authored"}
            row = {
                **about,
                "prompt": example.prompt,
                "completion": example.reply,
                "score": None,
                "fluency": None,
            }
            sft += [row] * work.recipe.preferences.example_repeats
            if example.contrast:
                pairs.append({**about, "prompt": example.prompt, "chosen": example.reply, "rejected": example.contrast})
    for pair in pairs:
        for side in ("chosen", "rejected"):
            cases.append(judge.Case(tuple(pair["prompt"]), pair[side], pair["rejected"]))
    scores = judge.score(bench, work.recipe.judge.kind, cases)
    kept = []
    for index, pair in enumerate(pairs):
        margin = judge.difference(scores[2 * index], scores[2 * index + 1])
        if margin is None or margin < work.recipe.preferences.min_margin:
            drops["authored pairs below min_margin"] += 1
            continue
        values = {"score": scores[2 * index].value, "rejected_score": scores[2 * index + 1].value}
        kept.append({**pair, **values, "margin": margin, "fluency": None})
    return sft, kept


def _temptations(trait: Trait) -> list[Row]:
    """A boundary's temptations as SFT rows: the answer, and the reasoning with it when somebody asks for that."""
    rows: list[Row] = []
    for temptation in trait.temptations:
        about = {
            "scenario": temptation.id,
            "trait": trait.id,
            "kind": "temptation",
            "source": "authored",
            "score": None,
            "fluency": None,
        }
        asked = prompts.render("temptation", said=temptation.prompt[-1]["content"])
        reflection = [*temptation.prompt[:-1], {"role": "user", "content": asked}]
        rows.append({**about, "prompt": temptation.prompt, "completion": temptation.reply})
        rows.append({**about, "prompt": reflection, "completion": f"{temptation.thought}\n\n{temptation.reply}"})
    return rows


def _card(sft: list[Row], pairs: list[Row], drops: Counter[str], candidates: list[Row]) -> dict[str, Any]:
    """Counts, drops with reasons, lengths and samples."""

    def words(texts: list[str]) -> float | None:
        return round(sum(len(t.split()) for t in texts) / len(texts), 1) if texts else None

    def by(field: str, rows: list[Row]) -> dict[str, int]:
        return dict(sorted(Counter(str(row[field]) for row in rows).items()))

    return {
        "candidates": by("source", candidates),
        "sft": {"rows": len(sft), "by_trait": by("trait", sft), "by_source": by("source", sft)},
        "pairs": {"rows": len(pairs), "by_trait": by("trait", pairs), "by_source": by("source", pairs)},
        "dropped": dict(sorted(drops.items())),
        # A side that is always the longer one teaches length; the reader should see it.
        "mean_words": {
            "chosen": words([row["chosen"] for row in pairs]),
            "rejected": words([row["rejected"] for row in pairs]),
        },
        "mean_margin": round(sum(row["margin"] for row in pairs) / len(pairs), 4) if pairs else None,
        "samples": [row for row in pairs if row["source"] != "authored"][:5],
    }


def _card_markdown(card: dict[str, Any], constitution: Constitution) -> str:
    lines = [f"# Data card: {constitution.reference}", ""]
    lines += [f"- candidates: {card['candidates']}"]
    lines += [f"- SFT rows: {card['sft']['rows']}, by source {card['sft']['by_source']}"]
    lines += [f"- preference pairs: {card['pairs']['rows']}, by source {card['pairs']['by_source']}"]
    lines += [f"- mean words, chosen and rejected: {card['mean_words']['chosen']}, {card['mean_words']['rejected']}"]
    lines += [f"- mean margin: {card['mean_margin']}", "", "## Dropped", ""]
    lines += [f"- {reason}: {count}" for reason, count in card["dropped"].items()] or ["- nothing"]
    lines += ["", "## By trait", "", "| trait | SFT rows | pairs |", "|---|---|---|"]
    lines += [
        f"| {trait} | {count} | {card['pairs']['by_trait'].get(trait, 0)} |"
        for trait, count in card["sft"]["by_trait"].items()
    ]
    lines += ["", "## Samples", ""]
    for row in card["samples"]:
        for label, text in (
            ("prompt", row["prompt"][-1]["content"]),
            ("chosen", row["chosen"]),
            ("rejected", row["rejected"]),
        ):
            lines += [
                f"**{label}** ({row['trait']}, margin {row['margin']})",
                "",
                f"    {' '.join(text.split())}",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"
