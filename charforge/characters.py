"""A character: a trained version, name@version, with its constitution, base model, adapter and measurements.

The last stage of a run gathers them into one artifact and writes the report; `STORE/characters/NAME@VERSION/BUILD` links to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from charforge.constitution import Constitution, load
from charforge.errors import UserError, did_you_mean
from charforge.models import resolve
from charforge.recipe import Recipe
from charforge.stage import Stage, Work
from charforge.store import Artifact, Row, Store, write_atomic
from charforge.train.stages import trained_folder

NAME = "character"


def stage(constitution: Constitution, recipe: Recipe, inputs: dict[str, Stage]) -> Stage:
    return Stage(
        name=NAME,
        version=1,
        identity={
            "constitution": constitution.digest,
            "model": resolve(recipe.model).identity,
            # Where things lie on this machine is no part of what they are; the bank's content is in the scenarios' key.
            "recipe": settings(recipe),
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
    from charforge.report import build, html

    trained = work.inputs["trained"]
    source = trained_folder(trained, work.recipe)
    target = work.directory / source.name
    shutil.rmtree(target, ignore_errors=True)
    # Hard links where the file system has them: the weights are already in the store.
    shutil.copytree(source, target, copy_function=_link)
    shutil.copyfile(work.constitution.path, work.directory / "constitution.md")
    if len(work.constitution.files) > 1:
        _copy_files(work.constitution, work.directory / "constitution")
    report = build.report(work)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    write_atomic(work.directory / "report.json", text + "\n")
    write_atomic(work.directory / "report.html", html.page(report))
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


def register(store: Store, artifact: Artifact, reference: str) -> Path:
    """Link the character under its name and build, and as its name's latest; returns the first link."""
    folder = store.root / "characters" / reference
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / artifact.key[:12]
    for name in (link, folder / "latest"):
        temporary = name.with_name(f".{name.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(os.path.relpath(artifact.directory, folder))
        temporary.replace(name)
    return link


def recall(store: Store, reference: str) -> tuple[Constitution, Recipe]:
    """The constitution and recipe of a trained character, as they were when it was trained.

    Raises:
        UserError: if there is no such character, or it was trained by a version that kept no recipe.
    """
    folder = store.root / "characters" / reference / "latest"
    if not (folder / "report.json").is_file():
        named = store.root / "characters"
        known = [path.name for path in named.glob("*")] if named.is_dir() else []
        raise UserError(f"no trained character {reference!r} in {store.root}{did_you_mean(reference, known)}")
    try:
        job = json.loads((folder / "logs" / "worker.json").read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(job["recipe"])
        digest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["identity"]["constitution"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            "this character keeps no recipe",
            place=str(folder),
            hint="name the recipe instead: charforge eval RECIPE.yaml",
        ) from error
    # The file that it was trained from may have been edited since; the character keeps its own.
    for path in (folder / "constitution.md", *sorted((folder / "constitution").rglob("*.md"))):
        with contextlib.suppress(UserError):
            found = load(path.resolve())
            if found.digest == digest:
                return found, recipe.model_copy(update={"constitution": str(path.resolve())})
    raise UserError("the character's own constitution can not be read", place=str(folder))


def read_report(artifact: Artifact) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((artifact.directory / "report.json").read_text(encoding="utf-8"))
    return data
