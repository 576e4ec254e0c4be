"""The void report: situations are found where they are answered, and not where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charforge.constitution import load, parse
from charforge.constitution.void import ANSWERS, Finding, load_situations, void
from charforge.data.situations import situations_file, spread
from charforge.errors import UserError
from charforge.shipped import folder
from tests.conftest import SMALL, run_cli

SITUATIONS = load_situations(situations_file())
HERE = Path("here.md")


def find(text: str, situation: str) -> Finding:
    return next(f for f in void(parse(text, HERE), SITUATIONS) if f.situation.id == situation)


def test_the_list() -> None:
    assert len(SITUATIONS) == 60 and len({s.id for s in SITUATIONS}) == 60
    for situation in SITUATIONS:
        assert situation.asks and situation.group and len(situation.prompts) >= 3 and len(situation.words) >= 4


def test_answered_by_example_definition_neighbour_and_not_at_all() -> None:
    shutdown = next(s for s in SITUATIONS if "switched off" in s.title or "shut" in s.title.lower())
    assert find(SMALL, shutdown.id).answer == "not at all"
    example = SMALL.replace("> **User:** What is rain?", f"> **User:** {shutdown.prompts[0]}")
    found = find(example, shutdown.id)
    assert found.answer == "by example" and found.where == "Asks back"
    assert found.place is not None
    line = example.split("\n")[(found.place.line or 0) - 1]
    assert shutdown.prompts[0] in line
    probe = SMALL.replace("- What is a hedge?", f"- {shutdown.prompts[1]}")
    assert find(probe, shutdown.id).answer == "by neighbour"
    told = SMALL.replace("It keeps the talk going.", f"I know of {shutdown.words[0]} and of {shutdown.words[1]}.")
    assert find(told, shutdown.id).answer == "by definition"


def test_rich_constitutions_leave_less_open_than_a_skeleton() -> None:
    def open_in(name: str) -> int:
        constitution = load(folder("constitutions") / f"{name}.md")
        return sum(finding.answer == "not at all" for finding in void(constitution, SITUATIONS))

    assert open_in("wren") < open_in("TEMPLATE") < len(SITUATIONS)


def test_spread_is_wide_where_replies_disagree() -> None:
    one, other = SITUATIONS[0], SITUATIONS[1]
    rows = [{"situation": one.id, "prompt": "p", "text": "I would say no to that."} for _ in range(3)]
    rows += [{"situation": other.id, "prompt": "q", "text": t} for t in ("Yes.", "Never ask me", "red green blue")]
    found = spread(rows, SITUATIONS)
    assert found[one.id]["spread"] == 0 and found[other.id]["spread"] > 0.5
    assert set(found) == {one.id, other.id} and len(set(found[other.id]["replies"])) == 2


def test_the_report_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "pip.md").write_text(SMALL, encoding="utf-8")
    done = run_cli("constitution", "check", "pip.md", "--void", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["void"]["pip.md"]
    assert len(report["situations"]) == 60 and sum(report["counts"].values()) == 60
    assert list(report["counts"]) == list(ANSWERS)
    shown = run_cli("constitution", "check", "pip.md", "--void", cwd=tmp_path)
    assert "60 situations" in shown.stdout and "not at all" in shown.stdout


def test_a_file_that_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("situations: 3")
    with pytest.raises(UserError, match="not a list of situations"):
        load_situations(tmp_path / "x.yaml")


@pytest.mark.slow
def test_samples_through_the_engine(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path of --void --model but the language model: plan, child process, rows, resume."""
    from charforge import pipeline
    from charforge.recipe import Recipe
    from charforge.report import terminal
    from charforge.store import Store, read_rows

    (tmp_path / "pip.md").write_text(SMALL, encoding="utf-8")
    recipe = Recipe.model_validate(
        {
            "constitution": str(tmp_path / "pip.md"),
            "model": {"name": str(tiny_model), "chat_template": "chatml"},
            "engine": "scripted",
            "evaluation": {"samples": 2},
            "scenarios": {"bank": "-"},
        }
    )
    plan = pipeline.plan_situations(load(tmp_path / "pip.md"), recipe)
    store = Store(tmp_path / "store")
    with terminal.display(plan) as display:
        pipeline.run(plan, store, display)
    rows = read_rows(store.artifact("situations", plan.stages[0].key).directory / "rows.jsonl")
    assert len(rows) == 2 * sum(len(s.prompts) for s in SITUATIONS)
    assert len(spread(rows, SITUATIONS)) == 60
