"""Judges are measured, and a judge that does not know the character stops the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charforge import judge
from charforge.errors import StageError
from charforge.judge import Case, Score, _combine, accuracy, difference
from charforge.recipe import Recipe
from charforge.store import write_atomic, write_rows
from tests.conftest import Cli

RECIPE = Recipe.model_validate({"constitution": "x", "model": "builtin:smollm2-135m-instruct"})
CASE = Case(({"role": "user", "content": "hi"},), "mine", "other")


def row(example: str, margin: float | None) -> dict[str, object]:
    return {"example": example, "against": "contrast", "margin": margin}


def test_a_position_biased_model_has_no_opinion() -> None:
    """A model that always says A is at one half in both orders together; one order alone would show 0.99."""
    always_a = {"p": [0.98, 0.01]}
    score = _combine(CASE, always_a, always_a)
    assert score.value == pytest.approx(0.0, abs=1e-9)


def test_below_the_mass_floor_there_is_no_verdict() -> None:
    score = _combine(CASE, {"p": [0.1, 0.2]}, {"p": [0.5, 0.4]})
    assert score.value is None and score.mass == pytest.approx(0.3)


def test_a_clear_verdict() -> None:
    score = _combine(CASE, {"p": [0.9, 0.1]}, {"p": [0.1, 0.9]})
    assert score.value == pytest.approx(0.4)
    assert difference(score, Score(0.0)) == pytest.approx(0.4)
    assert difference(score, Score(None)) is None


def test_accuracy_counts_no_verdict_as_wrong_and_examples_as_units() -> None:
    found = accuracy([row("a", 1.0), row("a", 0.5), row("b", None), row("b", -1.0)])
    assert found.value == 0.5 and found.n == 4 and found.clusters == 2
    assert found.low < 0.1 and found.high > 0.9


def calibration(folder: Path, value: float) -> Path:
    numbers = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20, "clusters": 10}
    write_atomic(folder / "calibration.json", json.dumps({"likelihood_ratio": numbers}))
    wrong = {"judge": "likelihood_ratio", "trait": "asks-back", "against": "plain", "prompt": "What is rain?"}
    write_rows(folder / "rows.jsonl", [{**wrong, "margin": -0.1}])
    return folder


def test_the_threshold(tmp_path: Path) -> None:
    judge.check(calibration(tmp_path, 0.8), RECIPE)
    with pytest.raises(StageError, match=r"right on 0\.60 .* asks for 0\.75") as error:
        judge.check(calibration(tmp_path, 0.6), RECIPE)
    assert "What is rain?" in str(error.value) and "nothing was trained" in str(error.value)
    assert list(judge.believed({"likelihood_ratio": {"value": 0.6}}, RECIPE)) == []


@pytest.mark.slow
def test_a_run_stops_at_a_judge_that_guesses(cli: Cli, workshop: Path) -> None:
    """A random tiny model can not tell the character; with the default threshold nothing is trained."""
    done = cli("train", "recipe.yaml", "--set", "judge.min_accuracy=1.0", "--set", "judge.second=pairwise")
    assert done.returncode == 1, done.stderr
    assert "judge.min_accuracy asks for 1.00" in done.stderr and "Traceback" not in done.stderr
    assert not list((workshop / "store/artifacts").glob("sft/*"))
    again = cli("train", "recipe.yaml", "--set", "judge.min_accuracy=1.0", "--set", "judge.second=pairwise")
    assert again.returncode == 1 and "reused" in again.stderr, "the measurement is kept, the verdict stands"
