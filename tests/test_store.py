"""The store: written last and whole, torn lines, copies byte for byte, corruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charforge.errors import UserError
from charforge.store import MANIFEST, Store, read_rows, to_line, write_rows


def finished(store: Store, key: str = "a" * 64) -> Path:
    artifact = store.artifact("responses", key)
    artifact.directory.mkdir(parents=True)
    write_rows(artifact.directory / "rows.jsonl", [{"key": "k1", "text": "one\u2028two"}])
    artifact.finish(identity={"x": 1}, inputs={}, about={})
    return artifact.directory


def test_manifest_is_what_makes_it_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = store.artifact("responses", "a" * 64)
    assert not artifact.finished and not artifact.started
    artifact.journal().add({"key": "k1"})
    assert artifact.started and not artifact.finished
    write_rows(artifact.directory / "rows.jsonl", [{"key": "k1"}])
    artifact.finish(identity={}, inputs={}, about={})
    assert artifact.finished and not (artifact.directory / "journal.jsonl").exists()
    artifact.verify()


def test_a_torn_line_is_no_row(tmp_path: Path) -> None:
    artifact = Store(tmp_path).artifact("responses", "b" * 64)
    journal = artifact.journal()
    journal.add({"key": "k1", "text": "héllo"})
    journal.close()
    path = artifact.directory / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key":"k2","text":"h' + b"\xc3")
    again = artifact.journal()
    assert "k1" in again and "k2" not in again
    again.add({"key": "k3"})
    again.close()
    assert path.read_bytes().startswith(whole)
    assert [row["key"] for row in read_rows(path)] == ["k1", "k3"]


def test_rows_of_a_damaged_artifact_are_not_copied(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = finished(store)
    (source / "rows.jsonl").write_text('{"key":"k1","text":"something else"}\n')
    other = store.artifact("responses", "c" * 64)
    assert store.reuse_rows(other, other.journal(), ["k1"]) == 0


def test_rows_are_copied_byte_for_byte(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = finished(store)
    other = store.artifact("responses", "c" * 64)
    journal = other.journal()
    assert store.reuse_rows(other, journal, ["k1", "k2"]) == 1
    journal.close()
    assert (other.directory / "journal.jsonl").read_bytes() == (source / "rows.jsonl").read_bytes()


def test_corruption_is_seen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory = finished(store)
    artifact = store.artifact("responses", "a" * 64)
    rows = directory / "rows.jsonl"
    original = rows.read_bytes()
    rows.write_bytes(original.replace(b"one", b"two"))
    with pytest.raises(UserError, match="changed after it was made") as error:
        artifact.verify()
    assert "--force responses" in str(error.value)
    rows.unlink()
    with pytest.raises(UserError, match="missing"):
        artifact.verify()
    (directory / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="manifest can not be read"):
        store.artifact("responses", "a" * 64).verify()


def test_unwritable_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can not be written") as error:
        Store(tmp_path / "file" / "store").prepare()
    assert "CHARFORGE_STORE" in str(error.value)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    with store.lock(), pytest.raises(UserError, match="another run"), Store(tmp_path).lock():
        pass


def test_lines_are_canonical() -> None:
    assert to_line({"b": 1, "a": "é"}) == '{"a":"é","b":1}\n'
    with pytest.raises(ValueError):
        to_line({"a": float("nan")})
    assert json.loads(to_line({"a": "x\u2028"})) == {"a": "x\u2028"}
