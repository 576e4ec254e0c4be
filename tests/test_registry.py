"""The characters of a store: names, lineage, tags, what may be removed, and what two differ in."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from charforge import characters, registry
from charforge.constitution import digest, load
from charforge.errors import UserError
from charforge.recipe import Recipe
from charforge.store import Artifact, Store
from tests.conftest import BANK, SMALL, run_cli


def made(store: Store, stage: str, identity: dict[str, Any], inputs: dict[str, Artifact], **files: str) -> Artifact:
    """A finished artifact with a true key."""
    version = {"stage": stage, "version": 1, "identity": identity, "inputs": {r: a.key for r, a in inputs.items()}}
    artifact = store.artifact(stage, digest(version))
    artifact.directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = artifact.directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    artifact.finish(identity=identity, inputs=inputs, about={"stage_version": 1, "result": {"rows": 1}})
    return store.artifact(stage, artifact.key)


def character(
    store: Store,
    text: str = SMALL,
    seed: int = 0,
    weights: str = "w",
    engine: str = "vllm",
    model: str = "builtin:smollm2-135m-instruct",
) -> registry.Entry:
    """A registered character as training leaves it, with its pairs, its training and the judge's calibration."""
    scratch = store.root / "pip.md"
    store.root.mkdir(parents=True, exist_ok=True)
    scratch.write_text(text, encoding="utf-8")
    constitution = load(scratch)
    recipe = characters.settings(
        Recipe.model_validate(
            {
                "constitution": "pip.md",
                "model": model,
                "seed": seed,
                "engine": engine,
                "scenarios": {"bank": "b"},
            }
        )
    )
    prompts = made(store, "scenarios", {"c": constitution.digest}, {}, **{"rows.jsonl": text})
    identity = {"seed": seed, "c": constitution.digest}
    pairs = made(store, "preferences", identity, {"scenarios": prompts}, **{"pairs.jsonl": text})
    trained = made(store, "dpo", {"seed": seed}, {"preferences": pairs}, **{"adapter__a.safetensors": weights})
    judge = made(store, "judge", {"c": constitution.digest}, {}, **{"rows.jsonl": ""})
    artifact = made(
        store,
        "character",
        {"constitution": constitution.digest, "model": {"weights": "m"}, "recipe": recipe},
        {"trained": trained, "preferences": pairs, "judge": judge},
        **{
            "constitution.md": text,
            "recipe.json": json.dumps(recipe),
            "bank.yaml": BANK,
            "report.json": "{}",
            "adapter__adapter_model.safetensors": weights,
        },
    )
    registry.register(store, artifact, constitution.reference)
    return next(e for e in registry.entries(store) if e.key == artifact.key)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def version(number: str, prose: str = "It keeps the talk going.") -> str:
    return SMALL.replace("version: 1.0.0", f"version: {number}").replace("It keeps the talk going.", prose)


def test_a_name_means_exactly_one_thing(store: Store) -> None:
    first, second = character(store), character(store, seed=1)
    newer = character(store, version("1.1.0"))
    assert registry.find(store, "pip@1.0.0").id == second.id, "the last build of a version"
    assert registry.find(store, "pip").id == newer.id
    assert registry.find(store, f"pip@1.0.0/{first.build[:6]}").id == first.id
    registry.tag(store, first, "best")
    assert registry.find(store, "pip:best").id == first.id
    registry.tag(store, newer, "best")
    assert registry.find(store, "pip:best").id == newer.id
    with pytest.raises(UserError, match=r"did you mean 'pip@1\.1\.0'"):
        registry.find(store, "pip@1.1.1")
    with pytest.raises(UserError, match="is no tag"):
        registry.tag(store, first, "not a tag")
    with pytest.raises(UserError, match="fits several builds"):
        registry.find(_alike(store), "pip@1.0.0/a")


def test_a_name_can_be_written_in_other_ways(store: Store) -> None:
    entry = character(store)
    assert registry.find(store, f"pip@1.0.0/{entry.key}") == entry
    with pytest.raises(UserError, match="did you mean 'pip'"):
        registry.find(store, "PIP")
    for name, slug in (("Žofie", "žofie"), ("9 Lives", "9-lives"), ("猫", "猫")):
        own = character(store, SMALL.replace("name: Pip", f"name: {name}").replace("**Pip:**", f"**{name}:**"))
        assert registry.tag(store, own, "best") == f"{slug}:best" and registry.find(store, f"{slug}:best") == own


def test_a_tag_of_what_is_gone_says_so(store: Store) -> None:
    gone, entry = character(store), character(store, seed=1)
    registry.tag(store, gone, "best")
    shutil.rmtree(gone.folder)
    (store.root / "characters" / "pip@1.0.0" / gone.build).unlink()
    with pytest.raises(UserError, match=rf"is a tag of {gone.id}, which is not in"):
        registry.find(store, "pip:best")
    registry.untag(store, "pip:best")
    (store.root / "characters" / "tags.json").write_text('{"pip:best": 5}', encoding="utf-8")
    with pytest.raises(UserError, match="the tags can not be read"):
        registry.find(store, entry.id)


def test_no_tag_is_lost_among_many_writers(store: Store) -> None:
    entry = character(store)
    labels = [f"t{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda label: registry.tag(store, entry, label), labels))
    assert set(registry.tags(store)) == {f"pip:{label}" for label in labels}


def test_a_version_is_the_build_that_was_made_last(store: Store) -> None:
    """Whatever is registered again, or comes from elsewhere, after it."""
    old, new = character(store), character(store, seed=1)
    _made(old, "2026-01-01T00:00:00Z")
    _made(new, "2026-01-02T00:00:00Z")
    registry.register(store, store.artifact("character", old.key), "pip@1.0.0")
    assert registry.find(store, "pip@1.0.0").id == registry.find(store, "pip").id == new.id
    registry.remove(store, new)
    assert registry.find(store, "pip@1.0.0").id == registry.find(store, "pip").id == old.id


def _made(entry: registry.Entry, when: str) -> None:
    path = entry.folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["about"]["finished"] = when
    path.write_text(json.dumps(data), encoding="utf-8")


def _alike(store: Store) -> Store:
    """Two builds whose keys begin alike."""
    folder = store.root / "characters" / "pip@1.0.0"
    links = [p for p in folder.iterdir() if p.is_symlink() and p.name != "latest"]
    for number, link in enumerate(links):
        link.rename(folder / f"a{number}{link.name[2:]}")
    return store


def test_lineage_is_a_tree(store: Store) -> None:
    a, b, c = character(store), character(store, version("1.1.0")), character(store, version("1.2.0"))
    assert [(depth, e.id) for depth, e in registry.lineage(registry.entries(store), "pip")] == [
        (0, a.id),
        (1, b.id),
        (2, c.id),
    ]
    # Registering again changes nothing: a parent is what was there before.
    artifact = store.artifact("character", a.key)
    registry.register(store, artifact, "pip@1.0.0")
    assert registry.find(store, "pip@1.0.0").parent is None
    registry.remove(store, b)
    kept = registry.lineage(registry.entries(store), "pip")
    assert [(depth, e.id) for depth, e in kept] == [(0, a.id), (0, c.id)]
    assert kept[1][1].parent == b.id, "what it came from is not rewritten"


def test_every_version_is_in_the_log(store: Store) -> None:
    def entry(number: int, parent: int | None) -> registry.Entry:
        build = f"{number:012d}"
        return registry.Entry("pip@1.0.0", build, Path(), None if parent is None else f"pip@1.0.0/{parent:012d}")

    long = [entry(number, number - 1 if number else None) for number in range(3000)]
    assert registry.lineage(long, "pip") == list(enumerate(long))
    circle = [entry(0, None), entry(1, 2), entry(2, 1), entry(3, 3)]
    found = registry.lineage(circle, "pip")
    assert sorted(e.build for _, e in found) == [e.build for e in circle] and len(found) == 4
    # Fifty in a line stay in their column: only a fork is set in.
    for seed in range(3):
        _made(character(store, seed=seed), f"2026-01-0{seed + 1}T00:00:00Z")
    one, two, last = registry.entries(store)
    record = store.root / "characters" / "pip@1.0.0" / f"{last.build}.json"
    shown = run_cli("log", "pip", "--store", "store", cwd=store.root.parent).stdout.splitlines()
    assert [line[:2] for line in shown] == ["pi", "│ ", "│ "]
    record.write_text(json.dumps({"parent": one.id}), encoding="utf-8")
    shown = run_cli("log", "pip", "--store", "store", cwd=store.root.parent).stdout.splitlines()
    assert [line[:2] for line in shown] == ["pi", "├ ", "├ "] and two.id in shown[1]


def test_other_runs_differ_in_their_seed_alone(store: Store) -> None:
    first = character(store, seed=0)
    again, last = character(store, seed=1), character(store, seed=2)
    character(store, version("1.1.0", "Otherwise."), seed=3)
    character(store, seed=4, engine="scripted")
    assert {e.id for e in registry.other_runs(store, first)} == {last.id, again.id}


def test_nothing_that_another_needs_is_removed_silently(store: Store) -> None:
    a, b = character(store), character(store, version("1.1.0"))
    other = character(store, version("1.2.0"), seed=3)
    said = [made(store, "replies-x", {"x": e.key}, {"trained": store.artifact("character", e.key)}) for e in (a, other)]
    made(store, "compared", {"x": 1}, {"replies:a": said[0], "run:b": said[1]})
    registry.tag(store, a, "best")
    cwd = store.root.parent
    refused = run_cli("rm", a.id, "--store", "store", cwd=cwd)
    assert refused.returncode == 2 and "it is tagged pip:best" in refused.stderr and b.id in refused.stderr
    assert f"it was measured beside {other.id}" in refused.stderr
    assert (a.folder / "manifest.json").is_file()
    done = run_cli("rm", a.id, "--store", "store", "--force", cwd=cwd)
    assert done.returncode == 0 and not a.folder.exists() and registry.tags(store) == {}
    assert registry.find(store, "pip@1.1.0").id == b.id
    assert run_cli("rm", a.id, "--store", "store", cwd=cwd).returncode == 2


def _manifest(entry: registry.Entry) -> Path:
    return entry.folder / "manifest.json"


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: _manifest(entry).write_bytes(_manifest(entry).read_bytes()[:-40]),
        lambda entry: _manifest(entry).write_text("[]", encoding="utf-8"),
        lambda entry: _manifest(entry).write_text('{"key": "a", "stage": "b"}', encoding="utf-8"),
        lambda entry: _manifest(entry).unlink(),
        lambda entry: shutil.rmtree(entry.folder),
    ],
)
def test_a_damaged_character_stops_no_other(store: Store, damage: Callable[[registry.Entry], Any]) -> None:
    a, b = character(store), character(store, version("1.1.0", "So."))
    damage(b)
    assert registry.registered(store) == ([a], [b]) and registry.find(store, "pip@1.0.0") == a
    for text in (b.id, "pip@1.1.0"):
        with pytest.raises(UserError, match="can not be read") as error:
            registry.find(store, text)
        assert f"charforge rm {b.id}" in str(error.value)
    # What it was made from would pass for unneeded: nothing is removed before that is settled.
    with pytest.raises(UserError, match="can not be read"):
        registry.garbage(store)
    registry.remove(store, registry.find(store, b.id, damaged=True))
    assert registry.registered(store) == ([a], []) and not b.folder.exists()
    assert {item.path.parent.name for item in registry.garbage(store)} == {"scenarios", "preferences", "dpo", "judge"}


def test_the_commands_name_a_damaged_character(store: Store) -> None:
    a, b = character(store), character(store, version("1.1.0", "So."))
    _manifest(b).write_text("{", encoding="utf-8")
    cwd = store.root.parent
    done = run_cli("list", "--store", "store", cwd=cwd)
    assert done.returncode == 0 and a.build in done.stdout and b.id in done.stderr
    assert run_cli("gc", "--yes", "--store", "store", cwd=cwd).returncode == 2
    assert run_cli("rm", b.id, "--store", "store", cwd=cwd).returncode == 0
    assert registry.entries(store) == [a]


def test_only_an_artifact_is_removed(store: Store, tmp_path: Path) -> None:
    """A link of the registry can lead anywhere."""
    character(store)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text.md").write_text("mine", encoding="utf-8")
    (store.root / "characters" / "pip@1.0.0" / "abc").symlink_to(tmp_path / "mine")
    registry.remove(store, registry.find(store, "pip@1.0.0/abc", damaged=True))
    assert (tmp_path / "mine" / "text.md").is_file() and registry.registered(store)[1] == []


class Killed(BaseException):
    """What kill -9 does: nothing that changes a file happens after it."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> bool:
    """Whether the work was stopped before its change of a file with this number, counted from 0."""
    count = 0

    def stopped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if count >= number:
                raise Killed
            count += 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, names in ((Path, ("unlink", "replace", "symlink_to", "rmdir")), (shutil, ("rmtree", "copyfile"))):
            for name in names:
                patch.setattr(owner, name, stopped(getattr(owner, name)))
        try:
            work()
        except Killed:
            return True
    return False


def test_a_killed_rm_is_finished_by_the_same_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = character(store, seed=1)
    for number in range(30):
        entry = character(store)
        registry.tag(store, entry, "best")
        stopped = killed_at(number, monkeypatch, partial(registry.remove, store, entry))
        whole, damaged = registry.registered(store)
        assert kept in whole and len(damaged) <= 1
        if entry in [*whole, *damaged]:
            registry.remove(store, registry.find(store, entry.id, damaged=True))
        assert registry.registered(store) == ([kept], []) and registry.tags(store) == {}
        assert not entry.folder.exists() and registry.find(store, "pip@1.0.0") == kept
        if not stopped:
            break
    assert 5 < number < 29


def test_a_killed_tag_is_the_old_or_the_new(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = character(store), character(store, seed=1)
    for number in range(9):
        registry.tag(store, first, "best")
        stopped = killed_at(number, monkeypatch, lambda: registry.tag(store, second, "best"))
        assert registry.find(store, "pip:best") in (first, second)
        if not stopped:
            break
    assert number and registry.find(store, "pip:best") == second


def test_garbage_is_what_no_character_needs(store: Store) -> None:
    a, b = character(store), character(store, version("1.1.0", "So."), seed=3)
    asked = made(store, "robustness-trained", {"x": 1}, {"trained": store.artifact("character", a.key)})
    base = made(store, "robustness-untrained", {"x": 2}, {})
    measure = made(store, "measure-robustness", {"x": 3}, {"said:trained": asked, "said:untrained": base})
    orphan = made(store, "scenarios", {"x": 4}, {}, **{"rows.jsonl": "abc"})
    broken = store.root / "artifacts" / "sft" / "123"
    (broken / "logs").mkdir(parents=True)
    assert [e["suite"] for e in registry.evaluations(store, a)] == ["robustness"]
    found = {item.path: item for item in registry.garbage(store)}
    assert set(found) == {orphan.directory, broken}
    assert found[orphan.directory].bytes > 3 and found[broken].what.startswith("unfinished")
    cwd = store.root.parent
    preview = run_cli("gc", "--store", "store", cwd=cwd)
    assert "nothing was removed" in preview.stdout and orphan.directory.is_dir()
    registry.remove(store, a)
    gone = {item.path for item in registry.garbage(store)}
    assert {asked.directory, base.directory, measure.directory} <= gone
    assert run_cli("gc", "--yes", "--store", "store", cwd=cwd).returncode == 0
    assert not orphan.directory.exists() and not measure.directory.exists()
    assert characters.verify(store, b) == [] and registry.garbage(store) == []


def test_a_comparison_by_a_characters_constitution_is_kept(store: Store) -> None:
    """Of a bare model with a prompt, say: no character is among its inputs."""
    entry = character(store)
    said = made(store, "replies-a", {"x": 1}, {})
    by = ["pip@1.0.0", entry.manifest["identity"]["constitution"]]
    made(store, "compared", {"measured_by": by}, {"replies:model:a": said})
    assert registry.garbage(store) == []
    other = made(store, "compared", {"measured_by": ["x@1.0.0", "0"]}, {})
    assert [item.path for item in registry.garbage(store)] == [other.directory]


def test_nothing_is_garbage_while_a_link_of_the_chain_is_missing(store: Store) -> None:
    entry = character(store)
    pairs = store.artifact("preferences", entry.manifest["inputs"]["preferences"]).directory
    manifest = (pairs / "manifest.json").read_text(encoding="utf-8")
    for text in (None, "{", '{"key": 5}'):
        (pairs / "manifest.json").unlink()
        if text is not None:
            (pairs / "manifest.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="nothing can be called unneeded") as error:
            registry.garbage(store)
        assert str(pairs) in str(error.value)
        (pairs / "manifest.json").write_text(manifest, encoding="utf-8")
    assert registry.garbage(store) == []


def test_scratch_of_the_dead_is_garbage(store: Store) -> None:
    character(store)
    mine, gone = os.getpid(), 2**22 + 1
    for pid in (mine, gone):
        (store.root / f".pull-{pid}-ab_c" / "character").mkdir(parents=True)
        (store.root / f".push-{pid}-x" / "pip").mkdir(parents=True)
        (store.root / "weights" / f".abc.{pid}.tmp").mkdir(parents=True)
    found = {item.path.name for item in registry.garbage(store)}
    assert found == {f".pull-{gone}-ab_c", f".push-{gone}-x", f".abc.{gone}.tmp"}


def test_what_gc_says_is_what_it_removes(store: Store, tmp_path: Path) -> None:
    entry = character(store)
    character(store, version("1.1.0"), seed=4)
    registry.remove(store, entry)
    (store.root / "weights" / "abc").mkdir(parents=True)
    before = set(store.root.rglob("*"))
    cwd = store.root.parent
    preview = json.loads(run_cli("gc", "--json", "--store", "store", cwd=cwd).stdout)
    assert set(store.root.rglob("*")) - before <= {store.root / "lock"} and preview["items"]
    done = json.loads(run_cli("gc", "--json", "--yes", "--store", "store", cwd=cwd).stdout)
    assert done == {**preview, "removed": True}
    gone = before - set(store.root.rglob("*"))
    said = [cwd / item["path"] for item in done["items"]]
    assert gone and all(path in said or set(path.parents) & set(said) for path in gone)
    # Where there is no store, none is made; what can not be removed is not said to be gone.
    (tmp_path / "bare").mkdir()
    assert "nothing to remove" in run_cli("gc", cwd=tmp_path / "bare").stdout
    assert run_cli("rm", "pip", cwd=tmp_path / "bare").returncode == 2 and not list((tmp_path / "bare").iterdir())
    (tmp_path / "elsewhere").mkdir()
    (store.root / "artifacts" / "sft").mkdir(exist_ok=True)
    (store.root / "artifacts" / "sft" / "link").symlink_to(tmp_path / "elsewhere")
    done = run_cli("gc", "--yes", "--store", "store", cwd=cwd)
    assert done.returncode == 2 and "could not be removed" in done.stderr


def test_verify_goes_all_the_way_back(store: Store) -> None:
    entry = character(store)
    asked = made(store, "robustness-trained", {"x": 1}, {"trained": store.artifact("character", entry.key)}, r="said")
    made(store, "measure-robustness", {"x": 3}, {"said:trained": asked}, **{"rows.jsonl": "1"})
    record = store.root / "characters" / "pip@1.0.0" / f"{entry.build}.json"
    files = [path for path in (store.root / "artifacts").rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert {"scenarios", "preferences", "measure-robustness", "robustness-trained"} <= {
        f.parent.parent.name for f in files
    }
    for path in (*files, record):
        before = path.read_bytes()
        path.write_bytes(bytes([(before or b" ")[0] ^ 1]) + before[1:])
        assert characters.verify(store, entry), path
        path.write_bytes(before)
    assert characters.verify(store, entry) == []
    # So are the keys, and that each was made from what is there now.
    for path in (store.root / "artifacts").rglob("manifest.json"):
        before = path.read_bytes()
        for name in ("identity", "files"):
            data = json.loads(before)
            data[name] |= {"forged": {"sha256": "", "bytes": 0}}
            path.write_text(json.dumps(data), encoding="utf-8")
            assert characters.verify(store, registry.find(store, entry.id)), (path, name)
        path.write_bytes(before)
    link = record.with_suffix("")
    other = link.rename(link.with_name("0" * 12))
    assert any("its name is not that" in text for text in characters.verify(store, registry.find(store, "pip@1.0.0/0")))
    other.rename(link)
    (entry.folder / "recipe.json").write_text(
        (entry.folder / "recipe.json").read_text().replace('"seed": 0', '"seed": 1')
    )
    assert any("not the recipe" in text for text in characters.verify(store, entry))


def test_verify_finds_what_was_changed(store: Store) -> None:
    entry = character(store)
    assert characters.verify(store, entry) == []
    (entry.folder / "constitution.md").write_text(version("1.0.0", "Changed."), encoding="utf-8")
    wrong = characters.verify(store, entry)
    assert any("changed after it was made" in text for text in wrong) and any("constitution" in text for text in wrong)
    done = run_cli("verify", "pip", "--store", "store", cwd=store.root.parent)
    assert done.returncode == 1 and "changed after it was made" in done.stdout


def test_a_forged_key_is_found(store: Store) -> None:
    entry = character(store)
    path = entry.folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["identity"]["recipe"]["seed"] = 99
    path.write_text(json.dumps(data), encoding="utf-8")
    again = registry.find(store, "pip")
    assert any("the key is not that of" in text for text in characters.verify(store, again))


def test_why_goes_down_to_the_trait(store: Store) -> None:
    a, b = character(store), character(store, version("1.1.0", "It opens doors."), seed=7, weights="other")
    found = characters.differences(a, b)
    assert any(text.startswith("asks-back: ") for text in found["constitution"])
    assert not any(text.startswith("forges-nothing") for text in found["constitution"])
    assert found["recipe"] == {"seed": [0, 7]} and found["weights"] == "they differ"
    same = characters.differences(a, a)
    assert not any(same.values())
    done = run_cli("why", "pip@1.0.0", "pip@1.1.0", "--store", "store", cwd=store.root.parent)
    assert done.returncode == 0 and "recipe: seed: 0 → 7" in done.stdout and "asks-back" in done.stdout
    many = SMALL.replace("- What is a hedge?\n", "- What is a fence?\n- What is a gate?\n")
    probes = characters.differences(a, character(store, many, seed=8))["constitution"]
    assert probes == ["asks-back: probe (3)"], "one line for what is alike"


def test_a_character_keeps_its_recipe_and_bank(store: Store) -> None:
    entry = character(store, seed=5)
    (store.root / "pip.md").unlink()
    found = characters.recall(entry)
    assert found.recipe.seed == 5 and found.constitution.reference == "pip@1.0.0"
    assert Path(found.recipe.scenarios.bank).read_text(encoding="utf-8") == BANK


def test_a_strangers_words_do_nothing_to_the_terminal(store: Store) -> None:
    character(store, model="me/\x1b[31mred\u202e[bold]x")
    path = registry.find(store, "pip").folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["about"]["environment"] = {"packages": {"torch": "\x1b]0;title\x07"}}
    path.write_text(json.dumps(data), encoding="utf-8")
    record = store.root / "characters" / "pip@1.0.0" / f"{registry.find(store, 'pip').build}.json"
    record.write_text(json.dumps({"parent": "\x1b[2J"}), encoding="utf-8")
    other = character(store, seed=1)
    for words in (
        ["list"],
        ["show", record.stem and f"pip@1.0.0/{record.stem}"],
        ["log", "pip"],
        ["why", other.id, "pip"],
    ):
        done = run_cli(*words, "--store", "store", cwd=store.root.parent)
        assert done.returncode == 0, done.stderr
        assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout), words
    shown = run_cli("list", "--store", "store", cwd=store.root.parent).stdout
    assert "⟦U+001B⟧[31mred⟦U+202E⟧[bold]x" in shown


def test_fifty_versions_are_listed_at_once(store: Store) -> None:
    for number in range(50):
        character(store, version(f"1.{number}.0"), seed=number)
    cwd = store.root.parent
    start = time.monotonic()
    done = run_cli("list", "--store", "store", "--json", cwd=cwd)
    took = time.monotonic() - start
    data = json.loads(done.stdout)
    assert len(data["characters"]) == 50 and {"weights", "parent", "model", "made"} <= set(data["characters"][0])
    assert took < 1.0 or took < 4 * _start_up(cwd), took
    shown = run_cli("list", "--store", "store", cwd=cwd)
    assert "pip@1.49.0" in shown.stdout
    assert "pip@1.7.0" in run_cli("show", "pip@1.7.0", "--store", "store", cwd=cwd).stdout


def _start_up(cwd: Path) -> float:
    """How long the command takes to do nothing: a busy machine is not the registry's fault."""
    start = time.monotonic()
    run_cli("--version", cwd=cwd)
    return time.monotonic() - start
