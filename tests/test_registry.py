"""The characters of a store: names, lineage, tags, what may be removed, and what two differ in."""

from __future__ import annotations

import json
import time
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
    store: Store, text: str = SMALL, seed: int = 0, weights: str = "w", engine: str = "vllm"
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
                "model": "builtin:smollm2-135m-instruct",
                "seed": seed,
                "engine": engine,
                "scenarios": {"bank": "b"},
            }
        )
    )
    pairs = made(store, "preferences", {"seed": seed, "c": constitution.digest}, {}, **{"pairs.jsonl": text})
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


def test_other_runs_differ_in_their_seed_alone(store: Store) -> None:
    first = character(store, seed=0)
    again, last = character(store, seed=1), character(store, seed=2)
    character(store, version("1.1.0", "Otherwise."), seed=3)
    character(store, seed=4, engine="scripted")
    assert {e.id for e in registry.other_runs(store, first)} == {last.id, again.id}


def test_nothing_that_another_needs_is_removed_silently(store: Store) -> None:
    a, b = character(store), character(store, version("1.1.0"))
    registry.tag(store, a, "best")
    cwd = store.root.parent
    refused = run_cli("rm", a.id, "--store", "store", cwd=cwd)
    assert refused.returncode == 2 and "it is tagged pip:best" in refused.stderr and b.id in refused.stderr
    assert (a.folder / "manifest.json").is_file()
    done = run_cli("rm", a.id, "--store", "store", "--force", cwd=cwd)
    assert done.returncode == 0 and not a.folder.exists() and registry.tags(store) == {}
    assert registry.find(store, "pip").id == b.id
    assert run_cli("rm", a.id, "--store", "store", cwd=cwd).returncode == 2


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


def test_a_character_keeps_its_recipe_and_bank(store: Store) -> None:
    entry = character(store, seed=5)
    (store.root / "pip.md").unlink()
    found = characters.recall(entry)
    assert found.recipe.seed == 5 and found.constitution.reference == "pip@1.0.0"
    assert Path(found.recipe.scenarios.bank).read_text(encoding="utf-8") == BANK


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
