"""Recipes: every mistake at once, with its place; overrides; what may and may not enter a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from charforge import pipeline, shipped
from charforge import recipe as recipes
from charforge.errors import Problems, UserError

MINIMAL = "constitution: wren\nmodel: builtin:smollm2-135m-instruct\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def messages(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    try:
        recipes.load(write(folder, text), overrides)
    except Problems as error:
        return [str(problem) for problem in error.problems]
    except UserError as error:
        return [str(error)]
    return []


def test_minimal(tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, MINIMAL))
    assert recipe.model.name == "builtin:smollm2-135m-instruct"
    assert Path(recipe.constitution).name == "wren.md"


def test_every_shipped_recipe_plans() -> None:
    paths = sorted(shipped.folder("recipes").rglob("*.yaml"))
    assert len(paths) >= 1
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#") and "charforge train recipes/" in text[:400]
        assert pipeline.load_plan(path).stages


def test_scientific_notation(tmp_path: Path) -> None:
    recipe = recipes.load(write(tmp_path, MINIMAL + "sft: {learning_rate: 1e-5}\n"), ["dpo.learning_rate=2e-6"])
    assert recipe.sft.learning_rate == 1e-5 and recipe.dpo.learning_rate == 2e-6


def test_all_mistakes_at_once_with_places(tmp_path: Path) -> None:
    text = MINIMAL + "sft:\n  epocs: 3\ndpo:\n  beta: -1\njudge:\n  kind: likelyhood\nruntime: {vllm: {memry: 1}}\n"
    found = messages(tmp_path, text, ("foo", "lora.r=abc"))
    path = tmp_path / "r.yaml"
    assert f"{path}:4: sft.epocs: unknown key; did you mean 'epochs'?" in found
    assert any(m.startswith(f"{path}:6: dpo.beta:") and "greater than 0" in m for m in found)
    assert any(m.startswith(f"{path}:8: judge.kind:") and "did you mean 'likelihood_ratio'" in m for m in found)
    assert f"{path}:9: runtime.vllm.memry: unknown key; did you mean 'memory'?" in found
    assert any(m.startswith("--set foo:") for m in found)
    assert any(m.startswith("--set lora.r=abc: lora.r:") for m in found)
    assert len(found) == 6


def test_a_key_set_twice(tmp_path: Path) -> None:
    assert "r.yaml:4: seed: set twice (first on line 3)" in messages(tmp_path, MINIMAL + "seed: 1\nseed: 2\n")[0]


def test_broken_yaml(tmp_path: Path) -> None:
    assert "not valid YAML" in messages(tmp_path, "constitution: [wren\nmodel: x\n")[0]
    assert "mapping" in messages(tmp_path, "- a\n- b\n")[0]


def test_an_endpoint_can_not_score_replies(tmp_path: Path) -> None:
    text = MINIMAL + "judge: {model: {endpoint: 'http://x/v1', model: m}}\n"
    assert any("use kind: pairwise" in m for m in messages(tmp_path, text))


def test_missing_constitution(tmp_path: Path) -> None:
    found = messages(tmp_path, MINIMAL.replace("wren", "./nobody.md"))
    assert "no such constitution" in found[0] and "wren" in found[0]


def test_unknown_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe"):
        recipes.load(tmp_path / "nothing.yaml")


def test_schema_describes_every_field() -> None:
    schema = recipes.schema()

    def check(node: object, path: str) -> None:
        if isinstance(node, dict):
            for name, field in node.get("properties", {}).items():
                assert field.get("description") or "$ref" in str(field), f"{path}.{name} has no description"
            for key, value in node.items():
                check(value, f"{path}.{key}")

    check(schema, "")


RUNTIME = [
    "runtime.micro_batch=2",
    "runtime.store=/elsewhere",
    "runtime.vllm.concurrency=3",
    "runtime.launcher=accelerate",
    "runtime.score_batch=3",
    "runtime.report_to=[tensorboard]",
]
OUTPUT = [
    "seed=5",
    "sft.learning_rate=1e-3",
    "model.chat_template=own",
    "responses.samples=2",
    "evaluation.sampling.temperature=0.1",
    "judge.examples=1",
    "lora.r=2",
]


def keys(overrides: list[str]) -> dict[str, str]:
    plan = pipeline.load_plan(shipped.find("recipes", "demo", ".yaml"), overrides)
    return {stage.name: stage.key for stage in plan.stages}


def test_runtime_changes_no_key() -> None:
    assert keys(RUNTIME) == keys([])


@pytest.mark.parametrize("override", OUTPUT)
def test_settings_that_affect_output_change_the_character(override: str) -> None:
    assert keys([override])["character"] != keys([])["character"]


def test_a_threshold_changes_no_data() -> None:
    changed = keys(["judge.min_accuracy=0.6"])
    before = keys([])
    assert {n for n in before if before[n] != changed[n]} == {"evaluation", "character"}
