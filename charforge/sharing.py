"""Sharing a character: a folder that readers of a model hub expect, the hub itself, and a server.

    README.md            the model card
    adapter_model.safetensors, adapter_config.json    or, merged, the whole model: config.json, model.safetensors
    tokenizer.json, tokenizer_config.json, chat_template.jinja
    constitution.md, recipe.json, bank.yaml           what it was made from (constitution/: one of several files)
    report.json, report.html, evaluation.*            what was measured of it
    data_card.json       what it was trained on, in numbers
    manifest.json        the character's manifest, as it stands in its store
    charforge.json       the sha256 of every other file, and what the character is

The digests find damage. They are no signature: who can change a file can change its digest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charforge import __version__, characters, registry
from charforge.constitution import digest
from charforge.engine.device import preload, thread_environment
from charforge.engine.vllm import _rank
from charforge.errors import StageError, UserError, missing_extra, raise_problems
from charforge.models import BUILTINS, ResolvedModel, cache_folder, fetch, merge_adapter, resolve
from charforge.recipe import ModelReference, Vllm
from charforge.registry import Entry
from charforge.report import card
from charforge.store import MANIFEST, Artifact, Row, Store, file_digest, write_atomic
from charforge.train.stages import trained_folder

LISTING = "charforge.json"
_ID = re.compile(r"[\w-]+@[\w.+-]+/[0-9a-f]{12}")
_SCHEMA = 1
# What of an exported folder is a file of the artifact, and what stands beside it; all else is weights and tokenizer.
_OF_ARTIFACT = ("constitution.md", "recipe.json", "bank.yaml", "report.json", "report.html")
_BESIDE = ("README.md", "data_card.json", "evaluation.json", "evaluation.html", MANIFEST, LISTING)
_NOT_WRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EROFS,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EBUSY,
    errno.ELOOP,
)
# What git and the hub put into a folder.
_NOT_OURS = (".git", ".gitattributes", ".cache")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TEXTS = (".json", ".md", ".yaml", ".html", ".jinja", ".txt")


# --- export -----------------------------------------------------------------------------------------------------------


def export(
    store: Store,
    entry: Entry,
    target: Path,
    *,
    merge: bool = False,
    converter: Path | None = None,
    allow_paths: bool = False,
) -> Row:
    """Write a character as a folder for others; returns what charforge.json says.

    The folder is written beside its place and renamed into it: it is whole or absent.

    Args:
        merge: the whole model in bfloat16 instead of the adapter.
        converter: llama.cpp's convert_hf_to_gguf.py; the model is also written as GGUF.
        allow_paths: also if a text names a folder of this machine.

    Raises:
        UserError: the folder is not empty, the character is damaged, its base model is another one than it was, or a text
            names a folder of this machine or holds a secret.
        StageError: the converter failed.
    """
    Artifact(characters.NAME, entry.key, entry.folder).verify()
    character = characters.recall(entry)
    source = trained_folder(entry.folder)
    method = character.recipe.method
    whole = merge or source.name == "model"
    with _beside(target) as folder:
        weights = _merged(store, character, entry) if merge else source
        _copy(weights, folder)
        base = _base(entry, character)
        config = folder / "adapter_config.json"
        if config.is_file():
            data = json.loads(config.read_text(encoding="utf-8"))
            data["base_model_name_or_path"] = base.name
            write_atomic(config, json.dumps(data, indent=2, sort_keys=True) + "\n")
        for name in _OF_ARTIFACT:
            shutil.copyfile(entry.folder / name, folder / name)
        if (entry.folder / "constitution").is_dir():
            _copy(entry.folder / "constitution", folder / "constitution")
        shutil.copyfile(entry.folder / MANIFEST, folder / MANIFEST)
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        evaluation = None
        evaluated = _newest_evaluation(store, entry)
        if evaluated is not None:
            evaluated.verify()
            for name in ("evaluation.json", "evaluation.html"):
                shutil.copyfile(evaluated.directory / name, folder / name)
            evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        write_atomic(folder / "data_card.json", json.dumps(report["data"], indent=1, ensure_ascii=False) + "\n")
        gguf = None
        if converter is not None:
            gguf = f"{entry.name}-{entry.reference.partition('@')[2]}-bf16.gguf"
            whole_model = source if source.name == "model" else _merged(store, character, entry)
            _convert(converter, whole_model, folder / gguf)
        about: Row = {
            "schema": _SCHEMA,
            "charforge": __version__,
            "reference": entry.reference,
            "build": entry.build,
            "key": entry.key,
            "parent": entry.parent,
            "made": entry.made,
            "base_model": base.name,
            "weights": "model" if whole else "adapter",
            "merged": whole and method == "lora",
            "versions": entry.manifest["about"].get("environment", {}),
        }
        relation = "adapter" if not whole else "merge" if method == "lora" else "finetune"
        text = card.render(
            entry.manifest,
            character,
            report,
            evaluation,
            base=base,
            relation=relation,
            parent=entry.parent,
            max_rank=None if whole else _rank(folder),
            gguf=gguf,
        )
        write_atomic(folder / "README.md", text)
        about["files"] = _digests(folder)
        write_atomic(folder / LISTING, json.dumps(about, indent=1, sort_keys=True) + "\n")
        _nothing_private(folder, _places(store, character), allow_paths=allow_paths)
    return about


def _base(entry: Entry, character: characters.Character) -> card.Base:
    """The base model under the name by which others find it."""
    reference = character.recipe.model
    weights = entry.manifest["identity"]["model"]["weights"]
    if "gguf_sha256" in weights:
        builtin = BUILTINS[reference.name.removeprefix("builtin:")]
        return card.Base(
            builtin.hub,
            builtin.title,
            hub=builtin.hub,
            licence=builtin.licence,
            about=builtin.about,
            given=reference.name,
        )
    if "hub" in weights:
        return card.Base(weights["hub"], weights["hub"], hub=weights["hub"], commit=weights["commit"])
    name = Path(reference.name).name
    return card.Base(name, name, given=card.FOLDER)


def _merged(store: Store, character: characters.Character, entry: Entry) -> Path:
    """The whole model with the adapter added, from the cache of merged weights that engines use as well."""
    base = _resolved(character, entry)
    adapter = trained_folder(entry.folder)
    return store.cached_folder(entry.key[:24], lambda target: merge_adapter(base, fetch(base), adapter, target))


def _resolved(character: characters.Character, entry: Entry) -> ResolvedModel:
    """The base model on this machine, which must be the one that the character was trained on."""
    weights = entry.manifest["identity"]["model"]["weights"]
    reference = character.recipe.model
    if "commit" in weights:
        reference = reference.model_copy(update={"revision": weights["commit"]})
    found = resolve(reference)
    if found.identity["weights"] != weights:
        raise UserError(
            f"{character.recipe.model.name} is not the model that {entry.id} was trained on: its files differ",
            hint="charforge show CHARACTER says which it was",
        )
    return found


def _newest_evaluation(store: Store, entry: Entry) -> Artifact | None:
    found = [
        (manifest["about"]["finished"], path, manifest["key"])
        for path, manifest in registry.manifests(store)
        if manifest["stage"] == "evaluated" and manifest["identity"].get("character") == entry.key
    ]
    if not found:
        return None
    _, path, key = max(found)
    return Artifact("evaluated", key, path)


def _convert(converter: Path, model: Path, target: Path) -> None:
    """Run llama.cpp's converter. It is not part of any package that charforge could ask for."""
    command = [sys.executable, str(converter), str(model), "--outfile", str(target), "--outtype", "bf16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not target.is_file():
        tail = "\n".join("    " + line for line in (done.stderr or done.stdout).strip().splitlines()[-8:])
        raise StageError(
            f"the GGUF converter failed with exit code {done.returncode}:\n{tail}",
            place=str(converter),
            hint="it needs the packages that llama.cpp's requirements name; nothing was exported",
        )


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's files. No links: who edits the export must not edit the store."""
    for path in sorted(source.rglob("*")):
        if path.suffix in _PICKLES:
            raise UserError("a pickle can run code when it is loaded; it is not shared", place=str(path))
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `target` when all went well, and is gone otherwise."""
    # A link leads to the folder that is meant.
    target = target.expanduser().resolve()
    _check_free(target)
    if target == Path.cwd().resolve():
        # It is renamed over: whoever stands in it would be left in a folder that is gone.
        raise UserError("this is the folder you are in", place=str(target), hint="name it from outside, or another one")
    for old in target.parent.iterdir() if target.parent.is_dir() else ():
        left = re.fullmatch(rf"\.{re.escape(target.name)}\.(\d+)\.part", old.name)
        if left and not Path("/proc", left[1]).exists():
            shutil.rmtree(old, ignore_errors=True)  # by a process that was killed
    folder = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True)
        yield folder
        _check_free(target)
        folder.replace(target)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        if error.errno == errno.EBUSY:
            hint = "it is a mount point, which can not be renamed over: give a new folder inside of it"
            raise UserError("can not be written", place=str(target), hint=hint) from error
        raise UserError(f"can not be written: {error.strerror}", place=str(error.filename or target)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            "there is something already", place=str(target), hint="give a folder that is empty or not there"
        )


def _digests(folder: Path) -> dict[str, Row]:
    """bytes and sha256 of every file, by its path in the folder."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in (*_NOT_OURS, "logs")
    }


def _places(store: Store, character: characters.Character) -> set[str]:
    """Folders of this machine that nobody else needs to know of. /root and / are nobody's in particular."""
    model = Path(character.recipe.model.name).expanduser()
    known = [Path.home(), Path.cwd(), store.root.resolve(), cache_folder(), Path(tempfile.gettempdir())]
    known += [model.resolve()] if model.is_dir() else []
    return {str(path) for path in known if len(path.parts) > 2}


def _nothing_private(folder: Path, places: set[str], *, allow_paths: bool) -> None:
    secrets = {
        name: value
        for name, value in os.environ.items()
        if name.endswith(("TOKEN", "KEY", "SECRET", "PASSWORD")) and len(value) >= 12
    }
    problems = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix not in _TEXTS:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        name = str(path.relative_to(folder))
        problems += [
            UserError(f"it holds what stands in the environment variable {variable}; nothing was exported", place=name)
            for variable, value in secrets.items()
            if value in text
        ]
        if not allow_paths:
            found = sorted(place for place in places if re.search(rf"{re.escape(place)}(?![\w.-])", text))
            hint = "if that may be known: --allow-paths"
            problems += [
                UserError(f"it names a folder of this machine: {where}", place=name, hint=hint) for where in found
            ]
    raise_problems(problems)


# --- import -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imported:
    """A character that came from a folder."""

    entry: Entry
    known: bool
    """Whether it was in this store before."""
    missing_base: str | None
    """The name of its base model, if that is a folder that is not here."""


def bring_in(
    store: Store,
    folder: Path,
    *,
    model: Path | None = None,
    trust_remote_code: bool = False,
    origin: str | None = None,
) -> Imported:
    """Verify an exported folder and put its character back into a store, under its key and name.

    The files of the weights are recorded as they come: an export names the base model by its public name and may hold
    merged weights. Everything else is what the character's key is the hash of, or is compared with its manifest.

    Args:
        model: the folder of its base model, where that is no model of a hub.
        trust_remote_code: run code that comes with the base model.
        origin: where the folder came from, to be recorded: ORG/NAME@COMMIT.

    Raises:
        UserError: a file is missing, changed or added; the folder is no exported character, or another version's; the
            given base model is not the one that it was trained on; the store has the same character, damaged or with other
            weights. Nothing is registered.
    """
    listing = _listing(folder)
    _compare(folder, listing)
    manifest = _manifest(folder, listing)
    here: Row = {"trust_remote_code": trust_remote_code}
    if model is not None:
        _same_base(model, manifest)
        here["name"] = str(model.resolve())
    artifact = Artifact(characters.NAME, manifest["key"], store.artifact(characters.NAME, manifest["key"]).directory)
    store.prepare()
    with store.lock(wait=5):
        known = artifact.finished
        if known:
            _same_character(folder, listing, artifact)
            reference = _read(artifact.key, artifact.directory).constitution.reference
        else:
            part = artifact.directory.with_name(f".{artifact.directory.name}.{os.getpid()}.part")
            try:
                _restore(folder, part, listing, manifest, origin)
                reference = _read(artifact.key, part).constitution.reference
                store.remove(artifact)
                part.replace(artifact.directory)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        base = manifest["identity"]["recipe"]["model"]
        local = "files" in manifest["identity"]["model"]["weights"]
        if not known or model is not None or trust_remote_code:
            note = artifact.directory / "logs" / characters.IMPORTED
            note.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError, ValueError):
                # What an earlier import was told stands, unless this one says otherwise.
                here = {**json.loads(note.read_text(encoding="utf-8")), **{k: v for k, v in here.items() if v}}
            write_atomic(note, json.dumps(here) + "\n")
        registry.register(store, artifact, reference, record={"parent": listing.get("parent")})
    entry = next(e for e in registry.entries(store) if e.key == artifact.key and e.reference == reference)
    missing = local and model is None and not Path(characters.recall(entry).recipe.model.name).is_dir()
    return Imported(entry, known, base["name"] if missing else None)


def _listing(folder: Path) -> Row:
    path = folder / LISTING
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"no exported character: there is no {LISTING}", place=str(folder), hint="make one with: charforge export"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"can not be read: {error}", place=str(path)) from error
    if not isinstance(data, dict) or data.get("schema") != _SCHEMA:
        raise UserError("written by another version of charforge", place=str(path))
    files = data.get("files")
    if not isinstance(files, dict) or not all(_safe(name) and isinstance(about, dict) for name, about in files.items()):
        raise UserError("the list of files is not one", place=str(path))
    if data.get("weights") not in ("adapter", "model") or not isinstance(data.get("parent"), str | None):
        raise UserError("it does not say what the folder holds", place=str(path))
    if data["parent"] is not None and not _ID.fullmatch(data["parent"]):
        raise UserError(f"its parent is no name of a build: {data['parent']!r}", place=str(path))
    needed = ("config.json",) if data["weights"] == "model" else ("adapter_config.json", "adapter_model.safetensors")
    if not set(needed) <= set(files) or not any(name.endswith(".safetensors") for name in files):
        raise UserError("it lists no weights", place=str(path))
    return data


def _safe(name: str) -> bool:
    """Whether a path stays in its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name


def _compare(folder: Path, listing: Row) -> None:
    """Every file against its digest, and no file without one."""
    problems = []
    for name, expected in sorted(listing["files"].items()):
        path = folder / name
        if not path.is_file():
            problems.append(UserError("the file is missing", place=str(path)))
        elif path.suffix in _PICKLES:
            problems.append(UserError("a pickle can run code when it is loaded", place=str(path)))
        elif path.stat().st_size != expected.get("bytes") or file_digest(path) != expected.get("sha256"):
            problems.append(UserError("the file was changed after it was exported", place=str(path)))
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative.parts[0] not in _NOT_OURS and str(relative) not in {*listing["files"], LISTING}:
            problems.append(UserError("the file was added after the export", place=str(path)))
    raise_problems(problems, hint="nothing was imported" if problems else None)


class _Environment(BaseModel):
    packages: dict[str, str | None] = {}
    charforge: str | None = None


class _About(BaseModel):
    stage_version: int
    finished: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    environment: _Environment = _Environment()


class _File(BaseModel):
    bytes: int
    sha256: str


class _Weights(BaseModel):
    hub: str | None = Field(None, pattern=r"^[\w.-]+(/[\w.-]+)?$")
    commit: str | None = Field(None, pattern=r"^[0-9a-f]+$")
    files: dict[str, str] | None = None


class _Model(BaseModel):
    weights: _Weights


class _Identity(BaseModel):
    constitution: str
    model: _Model
    recipe: dict[str, Any]


class _Manifest(BaseModel):
    """What everything that reads the manifest of a character relies on."""

    model_config = ConfigDict(strict=True)

    stage: Literal["character"]
    key: str
    identity: _Identity
    inputs: dict[str, str]
    input_contents: dict[str, str]
    files: dict[str, _File]
    about: _About


def _manifest(folder: Path, listing: Row) -> Row:
    """The manifest in an exported folder, if its key is the hash of what it says."""
    path = folder / MANIFEST
    try:
        data: Row = json.loads(path.read_text(encoding="utf-8"))
        _Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"the manifest is not that of a character: {where}: {first['msg']}", place=str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the manifest can not be read: {type(error).__name__}: {error}", place=str(path)) from error
    preimage = {
        "stage": data["stage"],
        "version": data["about"]["stage_version"],
        "identity": data["identity"],
        "inputs": data["inputs"],
    }
    if not data["key"] == digest(preimage) == listing.get("key"):
        raise UserError("the manifest is not that of this character: its key is not the hash of it", place=str(path))
    return data


def _same_character(folder: Path, listing: Row, artifact: Artifact) -> None:
    """Whether what a store has under a key is whole, and what is to be imported: equal keys say that the same was asked for."""
    store = Store(artifact.directory.parents[2])
    here = [
        entry.id for found in registry.registered(store) for entry in found if entry.folder.name == artifact.key[:24]
    ]
    again = f"charforge rm {here[0]}" if here else "charforge gc --yes"
    try:
        artifact.verify()
    except UserError as problem:
        raise UserError(
            f"it is in the store already, and damaged there: {problem.message}",
            place=str(problem.place),
            hint=f"remove it, then import again: {again}",
        ) from problem
    for name, own in artifact.manifest["files"].items():
        part, _, inner = name.partition("/")
        theirs = listing["files"].get(inner if part == listing["weights"] else name)
        if inner.endswith(".safetensors") and theirs and theirs["sha256"] != own["sha256"]:
            raise UserError(
                "the store has this character with other weights: the same was asked for, and another machine or another "
                "version of a library made something else of it",
                place=str(folder / inner),
                hint=f"import it into another store (--store PATH), or remove that one first: {again}",
            )


def _restore(folder: Path, target: Path, listing: Row, manifest: Row, origin: str | None) -> None:
    """The files of the artifact as they lay in its store, and its manifest."""
    _report(folder)
    shutil.rmtree(target, ignore_errors=True)
    for name in listing["files"]:
        if name in _BESIDE or name.endswith(".gguf"):
            continue
        own = name in _OF_ARTIFACT or name.startswith("constitution/")
        place = target / (name if own else f"{listing['weights']}/{name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place)
    files = _digests(target)
    for name, expected in manifest["files"].items():
        if name in files and not name.startswith("model/") and not name.endswith("adapter_config.json"):
            if files[name]["sha256"] != expected["sha256"]:
                raise UserError("the file is not the one that the character's manifest names", place=str(folder / name))
        elif name not in files and not listing.get("merged"):
            raise UserError(f"the manifest names a file that is not there: {name}", place=str(folder))
    about = {**manifest["about"], "imported": {"when": _now(), "from": origin}}
    text = json.dumps({**manifest, "files": files, "about": about}, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomic(target / MANIFEST, text + "\n")


def _report(folder: Path) -> None:
    """Refuse a report that no command could show."""
    path = folder / "report.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        whole = {"character", "data", "measures"} <= set(data)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"the report can not be read: {error}", place=str(path)) from error
    if not whole:
        raise UserError("the report is not one", place=str(path))


def _read(key: str, folder: Path) -> characters.Character:
    """The character of a folder that has no name yet: a recipe and constitution that can be read, those of its manifest."""
    entry = Entry("", key[: registry.DIGITS], folder, None)
    try:
        found = characters.recall(entry)
    except ValidationError as error:
        raise UserError(
            f"its recipe is one of another version of charforge: {error.errors()[0]['msg']}", place="recipe.json"
        ) from error
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"its recipe is not one: {type(error).__name__}", place="recipe.json") from error
    if not characters.has_own_recipe(entry):
        raise UserError("its recipe is not the one that its manifest names", place="recipe.json")
    return found


def _same_base(model: Path, manifest: Row) -> None:
    found = resolve(ModelReference(name=str(model)))
    if found.identity["weights"] != manifest["identity"]["model"]["weights"]:
        raise UserError("not the base model of this character: its files differ", place=str(model))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# --- the hub ----------------------------------------------------------------------------------------------------------


def push(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Make an exported folder the content of a model repository on the hub; returns the address of the commit.

    Files of an earlier push that are no longer there are removed in the same commit.

    Raises:
        UserError: no token, no network, no right to write there, a public repository where a private one was asked for.
    """
    api = _api()
    from huggingface_hub import get_token

    _check_name(name)
    if not get_token():
        raise UserError(
            "the hub takes uploads only with an access token",
            hint="make one with write access in the settings of your account there, then set HF_TOKEN to it",
        )
    with _hub_errors(name, writing=True):
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UserError(
                f"{name} is there already and public; nothing was uploaded",
                hint="make it private on the hub, or choose another name",
            )
        done = api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message, delete_patterns="*")
    return str(done.commit_url)


def pull(name: str, target: Path) -> str:
    """Fetch an exported character, ORG/NAME or ORG/NAME@REVISION, into a folder; returns ORG/NAME@COMMIT.

    Only what its charforge.json lists is fetched.

    Raises:
        UserError: no such repository or revision, gated, private, no network, or no exported character.
    """
    api = _api()
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    repository, _, revision = name.partition("@")
    _check_name(repository)
    with _beside(target) as folder:
        with _hub_errors(repository):
            commit = str(api.model_info(repository, revision=revision or None).sha)
            try:
                hf_hub_download(repository, LISTING, revision=commit, local_dir=folder)
            except errors.EntryNotFoundError:
                raise UserError(
                    f"{name} is no character that charforge exported: it has no {LISTING}",
                    hint="a plain model is used by its name in a recipe: model: ORG/NAME",
                ) from None
            files = [*_listing(folder)["files"], LISTING]
            # A name is also a pattern: its wildcards stand for themselves.
            exact = [re.sub(r"([*?\[])", r"[\1]", file) for file in files]
            snapshot_download(repository, revision=commit, local_dir=folder, allow_patterns=exact)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
    return f"{repository}@{commit}"


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise missing_extra("train", error) from error
    return HfApi(library_name="charforge", library_version=__version__)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"{name!r} is no name of a repository", hint="give ORG/NAME, such as you/wren")


@contextlib.contextmanager
def _hub_errors(name: str, *, writing: bool = False) -> Iterator[None]:
    from huggingface_hub import errors

    token = "check that HF_TOKEN is a valid access token" + (" with write access" if writing else "")
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        hint = "open its page, accept, then set HF_TOKEN to your access token"
        raise UserError(f"{name} is gated: its owner asks you to accept terms first", hint=hint) from error
    except errors.RepositoryNotFoundError as error:
        hint = f"check the spelling; if it is private, {token}"
        raise UserError(f"the hub knows no {name}, or does not show it to you", hint=hint) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no such revision", hint="give a branch, a tag or a commit of it") from error
    except errors.HFValidationError as error:
        raise UserError(f"{name!r} is no name of a repository: {error}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            what = "refused the token" if status == 401 else f"does not let you write to {name}"
            raise UserError(f"the hub {what}", hint=token) from error
        raise UserError(f"the hub answered {status} for {name}: {error.server_message or ''}".rstrip(": ")) from error
    except ValueError as error:
        raise UserError(f"the hub did not take {name}: {error}") from error
    except Exception as error:  # whatever the HTTP library of the day raises for a network that is not there
        raise UserError(
            f"the hub can not be reached for {name}: {type(error).__name__}",
            hint="check the network, and HF_ENDPOINT if you use a mirror",
        ) from error


# --- a server ---------------------------------------------------------------------------------------------------------


def serve_command(
    reference: str,
    model: Path,
    adapter: Path | None,
    settings: Vllm,
    *,
    device: str,
    host: str,
    port: int,
    trust_remote_code: bool = False,
) -> list[str]:
    """The command of vLLM's OpenAI-compatible server.

    Args:
        reference: the name under which clients ask for the character.
        model: the folder of the whole model, or of the base model of an adapter.
        adapter: a LoRA adapter that is applied to it per request; the base is then served too, as "base".
        device: "cpu" or "cuda".
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    length = min(settings.max_length, config.get("max_position_embeddings") or settings.max_length)
    # `vllm serve` asks for a package called vllm, which the CPU build is not; the module is in both.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", reference if adapter is None else "base"]
    command += ["--host", host, "--port", str(port), "--dtype", "bfloat16", "--max-model-len", str(length)]
    command += ["--max-num-seqs", str(settings.concurrency)]
    template = (adapter or model) / "chat_template.jinja"
    if template.is_file():
        command += ["--chat-template", str(template)]
    if device == "cpu":
        # As in the engine: a split prefill together with a seed per request kills the CPU backend.
        command += ["--enforce-eager", "--no-enable-chunked-prefill"]
        command += ["--max-num-batched-tokens", str(max(8192, length))]
    else:
        command += ["--gpu-memory-utilization", str(settings.memory)]
        command += ["--tensor-parallel-size", str(settings.tensor_parallel)]
    if adapter is not None:
        module = json.dumps({"name": reference, "path": str(adapter)})
        command += ["--enable-lora", "--max-lora-rank", str(_rank(adapter)), "--lora-modules", module]
    if trust_remote_code:
        command.append("--trust-remote-code")
    return command


def serve_environment(
    environment: Mapping[str, str], *, device: str, host: str, key_env: str | None, settings: Vllm
) -> dict[str, str]:
    """The environment of the server. The key goes there, since a command line can be read by every user of the machine.

    Raises:
        UserError: an address that others can reach without a key, or a variable without one.
    """
    found = {**environment, **thread_environment(1), "VLLM_NO_USAGE_STATS": "1", "PYTHONSAFEPATH": "1"}
    if device == "cpu":
        found |= {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kv_gib), **preload()}
    if key_env is not None:
        key = environment.get(key_env, "").strip()
        if not key:
            raise UserError(f"the environment variable {key_env} holds no key", hint=f"export {key_env}=...")
        found["VLLM_API_KEY"] = key
    elif not (host in ("localhost", "::1") or host.startswith("127.")):
        raise UserError(
            f"whoever reaches {host} could use the server",
            hint="give a key that clients must know: --api-key-env NAME, with the key in the variable NAME",
        )
    return found


def served_folders(
    store: Store, character: characters.Character, entry: Entry, device: str
) -> tuple[Path, Path | None]:
    """The model's folder and that of the adapter on it: merged on CPU, where vLLM's LoRA is slow."""
    source = trained_folder(entry.folder)
    if source.name == "model":
        return source, None
    if device == "cpu":
        return _merged(store, character, entry), None
    return fetch(_resolved(character, entry)), source


def check_port(host: str, port: int) -> None:
    """Say it now if something else listens there, and not after the weights are loaded.

    Raises:
        UserError: if the address can not be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"can not listen on {host} port {port}: {error.strerror or error}", hint="choose another --port"
            ) from error


def curl(reference: str, host: str, port: int, key_env: str | None) -> str:
    """A command that asks the server something."""
    where = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    body = json.dumps({"model": reference, "messages": [{"role": "user", "content": "Hello"}]})
    lines = [f"curl http://{where}:{port}/v1/chat/completions", "-H 'Content-Type: application/json'"]
    lines += [f'-H "Authorization: Bearer ${key_env}"'] if key_env else []
    return " \\\n  ".join([*lines, f"-d '{body}'"])
