"""The store: a folder of artifacts, each named by the hash of all that determines its content.

    STORE/artifacts/STAGE/KEY/   one artifact: data files, logs, and manifest.json, written last
    STORE/characters/NAME@VERSION/BUILD   links to finished character artifacts
    STORE/weights/DIGEST/        merged weights, a cache that can be deleted at any time

A directory with a manifest is finished; one without is unfinished, never wrong: its journal of rows is continued.
Files are written to a temporary neighbour, synced, and renamed, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from charforge.errors import StageError, UserError

Row = dict[str, Any]

MANIFEST = "manifest.json"
_JOURNAL = "journal.jsonl"


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that it is whole or absent: temporary neighbour, sync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_line(row: Row) -> str:
    """One row as one line of canonical JSON."""
    return json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    lines = [to_line(row) for row in rows]
    write_atomic(path, "".join(lines))
    return len(lines)


def read_rows(path: Path) -> list[Row]:
    """All rows of a JSON Lines file; U+2028 and friends inside strings do not end a line."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file if line.strip()]


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """One artifact's directory. `identity` is what its key is the hash of."""

    stage: str
    key: str
    directory: Path

    @property
    def finished(self) -> bool:
        return (self.directory / MANIFEST).is_file()

    @property
    def started(self) -> bool:
        return self.directory.is_dir() and any(p.name != "lock" for p in self.directory.iterdir())

    @cached_property
    def manifest(self) -> dict[str, Any]:
        path = self.directory / MANIFEST
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._corrupt(path, f"the manifest can not be read: {error}") from error
        if not isinstance(data, dict) or data.get("key") != self.key or not isinstance(data.get("files"), dict):
            raise self._corrupt(path, "the manifest does not belong to this artifact")
        return data

    @property
    def content(self) -> str:
        """The digest of what a finished artifact holds: equal contents can stand in for each other."""
        return hashlib.sha256(json.dumps(self.manifest["files"], sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            UserError: naming the file that is missing or changed, and the way out.
        """
        for name, expected in self.manifest["files"].items():
            path = self.directory / name
            if not path.is_file():
                raise self._corrupt(path, "the file is missing")
            if path.stat().st_size != expected["bytes"] or file_digest(path) != expected["sha256"]:
                raise self._corrupt(path, "the file was changed after it was made")

    def vouches_for(self, path: Path) -> bool:
        """Whether a file of this artifact may be read by others: it is unfinished, or as the manifest says."""
        if not self.finished:
            return True
        try:
            expected = self.manifest["files"].get(path.name)
        except UserError:
            return False
        return bool(expected) and expected["sha256"] == file_digest(path)

    def _corrupt(self, path: Path, what: str) -> UserError:
        return UserError(
            f"corrupt artifact of stage {self.stage!r}: {what}",
            place=str(path),
            hint=f"make it again with: charforge train RECIPE --force {self.stage}",
        )

    # --- rows of an unfinished artifact -------------------------------------------------------------------------

    def journal(self) -> Journal:
        self.directory.mkdir(parents=True, exist_ok=True)
        return Journal(self.directory / _JOURNAL)

    def finish(self, *, identity: dict[str, Any], inputs: dict[str, Artifact], about: dict[str, Any]) -> None:
        """Hash the files, drop the journal, and write the manifest: from then on the artifact is finished.

        Args:
            identity: what the key is the hash of.
            inputs: the artifacts that were read, by role.
            about: what is worth recording but does not determine the content: versions, times, counts.
        """
        (self.directory / _JOURNAL).unlink(missing_ok=True)
        files = {
            str(path.relative_to(self.directory)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and not _passing(path.relative_to(self.directory))
        }
        manifest = {
            "stage": self.stage,
            "key": self.key,
            "key_algorithm": "sha256 of canonical JSON",
            "identity": identity,
            "inputs": {role: source.key for role, source in inputs.items()},
            "input_contents": {role: source.content for role, source in inputs.items()},
            "files": files,
            "about": {**about, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        }
        write_atomic(
            self.directory / MANIFEST,
            json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        )


def _passing(relative: Path) -> bool:
    """Files that are no part of the artifact: logs, locks, checkpoints, temporary files."""
    first = relative.parts[0]
    return (
        first in ("lock", "logs", "checkpoints", "tracking", MANIFEST)
        or relative.name.startswith(".")
        or relative.suffix == ".log"
    )


class Journal:
    """Rows made so far, in the order they came, one JSON line each; survives `kill -9` between any two bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, str] = {}
        self._file: IO[str] | None = None
        if path.exists():
            self._load()

    def _load(self) -> None:
        with self.path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1  # a torn last line is not a row
            if whole < len(content):
                file.truncate(whole)
        for line in content[:whole].decode("utf-8").split("\n"):
            if line:
                self.lines[json.loads(line)["key"]] = line + "\n"

    def __contains__(self, key: str) -> bool:
        return key in self.lines

    def row(self, key: str) -> Row:
        value: Row = json.loads(self.lines[key])
        return value

    def add(self, row: Row) -> None:
        self.add_line(row["key"], to_line(row))

    def add_line(self, key: str, line: str) -> None:
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(line)
        self._file.flush()
        self.lines[key] = line

    def close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def default_root() -> Path:
    """Where artifacts go unless the recipe says otherwise: CHARFORGE_STORE, or .charforge here."""
    return Path(os.environ.get("CHARFORGE_STORE") or ".charforge").expanduser()


class Store:
    """The folder of artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            UserError: if it can not be written.
        """
        try:
            (self.root / "artifacts").mkdir(parents=True, exist_ok=True)
            probe = self.root / f".writable.{os.getpid()}"
            probe.write_text("", encoding="utf-8")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"the store can not be written: {error.strerror or error}",
                place=str(self.root),
                hint="choose another folder: --store PATH, for a training --set runtime.store=PATH, or CHARFORGE_STORE",
            ) from error

    def artifact(self, stage: str, key: str) -> Artifact:
        return Artifact(stage, key, self.root / "artifacts" / stage / key[:24])

    def artifacts(self, stage: str) -> Iterator[Artifact]:
        """All artifacts of a stage, finished or not, the most recently changed first."""
        folder = self.root / "artifacts" / stage
        if folder.is_dir():
            for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True):
                if path.is_dir():
                    yield Artifact(stage, _key_of(path), path)

    def reuse_rows(self, artifact: Artifact, journal: Journal, wanted: Iterable[str], name: str = "rows.jsonl") -> int:
        """Copy rows with the wanted keys from other artifacts of the same stage into the journal, byte for byte.

        A row's key is the hash of all that determines it, so a row made for another version of the constitution is
        this version's row where nothing that it depends on changed. Returns how many were copied.
        """
        missing = {key for key in wanted if key not in journal}
        copied = 0
        for other in self.artifacts(artifact.stage):
            if not missing:
                break
            if other.directory == artifact.directory:
                continue
            for path in (other.directory / name, other.directory / _JOURNAL):
                if not path.is_file() or not other.vouches_for(path):
                    continue
                with path.open(encoding="utf-8", newline="\n") as file:
                    for line in file:
                        try:
                            key = json.loads(line).get("key")
                        except ValueError:
                            continue  # the torn last line of another run's journal
                        if key in missing and line.endswith("\n"):
                            journal.add_line(key, line)
                            missing.discard(key)
                            copied += 1
        return copied

    def remove(self, artifact: Artifact) -> None:
        if artifact.directory.exists():
            (artifact.directory / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(artifact.directory)

    @contextlib.contextmanager
    def lock(self, wait: float = 0) -> Iterator[None]:
        """Hold the store for one run.

        Args:
            wait: seconds to wait for another process that may soon be done.

        Raises:
            UserError: if another process holds it.
        """
        lock = FileLock(str(self.root / "lock"))
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise UserError(
                "another run is using this store",
                place=str(self.root),
                hint="wait for it to end, or give this one its own: --store PATH, for a training --set runtime.store=PATH",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def cached_folder(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder of the weights cache, made once: built beside its place and renamed into it."""
        target = self.root / "weights" / name
        if target.is_dir():
            return target
        temporary = target.with_name(f".{name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            make(temporary)
            temporary.replace(target)
        except OSError as error:
            if not target.is_dir():
                raise StageError(f"could not write {target}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target


def _key_of(path: Path) -> str:
    try:
        key = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return path.name
    return str(key)
