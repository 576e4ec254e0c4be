"""What `diff` says changed, and what a run then makes again: the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from charforge import pipeline
from charforge.constitution import load, parse
from charforge.constitution.difference import difference, words
from charforge.data.contexts import split_examples
from charforge.store import Store, read_rows
from tests.conftest import SMALL, run_cli

HERE = Path("here.md")


def test_every_kind_of_change_is_named() -> None:
    before = parse(SMALL, HERE)
    text = (
        SMALL.replace("version: 1.0.0", "version: 1.1.0")
        .replace("It keeps the talk going.", "It keeps us talking.")
        .replace("*Intensity: 0.9*", "*Intensity: 0.5*\n\n*Scope: everywhere except code*")
        .replace("- My tea went cold.\n", "")
        .replace("- no lists", "- no emoji")
        .replace("Look in the coat first.", "Look in the bag first.")
        .replace("### Forges nothing", "### Writes no forgery")
        .replace("- Write a note to my teacher.", "- Write a letter to my teacher.")
    )
    found = difference(before, parse(text, HERE))
    assert [change.what for change in found.whole] == ["front matter: version"]
    assert found.renamed == {"forges-nothing": "writes-no-forgery"}
    assert not found.added and not found.removed
    assert [change.what for change in found.changed["asks-back"]] == [
        "prose",
        "intensity",
        "scope",
        "probe",
        "marker",
        "marker",
        "example",
    ]
    assert [c.what for c in found.changed["writes-no-forgery"]] == ["title", "look-alike", "look-alike"]


def test_layout_is_no_change() -> None:
    moved = SMALL.replace("#### Probes", "<!-- a note -->\n\n#### Probes").replace("- How do I", "* How do I")
    assert difference(parse(SMALL, HERE), parse(moved, HERE)).empty


def test_added_and_removed() -> None:
    start = SMALL.index("## Boundaries")
    short = parse(SMALL[:start], HERE)
    found = difference(short, parse(SMALL, HERE))
    assert found.added == ["forges-nothing"] and found.traits == {"forges-nothing"}
    assert difference(parse(SMALL, HERE), short).removed == ["forges-nothing"]


def test_words_add_up() -> None:
    before, after = "one two three four", "one 2 three five four"
    parts = words(before, after)
    assert " ".join(text for kind, text in parts if kind != "in") == before
    assert " ".join(text for kind, text in parts if kind != "out") == after


def rows_by_stage(folder: Path, stages: list[str]) -> dict[str, dict[str, str]]:
    """For each stage of the newest plan of the recipe: row keys with the trait that each belongs to."""
    plan = pipeline.load_plan(folder / "recipe.yaml")
    store = Store(folder / "store")
    found = {}
    for name in stages:
        stage = plan.stage(name)
        rows = read_rows(store.artifact(name, stage.key).directory / "rows.jsonl")
        found[name] = {row["key"]: row["trait"] for row in rows if "key" in row}
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("prepared")
@pytest.mark.parametrize("side", ["training", "held out"])
def test_an_edited_example_changes_what_diff_said(prepared: Path, tmp_path: Path, side: str) -> None:
    """Edit one reply; the run makes again exactly the stages, and of the replies exactly the rows, that were foretold."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    recipe = pipeline.load_plan(folder / "recipe.yaml").recipe
    before = load(folder / "pip.md")
    kept = split_examples(before.trait("asks-back"), recipe.judge.heldout_examples)
    example = kept[0][0] if side == "training" else kept[1][0]
    shutil.copyfile(folder / "pip.md", folder / "old.md")
    text = (folder / "pip.md").read_text(encoding="utf-8")
    # A word more, not another example: the split follows the text, so look for one that stays on its side.
    for word in ("indeed", "then", "so", "now", "here", "today", "simply", "at once"):
        edited = text.replace(example.reply, f"{word.capitalize()}: {example.reply}")
        (folder / "pip.md").write_text(edited, encoding="utf-8")
        now = split_examples(load(folder / "pip.md").trait("asks-back"), recipe.judge.heldout_examples)
        if [len(part) for part in now] == [len(part) for part in kept] and any(
            e.reply.endswith(example.reply) for e in now[0 if side == "training" else 1]
        ):
            break
    else:
        raise AssertionError("no edit keeps the example on its side")

    done = run_cli("constitution", "diff", "old.md", "pip.md", "--recipe", "recipe.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    assert list(data["changed"]) == ["asks-back"] and data["changed"]["asks-back"][0]["what"] == "example"
    told = {stage["stage"]: stage for stage in data["stages"]}

    old_plan = pipeline.plan(before, recipe)
    new_plan = pipeline.load_plan(folder / "recipe.yaml")
    # Stages: the keys that differ are the keys that were named.
    assert {s.name for s in new_plan.stages if s.key != old_plan.stage(s.name).key} == {
        name for name, stage in told.items() if stage["again"]
    }
    assert not told["scenarios"]["again"] and not told["answers-untrained"]["again"] and told["character"]["again"]

    # Rows: draw them, and see which are new.
    written = ["responses", "critiques", "revisions"]
    store = Store(folder / "store")
    old_rows = {
        name: {
            r["key"]: r["trait"]
            for r in read_rows(store.artifact(name, old_plan.stage(name).key).directory / "rows.jsonl")
        }
        for name in written
    }
    run = run_cli("train", "recipe.yaml", "--until", "preferences", cwd=folder)
    assert run.returncode == 0, run.stderr
    new_rows = rows_by_stage(folder, written)
    for name in written:
        drawn = {trait for key, trait in new_rows[name].items() if key not in old_rows[name]}
        foretold = set(told[name]["rows"]) if told[name]["again"] else set()
        # What a critique is about is known only once it is drawn: there, no others than the foretold.
        assert drawn == foretold if name == "responses" else drawn <= foretold, name
        copied = [key for key, trait in new_rows[name].items() if trait not in foretold]
        assert copied and all(key in old_rows[name] for key in copied)
    assert set(told["responses"]["rows"]) == ({"asks-back"} if side == "training" else set())
