"""What all are asked, and where the replies of each are: stages that draw them, and answers that are there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from charforge import registry
from charforge.compare.contestant import Contestant
from charforge.constitution import Constitution, Message, digest
from charforge.data import contexts, scenarios
from charforge.engine import Drawing, Request, draw, seed_for
from charforge.evaluate import probing, suites
from charforge.evaluate.answers import UNTRAINED
from charforge.evaluate.measure import Suite
from charforge.recipe import Recipe
from charforge.stage import Stage, Weights, Work
from charforge.store import Row, Store, read_rows, write_rows


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
        folder = store.artifact("preferences", _manifest(contestant.entry)["inputs"].get("preferences", "")).directory
        for name in ("sft.jsonl", "pairs.jsonl"):
            if (folder / name).is_file():
                known |= {scenarios.normal(m["content"]) for row in read_rows(folder / name) for m in row["prompt"]}
    return sorted(row["prompt"] for row in prompts if scenarios.normal(row["prompt"]) in known)


def untold(store: Store, found: Sequence[Contestant]) -> list[str]:
    """What to say where prompts that a contestant was trained on are not known: an imported character came without its data."""
    lacking = [
        c.label
        for c in found
        if c.entry is not None
        and c.kind == "character"
        and not store.artifact("preferences", _manifest(c.entry)["inputs"].get("preferences", "")).finished
    ]
    if not lacking:
        return []
    return [
        f"The data that {', '.join(lacking)} learned from are not in this store: a prompt that is asked may be one that the "
        "teacher wrote for them."
    ]


def _manifest(entry: tuple[str, str, str]) -> Row:
    reference, build, folder = entry
    return registry.Entry(reference, build, Path(folder), None).manifest


def sources(found: Sequence[Contestant], by: tuple[Constitution, Recipe]) -> list[tuple[Constitution, Recipe]]:
    """Whose held-out prompts are asked, the one that is measured by first."""
    own = [(c.character.constitution, c.character.recipe) for c in found if c.character]
    return [by, *own]


def learned(found: Sequence[Contestant]) -> list[tuple[Constitution, Recipe]]:
    """What the trained ones learned from."""
    return [(c.character.constitution, c.character.recipe) for c in found if c.kind == "character" and c.character]


# --- their replies ----------------------------------------------------------------------------------------------------


def reply_stage(contestant: Contestant, recipe: Recipe, prompts: Sequence[Row]) -> Stage:
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


# --- the retention suite ----------------------------------------------------------------------------------------------


def retention_stages(contestant: Contestant, constitution: Constitution, recipe: Recipe, preset: str) -> list[Stage]:
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
