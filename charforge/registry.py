"""The characters of a store: names that mean exactly one thing, where each came from, and what can be thrown away.

A character is an artifact; `STORE/characters/NAME@VERSION/BUILD` links to it and `BUILD.json` beside the link keeps what was
true when it was registered: its parent and when. `characters/tags.json` gives builds further names.

    wren@1.1.0          the build of this version that was trained last
    wren@1.1.0/a8ac56   a build, by the beginning of its key
    wren:best           a build that was tagged
    wren                the version of that name that was trained last
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from charforge.constitution import digest
from charforge.errors import UserError, did_you_mean
from charforge.store import MANIFEST, Artifact, Store, write_atomic

_TAG = re.compile(r"[a-z][a-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._-]*")
LATEST = "latest"


@dataclass(frozen=True)
class Entry:
    """A registered character."""

    reference: str
    """name@version."""
    build: str
    """The first 12 digits of its key."""
    folder: Path
    """The artifact's directory."""
    parent: str | None
    """reference/build of the character that was the last of its name before this one."""

    @property
    def id(self) -> str:
        return f"{self.reference}/{self.build}"

    @property
    def name(self) -> str:
        return self.reference.partition("@")[0]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        try:
            data = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"the manifest of {self.id} can not be read: {error}", place=str(self.folder)) from error
        return dict(data)

    @property
    def key(self) -> str:
        return str(self.manifest["key"])

    @property
    def made(self) -> str:
        """When it was made, in UTC."""
        return str(self.manifest["about"]["finished"])

    @property
    def adapter(self) -> str | None:
        """The sha256 of its weights."""
        files = self.manifest["files"]
        found = [name for name in files if name.endswith(".safetensors")]
        if len(found) == 1:
            return str(files[found[0]]["sha256"])
        return digest({name: files[name]["sha256"] for name in found}) if found else None

    def as_dict(self) -> dict[str, Any]:
        identity = self.manifest["identity"]
        return {
            "reference": self.reference,
            "build": self.build,
            "key": self.key,
            "made": self.made,
            "parent": self.parent,
            "constitution": identity["constitution"],
            "model": {"name": identity["recipe"]["model"].get("name"), **identity["model"]},
            "recipe": identity["recipe"],
            "data": self.manifest["inputs"],
            "weights": self.adapter,
            "versions": self.manifest["about"].get("environment", {}),
            "folder": str(self.folder),
        }


def entries(store: Store) -> list[Entry]:
    """Every registered character, in the order in which they were made."""
    found = []
    root = store.root / "characters"
    for link in root.glob("*@*/*") if root.is_dir() else ():
        if link.name == LATEST or link.suffix == ".json" or link.name.startswith("."):
            continue
        if (link / MANIFEST).is_file():
            found.append(Entry(link.parent.name, link.name, link.resolve(), _record(link).get("parent")))
    return sorted(found, key=lambda entry: (entry.made, entry.id))


def other_runs(store: Store, entry: Entry) -> list[Entry]:
    """Other training runs of the same: what differs in what they were made from is the seed. The newest first."""

    def made_from(each: Entry) -> dict[str, Any]:
        identity = dict(each.manifest["identity"])
        # How a character is measured did not train it.
        recipe = {name: value for name, value in identity["recipe"].items() if name not in ("seed", "evaluation")}
        return {**identity, "recipe": recipe}

    own = made_from(entry)
    found = [each for each in entries(store) if each.key != entry.key and each.name == entry.name]
    return [each for each in reversed(found) if made_from(each) == own]


def _record(link: Path) -> dict[str, Any]:
    try:
        data = json.loads(link.with_name(f"{link.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def register(store: Store, artifact: Artifact, reference: str, record: dict[str, Any] | None = None) -> Path:
    """Link the character under its name and build, and as its name's latest; returns the first link.

    Its parent is the character of that name that was registered last before it; that never changes afterwards. `record`
    is what was true where it was registered first, if that was in another store.
    """
    folder = store.root / "characters" / reference
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / artifact.key[:12]
    note = link.with_name(f"{link.name}.json")
    if not note.is_file():
        if record is None:
            name = reference.partition("@")[0]
            earlier = [e for e in entries(store) if e.name == name and e.id != f"{reference}/{link.name}"]
            record = {"parent": earlier[-1].id if earlier else None}
        write_atomic(note, json.dumps(record) + "\n")
    for place in (link, folder / LATEST):
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(artifact.directory, folder))
        temporary.replace(place)
    return link


def find(store: Store, text: str) -> Entry:
    """The character that a reference means.

    Raises:
        UserError: if there is none, or the beginning of a build fits several.
    """
    known = entries(store)
    tagged = tags(store)
    target = tagged.get(text, text)
    reference, _, build = target.partition("/")
    if "@" not in reference and not build:
        of_name = [entry for entry in known if entry.name == reference]
        if of_name:
            return of_name[-1]
    fitting = [entry for entry in known if entry.reference == reference and entry.build.startswith(build)]
    if build and len({entry.build for entry in fitting}) > 1:
        builds = ", ".join(entry.build for entry in fitting)
        raise UserError(f"{text!r} fits several builds: {builds}", hint="give more digits")
    if fitting:
        latest = store.root / "characters" / reference / LATEST
        last = latest.resolve()
        return next((entry for entry in fitting if not build and entry.folder == last), fitting[-1])
    names = [*{entry.reference for entry in known}, *tagged, *{entry.name for entry in known}]
    hint = "charforge list shows what there is" if known else "train one first: charforge train RECIPE"
    raise UserError(f"no trained character {text!r} in {store.root}{did_you_mean(text, names)}", hint=hint)


# --- tags -----------------------------------------------------------------------------------------------------------


def tags(store: Store) -> dict[str, str]:
    """name:tag → reference/build."""
    path = store.root / "characters" / "tags.json"
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"the tags can not be read: {error}", place=str(path), hint="mend or remove the file"
        ) from error
    return dict(data)


def tag(store: Store, entry: Entry, label: str) -> str:
    """Give a character a further name, `NAME:label`; it moves if another of that name had it. Returns it."""
    text = f"{entry.name}:{label}"
    if not _TAG.fullmatch(text):
        raise UserError(f"{label!r} is no tag", hint="letters, digits, dots, hyphens and underscores, such as best")
    _write_tags(store, {**tags(store), text: entry.id})
    return text


def untag(store: Store, text: str) -> None:
    """Remove a tag.

    Raises:
        UserError: if there is none.
    """
    known = tags(store)
    if text not in known:
        raise UserError(f"no tag {text!r}{did_you_mean(text, known)}")
    _write_tags(store, {key: value for key, value in known.items() if key != text})


def _write_tags(store: Store, data: dict[str, str]) -> None:
    write_atomic(store.root / "characters" / "tags.json", json.dumps(data, indent=1, sort_keys=True) + "\n")


# --- what can go ------------------------------------------------------------------------------------------------------


def needed_by(store: Store, entry: Entry) -> list[str]:
    """In words, what else refers to a character: tags, and characters that came after it."""
    found = [f"it is tagged {text}" for text, target in tags(store).items() if target == entry.id]
    return found + [f"{other.id} has it as its parent" for other in entries(store) if other.parent == entry.id]


def remove(store: Store, entry: Entry) -> None:
    """Forget a character: its links, its tags and its own artifact. What it was made from stays until `garbage` is removed."""
    _write_tags(store, {key: value for key, value in tags(store).items() if value != entry.id})
    folder = store.root / "characters" / entry.reference
    for link in (folder / entry.build, folder / f"{entry.build}.json"):
        link.unlink(missing_ok=True)
    others = [other for other in entries(store) if other.reference == entry.reference]
    latest = folder / LATEST
    latest.unlink(missing_ok=True)
    if others:
        latest.symlink_to(os.path.relpath(others[-1].folder, folder))
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if not any(other.folder == entry.folder for other in entries(store)):
        store.remove(Artifact("character", entry.key, entry.folder))


def evaluations(store: Store, entry: Entry) -> list[dict[str, Any]]:
    """The measures that were taken of a character: suite, when, and the directory with rows and numbers."""
    known = dict(manifests(store))
    asked = {manifest["key"] for manifest in known.values() if manifest["inputs"].get("trained") == entry.key}
    found = [
        {
            "suite": manifest["stage"].removeprefix("measure-"),
            "made": manifest["about"]["finished"],
            "rows": manifest["about"]["result"].get("rows"),
            "folder": str(path),
        }
        for path, manifest in known.items()
        if manifest["stage"].startswith("measure-") and asked & set(manifest["inputs"].values())
    ]
    return sorted(found, key=lambda row: (row["suite"], row["made"]))


@dataclass(frozen=True)
class Garbage:
    """Something in the store that no registered character needs."""

    path: Path
    what: str
    bytes: int


def garbage(store: Store) -> list[Garbage]:
    """What no registered character was made from, and no evaluation of one needs.

    Kept are the characters, all that they were made from, and all that was made from them. Unfinished artifacts and merged
    weights can be made again; they are listed as what they are.
    """
    known = dict(manifests(store))
    by_key = {manifest["key"]: path for path, manifest in known.items()}
    kept = {entry.folder.resolve() for entry in entries(store)}
    keys = {entry.key for entry in entries(store)}
    # Whatever was made from a character is about it: its evaluations. Their own inputs are needed in turn.
    grown = True
    while grown:
        grown = False
        for path, manifest in known.items():
            if path not in kept and keys & set(manifest["inputs"].values()):
                kept.add(path)
                keys.add(manifest["key"])
                grown = True
    todo = list(kept)
    while todo:
        for key in known.get(todo.pop(), {}).get("inputs", {}).values():
            source = by_key.get(key)
            if source is not None and source not in kept:
                kept.add(source)
                todo.append(source)
    found = []
    artifacts = store.root / "artifacts"
    for folder in sorted(artifacts.glob("*/*")) if artifacts.is_dir() else ():
        if folder.is_dir() and folder.resolve() not in kept:
            what = "unneeded" if folder.resolve() in known else "unfinished"
            found.append(Garbage(folder, f"{what} {folder.parent.name}", _size(folder)))
    weights = store.root / "weights"
    for folder in sorted(weights.glob("*")) if weights.is_dir() else ():
        if folder.is_dir():
            found.append(Garbage(folder, "merged weights, made again when needed", _size(folder)))
    return found


def manifests(store: Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every finished artifact's directory with its manifest."""
    for path in (store.root / "artifacts").glob(f"*/*/{MANIFEST}"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        yield path.parent.resolve(), data


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def lineage(found: Sequence[Entry], name: str) -> list[tuple[int, Entry]]:
    """The characters of a name as a tree: (depth, entry), each below its parent, the oldest first."""
    own = [entry for entry in found if entry.name == name]
    ids = {entry.id for entry in own}
    result: list[tuple[int, Entry]] = []

    def walk(parent: str | None, depth: int) -> None:
        for entry in own:
            above = entry.parent if entry.parent in ids else None
            if above == parent:
                result.append((depth, entry))
                walk(entry.id, depth + 1)

    walk(None, 0)
    return result
