"""The characters of a store: names that mean exactly one thing, where each came from, and what can be thrown away.

A character is an artifact; `STORE/characters/NAME@VERSION/BUILD` links to it and `BUILD.json` beside the link keeps what was
true when it was registered: its parent and when. `characters/tags.json` gives builds further names.

    wren@1.1.0          the build of this version that was trained last
    wren@1.1.0/a8ac56   a build, by the beginning of its key
    wren:best           a build that was tagged
    wren                the version of that name that was trained last
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from charforge.constitution import digest
from charforge.errors import UserError, did_you_mean
from charforge.store import MANIFEST, Artifact, Store, write_atomic

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# A folder that a process works in has the process's number in its name.
_OWNER = re.compile(r"\.(?:.+\.(\d+)\.tmp|pu(?:sh|ll)-(\d+)-.*)")
LATEST = "latest"
# Digits of its key that a build is called by.
DIGITS = 12


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
            raise self._damaged(str(error)) from error
        if not _is_manifest(data) or not _is_characters(data):
            raise self._damaged("it is not one of a character")
        return dict(data)

    def _damaged(self, why: str) -> UserError:
        hint = f"train it again with --force character, or forget it: charforge rm {self.id}"
        return UserError(f"the manifest of {self.id} can not be read: {why}", place=str(self.folder), hint=hint)

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
    """Every registered character that can be read, in the order in which they were made."""
    return registered(store)[0]


def registered(store: Store) -> tuple[list[Entry], list[Entry]]:
    """Every registered character: those that can be read, in the order in which they were made, and the damaged ones."""
    whole, damaged = [], []
    root = store.root / "characters"
    for link in root.glob("*@*/*") if root.is_dir() else ():
        if link.name == LATEST or link.suffix == ".json" or link.name.startswith("."):
            continue
        if not link.is_symlink() and not (link / MANIFEST).is_file():
            continue
        parent = _record(link).get("parent")
        entry = Entry(link.parent.name, link.name, link.resolve(), parent if isinstance(parent, str) else None)
        try:
            whole.append((entry.made, entry.id, entry))
        except UserError:
            damaged.append(entry)
    return [entry for _, _, entry in sorted(whole, key=lambda e: e[:2])], sorted(damaged, key=lambda entry: entry.id)


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


def has_record(store: Store, entry: Entry) -> bool:
    """Whether what was true when it was registered can be read: without it its parent is not known."""
    parent = _record(store.root / "characters" / entry.reference / entry.build).get("parent", 0)
    return parent is None or isinstance(parent, str)


@contextlib.contextmanager
def _names(store: Store) -> Iterator[None]:
    """Hold the names of a store while they are changed: for moments, and whatever else runs on the store."""
    folder = store.root / "characters"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / ".lock"), timeout=30):
            yield
    except Timeout:
        raise UserError("another process holds the names of this store", place=str(folder)) from None
    except OSError as error:
        raise UserError(f"the store can not be written: {error.strerror or error}", place=str(folder)) from error


def register(store: Store, artifact: Artifact, reference: str, record: dict[str, Any] | None = None) -> Path:
    """Link the character under its name and build, and as its name's latest; returns the first link.

    Its parent is the character of that name that was registered last before it; that never changes afterwards. `record`
    is what was true where it was registered first, if that was in another store. The latest is the one that was made
    last: one that came from elsewhere, or was made before, takes no name away.
    """
    folder = store.root / "characters" / reference
    link = folder / artifact.key[:DIGITS]
    with _names(store):
        folder.mkdir(parents=True, exist_ok=True)
        known = entries(store)
        note = link.with_name(f"{link.name}.json")
        if not note.is_file():
            if record is None:
                name = reference.partition("@")[0]
                earlier = [e for e in known if e.name == name and e.id != f"{reference}/{link.name}"]
                record = {"parent": earlier[-1].id if earlier else None}
            write_atomic(note, json.dumps(record) + "\n")
        last = (folder / LATEST).resolve()
        made = str(artifact.manifest["about"]["finished"])
        newer = any(e.reference == reference and e.folder == last and e.made > made for e in known)
        for place in (link,) if newer else (link, folder / LATEST):
            _point(place, artifact.directory)
    return link


def _point(place: Path, target: Path) -> None:
    """Make a link that is whole or absent."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, place.parent))
    temporary.replace(place)


def find(store: Store, text: str, *, damaged: bool = False) -> Entry:
    """The character that a reference means; also one whose manifest can not be read, if `damaged`.

    Raises:
        UserError: if there is none, its manifest can not be read, or the beginning of a build fits several.
    """
    whole, broken = registered(store)
    tagged = tags(store)
    target = tagged.get(text, text)
    reference, _, build = target.partition("/")
    if "@" not in reference and not build:
        reference = next((e.reference for e in reversed([*broken, *whole]) if e.name == reference), reference)
    own = [entry for entry in (*broken, *whole) if entry.reference == reference]
    fitting = [e for e in own if e.build.startswith(build) or (e in whole and e.key.startswith(build))]
    if build and len({entry.build for entry in fitting}) > 1:
        builds = ", ".join(entry.build for entry in fitting)
        raise UserError(f"{text!r} fits several builds: {builds}", hint="give more digits")
    if fitting:
        last = (store.root / "characters" / reference / LATEST).resolve()
        found = next((entry for entry in fitting if not build and entry.folder == last), fitting[-1])
        if not damaged:
            _ = found.manifest  # raises if it can not be read
        return found
    if text in tagged:
        hint = f"to remove the tag: charforge tag {text} --delete"
        raise UserError(f"{text!r} is a tag of {target}, which is not in {store.root}", hint=hint)
    names = [*{entry.reference for entry in whole}, *tagged, *{entry.name for entry in whole}]
    close = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.6)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    hint = "charforge list shows what there is" if whole else "train one first: charforge train RECIPE"
    raise UserError(f"no trained character {text!r} in {store.root}{meant}", hint=hint)


# --- tags -----------------------------------------------------------------------------------------------------------


def tags(store: Store) -> dict[str, str]:
    """name:tag → reference/build."""
    path = store.root / "characters" / "tags.json"
    if not path.is_file():
        return {}
    why: object = "they are no names with builds"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and all(isinstance(target, str) for target in data.values()):
            return data
    except (OSError, ValueError) as error:
        why = error
    raise UserError(f"the tags can not be read: {why}", place=str(path), hint="mend or remove the file")


def tag(store: Store, entry: Entry, label: str) -> str:
    """Give a character a further name, `NAME:label`; it moves if another of that name had it. Returns it."""
    text = f"{entry.name}:{label}"
    if not _LABEL.fullmatch(label):
        raise UserError(
            f"{label!r} is no tag", hint="letters without accents, digits, dots, hyphens and underscores, such as best"
        )
    with _names(store):
        _write_tags(store, {**tags(store), text: entry.id})
    return text


def untag(store: Store, text: str) -> None:
    """Remove a tag.

    Raises:
        UserError: if there is none.
    """
    if not tags(store):
        raise UserError(f"no tag {text!r}: there is none in {store.root}")
    with _names(store):
        known = tags(store)
        if text not in known:
            raise UserError(f"no tag {text!r}{did_you_mean(text, known)}")
        _write_tags(store, {key: value for key, value in known.items() if key != text})


def _write_tags(store: Store, data: dict[str, str]) -> None:
    write_atomic(store.root / "characters" / "tags.json", json.dumps(data, indent=1, sort_keys=True) + "\n")


# --- what can go ------------------------------------------------------------------------------------------------------


def needed_by(store: Store, entry: Entry) -> list[str]:
    """In words, what else refers to a character: tags, characters that came after it, and what it was measured beside.

    A comparison or an evaluation with a twin stays when one of them is removed, but can not be made again.
    """
    found = [f"it is tagged {text}" for text, target in tags(store).items() if target == entry.id]
    whole, damaged = registered(store)
    found += [f"{other.id} has it as its parent" for other in (*whole, *damaged) if other.parent == entry.id]
    if entry not in whole:
        return found
    known = dict(manifests(store))
    beside: set[Path] = set()
    for path in about(known, [entry]):
        read = set(sources(known, [path]))
        if entry.folder in read:
            beside |= read
    return found + [f"it was measured beside {o.id}" for o in whole if o.folder in beside and o.folder != entry.folder]


def remove(store: Store, entry: Entry) -> None:
    """Forget a character: its tags, its own artifact and its links. What it was made from stays until `garbage` is removed.

    The link goes after the artifact: what is interrupted here is a damaged character, which can be removed again.
    """
    with _names(store):
        tagged = tags(store)
        if entry.id in tagged.values():
            _write_tags(store, {key: value for key, value in tagged.items() if value != entry.id})
        folder = store.root / "characters" / entry.reference
        whole, damaged = registered(store)
        others = [other for other in (*damaged, *whole) if other.id != entry.id]
        # A link can lead anywhere; only an artifact is removed.
        own = entry.folder.parent == (store.root / "artifacts" / "character").resolve()
        if own and not any(other.folder == entry.folder for other in others):
            store.remove(Artifact("character", "", entry.folder))
        for link in (folder / entry.build, folder / f"{entry.build}.json"):
            link.unlink(missing_ok=True)
        left = [other for other in others if other.reference == entry.reference]
        if not left:
            shutil.rmtree(folder, ignore_errors=True)
        elif (folder / LATEST).resolve() not in {other.folder for other in left}:
            _point(folder / LATEST, left[-1].folder)


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

    Kept are the characters, all that they were made from, all that was made from them, and the comparisons by their
    constitutions. Unfinished artifacts and merged weights can be made again; they are listed as what they are.

    Raises:
        UserError: a character, or something that is needed, has no manifest that can be read: what that was made from
            would pass for unneeded.
    """
    whole, damaged = registered(store)
    for entry in damaged:
        _ = entry.manifest  # raises
    known = dict(manifests(store))
    kept = {entry.folder for entry in whole} | about(known, whole)
    kept |= set(sources(known, kept))
    unread = {
        folder.name: folder
        for folder in (store.root / "artifacts").glob("*/*")
        if folder.is_dir() and folder.resolve() not in known
    }
    for path in kept:
        for role, key in known.get(path, {}).get("inputs", {}).items():
            if key[:24] in unread:
                raise UserError(
                    f"{path.parent.name} {path.name[:DIGITS]} needs this as its {role!r}, and its manifest is missing or can not "
                    "be read: what it was made from is not known, so nothing can be called unneeded",
                    place=str(unread[key[:24]]),
                    hint="make it again with charforge train, or remove the character that needs it: charforge rm",
                )
    found = []
    artifacts = store.root / "artifacts"
    for folder in sorted(artifacts.glob("*/*")) if artifacts.is_dir() else ():
        if folder.is_dir() and folder.resolve() not in kept:
            what = "unneeded" if folder.resolve() in known else "unfinished"
            found.append(Garbage(folder, f"{what} {folder.parent.name}", _size(folder)))
    weights = store.root / "weights"
    for folder in sorted(weights.glob("*")) if weights.is_dir() else ():
        if folder.is_dir() and not _in_use(folder):
            found.append(Garbage(folder, "merged weights, made again when needed", _size(folder)))
    for folder in sorted(store.root.glob(".pu[sl][hl]-*")):
        if folder.is_dir() and not _in_use(folder):
            found.append(Garbage(folder, "left by a push or pull that was killed", _size(folder)))
    return found


def _in_use(folder: Path) -> bool:
    """Whether it is the scratch folder of a process that lives; its number is in the name."""
    owner = _OWNER.fullmatch(folder.name)
    return owner is not None and Path("/proc", owner[1] or owner[2]).exists()


def about(known: dict[Path, dict[str, Any]], characters: Sequence[Entry]) -> set[Path]:
    """The artifacts that were made from characters or measured by their constitutions: evaluations and comparisons."""
    keys = {entry.key for entry in characters}
    constitutions = {entry.manifest["identity"]["constitution"] for entry in characters}
    found: set[Path] = set()
    grown = True
    while grown:
        grown = False
        for path, manifest in known.items():
            if path in found:
                continue
            by = manifest["identity"].get("measured_by")
            measured = isinstance(by, list) and not constitutions.isdisjoint(by)
            if measured or not keys.isdisjoint(manifest["inputs"].values()):
                found.add(path)
                keys.add(manifest["key"])
                grown = True
    return found


def sources(known: dict[Path, dict[str, Any]], paths: Iterable[Path]) -> list[Path]:
    """The artifacts that some were made from, and what those were made from: all that are here."""
    by_key = {manifest["key"]: place for place, manifest in known.items()}
    found: dict[Path, None] = {}
    todo = list(paths)
    while todo:
        for key in known.get(todo.pop(), {}).get("inputs", {}).values():
            source = by_key.get(key)
            if source is not None and source not in found:
                found[source] = None
                todo.append(source)
    return list(found)


def manifests(store: Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every finished artifact's directory with its manifest."""
    for path in (store.root / "artifacts").glob(f"*/*/{MANIFEST}"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if _is_manifest(data):
            yield path.parent.resolve(), data


def _is_manifest(data: Any) -> bool:
    """Whether what everything else relies on is there."""
    if not isinstance(data, dict) or not isinstance(data.get("key"), str) or not isinstance(data.get("stage"), str):
        return False
    mappings = [data.get(name) for name in ("identity", "inputs", "files", "about")]
    if not all(isinstance(found, dict) for found in mappings):
        return False
    inputs, finished = data["inputs"].values(), data["about"].get("finished")
    return isinstance(finished, str) and all(isinstance(key, str) for key in inputs)


def _is_characters(manifest: dict[str, Any]) -> bool:
    """Whether a manifest says, besides, who its character is and what it was trained on."""
    identity = manifest["identity"]
    recipe = identity.get("recipe")
    return (
        isinstance(identity.get("constitution"), str)
        and isinstance(identity.get("model"), dict)
        and isinstance(recipe, dict)
        and isinstance(recipe.get("model"), dict)
        and isinstance(manifest["about"].get("environment", {}), dict)
    )


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def lineage(found: Sequence[Entry], name: str) -> list[tuple[int, Entry]]:
    """The characters of a name as a tree: (depth, entry), each below its parent, the oldest first."""
    own = [entry for entry in found if entry.name == name]
    ids = {entry.id for entry in own}
    below: dict[str | None, list[Entry]] = {}
    for entry in own:
        below.setdefault(entry.parent if entry.parent in ids else None, []).append(entry)
    result: list[tuple[int, Entry]] = []
    shown: set[str] = set()
    # Parents that go in a circle have no beginning; such a record came from elsewhere. It is shown all the same.
    for root in (*below.get(None, ()), *own):
        todo = [(0, root)]
        while todo:
            depth, entry = todo.pop()
            if entry.id not in shown:
                shown.add(entry.id)
                result.append((depth, entry))
                todo += [(depth + 1, child) for child in reversed(below.get(entry.id, []))]
    return result
