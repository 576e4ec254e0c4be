"""A character: a trained version, name@version, with its constitution, base model, adapter and measurements.

The last stage of a run gathers them into one artifact and writes the report; `charforge.registry` gives it its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charforge import judge, registry
from charforge.constitution import Constitution, digest, load
from charforge.constitution.difference import difference
from charforge.errors import UserError
from charforge.models import resolve
from charforge.recipe import Recipe
from charforge.registry import Entry
from charforge.stage import Stage, Work
from charforge.store import MANIFEST, Artifact, Row, Store, write_atomic
from charforge.train.stages import trained_folder

NAME = "character"
# In the logs of a character that was made elsewhere: where its base model is on this machine.
IMPORTED = "imported.json"


def stage(constitution: Constitution, recipe: Recipe, inputs: dict[str, Stage]) -> Stage:
    made = settings(recipe)
    # By these it is judged, not made.
    del made["evaluation"]["margins"]
    return Stage(
        name=NAME,
        version=2,
        identity={
            "constitution": constitution.digest,
            "model": resolve(recipe.model).identity,
            # Where things lie on this machine is no part of what they are; the bank's content is in the scenarios' key.
            "recipe": made,
        },
        inputs=inputs,
        process="report",
        run=run,
    )


def settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe without paths of this machine and without `runtime`."""
    data = recipe.model_dump(mode="json", exclude={"runtime"})
    data["constitution"] = Path(recipe.constitution).name
    data["scenarios"]["bank"] = Path(recipe.scenarios.bank).stem
    for model in (data["model"], data["teacher"], data["judge"]["model"]):
        if model is None:
            continue
        model.pop("endpoint", None)
        if "name" in model and Path(model["name"]).is_dir():
            model["name"] = Path(model["name"]).name
        if model.get("chat_template") not in (None, "own", "chatml"):
            model["chat_template"] = Path(model["chat_template"]).name
    return data


def run(work: Work) -> Row:
    """Copy what makes the character, then write its report."""
    from charforge.report import build, training

    trained = work.inputs["trained"]
    source = trained_folder(trained)
    target = work.directory / source.name
    shutil.rmtree(target, ignore_errors=True)
    # Hard links where the file system has them: the weights are already in the store.
    shutil.copytree(source, target, copy_function=_link)
    shutil.copyfile(work.constitution.path, work.directory / "constitution.md")
    if len(work.constitution.files) > 1:
        _copy_files(work.constitution, work.directory / "constitution")
    write_atomic(work.directory / "recipe.json", json.dumps(settings(work.recipe), indent=1, sort_keys=True) + "\n")
    shutil.copyfile(work.recipe.scenarios.bank, work.directory / "bank.yaml")
    report = build.report(work)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    write_atomic(work.directory / "report.json", text + "\n")
    write_atomic(work.directory / "report.html", training.page(report))
    return {"reference": work.constitution.reference, "build": work.stage.key[:12]}


def _copy_files(constitution: Constitution, target: Path) -> None:
    """Every file of a constitution that has several, as they stand to each other."""
    files = [path.resolve() for path in constitution.files]
    root = Path(os.path.commonpath([str(path.parent) for path in files]))
    for path in files:
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@dataclass(frozen=True)
class Character:
    """A trained character, with the constitution and recipe as they were when it was trained."""

    reference: str
    key: str
    folder: Path
    constitution: Constitution
    recipe: Recipe

    @property
    def calibration(self) -> str | None:
        """The key of the artifact in which its judges were measured; None for an imported character that came without."""
        manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        found: str | None = manifest["inputs"].get("judge")
        if found and "imported" in manifest["about"]:
            store = Store(self.folder.resolve().parents[2])
            return found if store.artifact(judge.NAME, found).finished else None
        return found


def recall(entry: Entry) -> Character:
    """A registered character with all that it was trained from.

    Raises:
        UserError: if its constitution or recipe can not be read.
    """
    folder = entry.folder
    try:
        data = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "train it again: what exists is reused" if isinstance(error, FileNotFoundError) else None
        raise UserError(f"the recipe of {entry.id} can not be read: {error}", place=str(folder), hint=hint) from error
    data["scenarios"]["bank"] = str(folder / "bank.yaml")
    _put_back(data, folder)
    # The file that it was trained from may have been edited since; the character keeps its own.
    for path in (folder / "constitution.md", *sorted((folder / "constitution").rglob("*.md"))):
        with contextlib.suppress(UserError):
            found = load(path)
            if found.digest == entry.manifest["identity"]["constitution"]:
                recipe = Recipe.model_validate({**data, "constitution": str(path)})
                return Character(entry.reference, entry.key, folder, found, recipe)
    raise UserError(f"the constitution of {entry.id} can not be read", place=str(folder))


def _put_back(data: dict[str, Any], folder: Path) -> None:
    """Where models and servers are on this machine: no part of a character, but in the log of its making."""
    try:
        job = json.loads((folder / "logs" / "worker.json").read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError):
        job = None
    if job is not None:
        data["model"], data["teacher"], data["runtime"] = job["model"], job["teacher"], job["runtime"]
        data["judge"]["model"] = job["judge"]["model"]
        return
    # It was made elsewhere: servers that it used there are not known here, and what it is does not depend on them.
    data["teacher"] = None
    if data["judge"]["model"] and "name" not in data["judge"]["model"]:
        data["judge"]["model"] = None
    if data["model"].get("chat_template") not in (None, "own", "chatml"):
        data["model"]["chat_template"] = str(trained_folder(folder) / "chat_template.jinja")
    # Whether code may run that comes with a model is decided here, not by whoever trained on it.
    for model in filter(None, (data["model"], data["judge"]["model"])):
        model["trust_remote_code"] = False
    with contextlib.suppress(OSError, ValueError):
        data["model"] |= json.loads((folder / "logs" / IMPORTED).read_text(encoding="utf-8"))


def read_report(artifact: Artifact) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((artifact.directory / "report.json").read_text(encoding="utf-8"))
    return data


def elsewhere(store: Store, entry: Entry) -> list[str]:
    """What an imported character was made from and this store does not have, by role: it was made in another one."""
    if "imported" not in entry.manifest["about"]:
        return []
    known = {manifest["key"] for _, manifest in registry.manifests(store)}
    return sorted(role for role, key in entry.manifest["inputs"].items() if key not in known)


def verify(store: Store, entry: Entry) -> list[str]:
    """Derive the character's digests again; returns in words what does not agree, nothing if all does.

    Its files against the manifest, its key against what determines it, its name and recipe and constitution against that
    manifest; and so on for all that it was made from and all that was measured of it. What was left `elsewhere` is not
    looked for.
    """
    wrong: list[str] = []
    try:
        character = recall(entry)
    except UserError as problem:
        wrong.append(problem.message)
    else:
        if (character.reference, entry.key[: registry.DIGITS]) != (character.constitution.reference, entry.build):
            wrong.append(f"its name is not that of its constitution and key, {character.constitution.reference}")
    if not has_own_recipe(entry):
        wrong.append("its recipe.json is not the recipe that its manifest names")
    if not registry.has_record(store, entry):
        wrong.append("the record of its registration can not be read: which character came before it is not known")
    known = {**dict(registry.manifests(store)), entry.folder: entry.manifest}
    absent = elsewhere(store, entry)
    paths = {manifest["key"]: path for path, manifest in known.items()}
    made_from = [entry.folder, *registry.sources(known, [entry.folder])]
    of_it = sorted(registry.about(known, [entry]))
    for path in dict.fromkeys([*made_from, *of_it, *registry.sources(known, of_it)]):
        manifest = known[path]
        artifact = Artifact(manifest["stage"], manifest["key"], path)
        own = path == entry.folder
        name = "its" if own else f"{artifact.stage} {artifact.key[:12]}: its"
        try:
            artifact.verify()
        except UserError as problem:
            wrong.append(f"{problem.place}: {problem.message}")
        preimage = {
            "stage": manifest["stage"],
            "version": manifest["about"].get("stage_version"),
            "identity": manifest["identity"],
            "inputs": manifest["inputs"],
        }
        if digest(preimage) != artifact.key:
            whose = "the" if own else name
            wrong.append(f"{whose} key is not that of the identity and inputs in the manifest")
        for role, key in manifest["inputs"].items():
            if key in paths:
                source = Artifact(known[paths[key]]["stage"], key, paths[key])
                if source.content != manifest.get("input_contents", {}).get(role):
                    wrong.append(f"{name} input {role!r} was made again and came out different")
            elif path in made_from and not (own and role in absent):
                # Of what was measured, another character may be gone.
                wrong.append(f"{name} input {role!r} is not in this store (key {key[:12]})")
    return wrong


def has_own_recipe(entry: Entry) -> bool:
    """Whether the recipe beside a character is the one in its identity, of which its key is the hash."""

    def without_margins(recipe: dict[str, Any]) -> dict[str, Any]:
        measured = {name: value for name, value in recipe["evaluation"].items() if name != "margins"}
        return {**recipe, "evaluation": measured}

    try:
        data = json.loads((entry.folder / "recipe.json").read_text(encoding="utf-8"))
        return bool(without_margins(data) == without_margins(entry.manifest["identity"]["recipe"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def differences(a: Entry, b: Entry) -> dict[str, Any]:
    """In what two characters differ: constitution (in words, by trait), recipe, model, inputs, libraries, weights."""
    first, second = recall(a), recall(b)
    changed = difference(first.constitution, second.constitution)
    words = [change.what for change in changed.whole]
    words += [f"{trait}: only in {b.id}" for trait in changed.added]
    words += [f"{trait}: only in {a.id}" for trait in changed.removed]
    words += [f"{old} is called {new}" for old, new in changed.renamed.items()]
    for trait, changes in changed.changed.items():
        many = Counter(change.what for change in changes)
        words += [f"{trait}: {what}" + (f" ({count})" if count > 1 else "") for what, count in many.items()]
    one, other = a.manifest, b.manifest
    same = a.adapter == b.adapter
    made_from = {k: [x and x[:12], y and y[:12]] for k, (x, y) in _unequal(one["inputs"], other["inputs"]).items()}
    if one["about"].get("stage_version") != other["about"].get("stage_version"):
        made_from["version of the stage"] = [found["about"].get("stage_version") for found in (one, other)]
    return {
        "constitution": words,
        "recipe": _unequal(one["identity"]["recipe"], other["identity"]["recipe"]),
        "model": _unequal(one["identity"]["model"], other["identity"]["model"]),
        "made from": made_from,
        "libraries": _unequal(one["about"].get("environment", {}), other["about"].get("environment", {})),
        "weights": None
        if same
        else "they differ"
        if words or one["identity"] != other["identity"]
        else "they differ though nothing that determines them does: another machine, other versions, other batches",
    }


def _unequal(a: dict[str, Any], b: dict[str, Any], path: str = "") -> dict[str, list[Any]]:
    """Dotted names of the settings that differ, with both values."""
    found: dict[str, list[Any]] = {}
    for key in sorted({*a, *b}):
        x, y = a.get(key), b.get(key)
        name = f"{path}{key}"
        if isinstance(x, dict) and isinstance(y, dict):
            found.update(_unequal(x, y, f"{name}."))
        elif x != y:
            found[name] = [x, y]
    return found
