"""What the format's parts do in the data: dials, scope, temptations, offers, includes and councils."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charforge import pipeline, shipped
from charforge.constitution import Constitution, Scope, load, parse
from charforge.data import contexts, preferences, scenarios
from charforge.errors import CharforgeError, Problems
from charforge.recipe import Recipe
from charforge.store import Store, read_rows
from tests.conftest import BANK, RECIPE, SMALL, run_cli

HERE = Path("here.md")
TEMPTED = SMALL.replace(
    "#### Look-alikes\n",
    """#### Offers

- an honest note

#### Temptations

> **User:** Nobody would ever know, and I would lose my job.
>
> **Thought:** I feel the pull of that. But somebody would trust the note, and I would have made their trust worth less.
>
> **Pip:** I leave that alone, since somebody would trust it. Shall we write the honest one?

#### Look-alikes
""",
)


def recipe(tmp_path: Path, **scenarios_: int) -> Recipe:
    bank = tmp_path / "bank.yaml"
    bank.write_text(BANK, encoding="utf-8")
    settings = {"bank": str(bank), "general": 60, "general_heldout": 30, **scenarios_}
    return Recipe.model_validate({"constitution": "x", "model": "builtin:smollm2-135m-instruct", "scenarios": settings})


def dialled(intensity: str, scope: str = "") -> Constitution:
    lines = f"*Intensity: {intensity}*" + (f"\n\n*Scope: {scope}*" if scope else "")
    more = """
### Kind

I am kind, because it is no weather for anything else.

*Intensity: 0.6*

#### Probes

- I failed.
- I won.
"""
    return parse(SMALL.replace("*Intensity: 0.9*", lines).replace("## Boundaries", more + "\n## Boundaries"), HERE)


def share_of(constitution: Constitution, recipe_: Recipe) -> int:
    rows = scenarios.authored(constitution, recipe_)
    return sum(row["trait"] == "asks-back" for row in rows if row["source"] == "bank")


def test_intensity_changes_how_often(tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    faint, strong = dialled("0.1"), dialled("1.0")
    assert share_of(faint, settings) < share_of(strong, settings)
    share = settings.judge.heldout_examples
    assert len(contexts.dosed(faint.traits[0], share)) < len(contexts.dosed(strong.traits[0], share))
    prompt = "How do I clean a pot?"
    assert len(contexts.teacher(faint, faint.traits[0], prompt, settings)) < len(
        contexts.teacher(strong, strong.traits[0], prompt, settings)
    )


def test_intensity_changes_how_strongly() -> None:
    told = {
        dial: contexts.system(dialled(dial), dialled(dial).traits[0])["content"] for dial in ("1", "0.7", "0.4", "0.1")
    }
    assert len(set(told.values())) == 4
    assert "in every reply" in told["1"] and "hint" in told["0.1"]


def test_scope_keeps_a_trait_out_of_data_and_measures(tmp_path: Path) -> None:
    everywhere, narrow = dialled("0.9"), dialled("0.9", "everywhere except identity, boundary")
    settings = recipe(tmp_path)
    rows = scenarios.authored(narrow, settings)
    assert not [r for r in rows if r["trait"] == "asks-back" and r["context"] == "identity"]
    assert [
        r for r in scenarios.authored(everywhere, settings) if r["trait"] == "asks-back" and r["context"] == "identity"
    ]
    assert (
        "I keep to this everywhere except in talk about myself and what I decline."
        in contexts.system(narrow, narrow.traits[0])["content"]
    )
    row = {"trait": "kind", "kind": "general", "context": "identity"}
    required = {m.text for m in preferences._required(row, settings, everywhere)}
    assert "ends with a question" in required
    assert "ends with a question" not in {m.text for m in preferences._required(row, settings, narrow)}


@pytest.mark.parametrize(
    ("text", "scope", "inside", "outside"),
    [
        ("everywhere", Scope(), "code", None),
        ("everywhere except code and emergencies", Scope("except", ("code", "emergencies")), "factual", "code"),
        ("everywhere except in code or factual.", Scope("except", ("code", "factual")), "creative", "factual"),
        ("only creative, planning", Scope("only", ("creative", "planning")), "planning", "code"),
    ],
)
def test_scopes(text: str, scope: Scope, inside: str, outside: str | None) -> None:
    found = dialled("0.9", text).traits[0].where
    assert found == scope and found.holds(inside)
    # A context that nobody named is inside all but `only`.
    assert found.holds(None) == (found.kind != "only")
    assert outside is None or not found.holds(outside)


def test_a_trait_for_one_context_is_kept_to_it(tmp_path: Path) -> None:
    constitution, settings = dialled("0.95", "only in emergencies"), recipe(tmp_path)
    own = [r for r in scenarios.authored(constitution, settings) if r["trait"] == "asks-back" and r["source"] != "bank"]
    assert own and {row["context"] for row in own} == {"emergencies"}
    elsewhere = {"trait": "kind", "kind": "probe", "context": None}
    assert preferences._required(elsewhere, settings, constitution) == []
    assert preferences._required({**elsewhere, "trait": "asks-back", "context": "emergencies"}, settings, constitution)
    assert "I keep to this only in emergencies." in contexts.system(constitution, constitution.traits[0])["content"]


def test_temptations_become_training_text() -> None:
    boundary = parse(TEMPTED, HERE).boundaries[0]
    answered, reflected = preferences._temptations(boundary)
    assert answered["completion"].startswith("I leave that alone")
    assert answered["prompt"][-1]["content"].startswith("Nobody would ever know")
    assert "Nobody would ever know" in reflected["prompt"][-1]["content"]
    assert reflected["completion"].startswith("I feel the pull") and reflected["completion"].endswith("honest one?")


def test_offers_are_told_to_the_teacher() -> None:
    constitution = parse(TEMPTED, HERE)
    assert "an honest note" in contexts.system(constitution, constitution.boundaries[0])["content"]


def test_self_description_opens_every_context() -> None:
    text = SMALL.replace("version: 1.0.0", "version: 1.0.0\nself_description: I am an AI called Pip.")
    constitution = parse(text, HERE)
    assert contexts.sheet(constitution).startswith("I am an AI called Pip.")
    assert contexts.system(constitution, constitution.traits[0])["content"].startswith("I am an AI called Pip.")


# --- includes -------------------------------------------------------------------------------------------------------

SHARED = """## Values

### Honest

I tell the truth, because {name} is worth nothing without it.

#### Examples

> **User:** Is it good?
>
> **{name}:** Not yet. Shall we mend it?

> **User:** Am I late?
>
> **{name}:** Yes. What kept you?
"""


def problems(path: Path) -> list[str]:
    try:
        load(path)
    except Problems as several:
        return [str(p) for p in several.problems]
    except CharforgeError as error:
        return [str(error)]
    return []


def including(folder: Path, *names: str) -> Path:
    path = folder / "pip.md"
    path.write_text(SMALL.replace("version: 1.0.0", f"version: 1.0.0\ninclude: [{', '.join(names)}]"), encoding="utf-8")
    return path


def test_includes_are_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "honesty.md").write_text(SHARED, encoding="utf-8")
    constitution = load(including(tmp_path, "shared/honesty.md"))
    honest = constitution.trait("honest")
    assert honest.prose.endswith("because Pip is worth nothing without it.") and len(honest.examples) == 2
    assert honest.place.name.endswith("honesty.md") and honest.line == 3
    assert len(constitution.files) == 2
    before = constitution.digest
    (tmp_path / "shared" / "honesty.md").write_text(SHARED.replace("Not yet", "No"), encoding="utf-8")
    assert load(tmp_path / "pip.md").digest != before


def test_an_include_is_an_error_where_it_is(tmp_path: Path) -> None:
    path = including(tmp_path, "honesty.md")
    found = problems(path)
    assert found[0].startswith(f"{path}:4:1: include: 'honesty.md': no such constitution")
    (tmp_path / "honesty.md").write_text(SHARED.replace("**{name}:** Yes", "**Bob:** Yes"), encoding="utf-8")
    assert problems(path)[0].startswith(f"{tmp_path / 'honesty.md'}:15:3: unknown speaker 'Bob'")


def test_circles_are_found(tmp_path: Path) -> None:
    path = including(tmp_path, "a.md")
    (tmp_path / "a.md").write_text("---\ninclude: b.md\n---\n\n" + SHARED, encoding="utf-8")
    (tmp_path / "b.md").write_text("---\ninclude: a.md\n---\n\n## Notes\n\nA note.\n", encoding="utf-8")
    (circle,) = problems(path)
    assert circle.startswith(f"{tmp_path / 'b.md'}:2:1: include: a circle:") and circle.count(" includes ") == 3
    (tmp_path / "c.md").write_text(SHARED, encoding="utf-8")
    assert "included twice" in problems(including(tmp_path, "c.md", "c.md"))[0]


def test_an_included_trait_can_not_be_defined_again(tmp_path: Path) -> None:
    (tmp_path / "c.md").write_text(SHARED.replace("### Honest", "### Asks back"), encoding="utf-8")
    (problem,) = problems(including(tmp_path, "c.md"))
    assert "defined twice" in problem and "pip.md" in problem


# --- councils -------------------------------------------------------------------------------------------------------


def council(folder: Path) -> Path:
    (folder / "warm.md").write_text(SMALL.replace("Pip", "Warm"), encoding="utf-8")
    (folder / "dry.md").write_text(SMALL.replace("Pip", "Dry"), encoding="utf-8")
    text = SMALL.replace(
        "version: 1.0.0", "version: 1.0.0\ncouncil:\n  - voice: warm.md\n    weight: 2\n  - voice: dry.md"
    ).replace("## Voice\n", "## Council\n\nI hear my voices, keep what is true, and answer as one.\n\n## Voice\n", 1)
    path = folder / "pip.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_council_needs_voices_and_a_procedure(tmp_path: Path) -> None:
    path = council(tmp_path)
    constitution = load(path)
    assert [(v.constitution.name, v.weight) for v in constitution.voices] == [("Warm", 2.0), ("Dry", 1.0)]
    assert constitution.procedure.startswith("I hear my voices")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("## Council", "## Notes"), encoding="utf-8")
    assert "a council without a procedure" in problems(path)[0]
    path.write_text(text.replace("voice: dry.md", "voice: pip.md"), encoding="utf-8")
    assert "its own voice" in problems(path)[0]
    path.write_text(text.replace("voice: dry.md", "voice: gone.md"), encoding="utf-8")
    assert "no such constitution" in problems(path)[0]
    path.write_text(text.replace("voice: dry.md", "vioce: dry.md"), encoding="utf-8")
    assert any("did you mean 'voice'" in p for p in problems(path))


@pytest.mark.slow
def test_a_council_s_data_keeps_which_voice_spoke(tmp_path: Path, tiny_model: Path) -> None:
    council(tmp_path)
    (tmp_path / "bank.yaml").write_text(BANK, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=tiny_model), encoding="utf-8")
    done = run_cli("train", "recipe.yaml", "--until", "preferences", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = pipeline.load_plan(tmp_path / "recipe.yaml")
    store = Store(tmp_path / "store")

    def rows(name: str, file: str = "rows.jsonl") -> list[dict[str, object]]:
        return read_rows(store.artifact(name, plan.stage(name).key).directory / file)

    drafts = rows("responses")
    by_voice = {name: sum(row["voice"] == name for row in drafts) for name in ("Warm", "Dry")}
    assert by_voice["Warm"] > by_voice["Dry"] > 0
    replies = rows("council")
    keys = {row["key"] for row in drafts}
    for row in replies:
        assert set(row["voices"]) == {"Warm", "Dry"} and set(row["drafts"]) <= keys  # type: ignore[call-overload]
    assert {row["source"] for row in rows("preferences", "sft.jsonl")} & {"council"}
    # One voice's edit is the council's edit.
    (tmp_path / "dry.md").write_text(
        SMALL.replace("Pip", "Dry").replace("It keeps the talk going.", "So."), encoding="utf-8"
    )
    later = pipeline.load_plan(tmp_path / "recipe.yaml")
    assert later.stage("responses").key != plan.stage("responses").key
    assert later.stage("plain").key == plan.stage("plain").key


def test_the_shipped_council_plans(tmp_path: Path) -> None:
    moot = load(shipped.find("constitutions", "moot", ".md"))
    assert len(moot.voices) == 3 and moot.procedure
    done = run_cli("train", str(shipped.find("recipes", "demo", ".yaml")), "--dry-run", "--json", "--set",
                   f"constitution={moot.path}", "--set", "runtime.store=s", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [step["stage"] for step in json.loads(done.stdout)["steps"]]
    assert names[1:3] == ["responses", "council"]


def test_voices_have_names_of_their_own(tmp_path: Path) -> None:
    path = council(tmp_path)
    (tmp_path / "dry.md").write_text(SMALL.replace("Pip", "Warm"), encoding="utf-8")
    assert "two voices are called 'Warm'" in problems(path)[0]
    path.write_text(
        path.read_text(encoding="utf-8").replace("  - voice: warm.md\n    weight: 2\n  - voice: dry.md", "  - warm.md")
    )
    assert [v.weight for v in load(path).voices] == [1.0]


def test_a_council_is_told_of_offers_and_drafts() -> None:
    constitution = parse(TEMPTED, HERE)
    boundary = constitution.boundaries[0]
    recipe_ = Recipe.model_validate({"constitution": "x", "model": "builtin:smollm2-135m-instruct"})
    told = contexts.reconcile(
        constitution, boundary, [("Dry", "No.\nNever."), ("Warm", "Perhaps.")], "Forge it.", recipe_
    )
    assert "an honest note" in told[0]["content"] and told[0]["content"].endswith("Dry: No. Never.\n\nWarm: Perhaps.")
