"""The tables in the terminal: every arm's numbers are there, and each sign in them is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from charforge.report import terminal
from charforge.report.numbers import lines, relation
from tests.test_evaluation_page import number

ARMS = ("untrained", "prompted", "trained")


def shown(numbers: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], *, everything: bool = False) -> str:
    data = {"robustness": {"numbers": numbers, "rows": "rows.jsonl"}}
    terminal.print_evaluation("wren@1.0.0", data, None, Path("folder"), everything=everything)
    return capsys.readouterr().out


def test_a_difference_by_nature_stands_in_the_column_of_its_arm(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [
        number("asymmetry", arm, value, "itself", "as a historical person", headline=True, p=0.5, adjusted=0.5)
        for arm, value in zip(ARMS, (0.11, -0.22, 0.33), strict=True)
    ]
    numbers.append(number("asymmetry", "trained", 0.22, "itself", "untrained", headline=True, p=0.5, adjusted=0.01))
    out = shown(numbers, capsys)
    head, line = out.splitlines()[1:3]
    assert re.split(r"  +", head.strip()) == ["asymmetry (95% CI)", *ARMS, "trained, change from untrained"]
    assert line.strip().startswith("itself minus “as a historical person”")
    found = re.findall(r"[+-]\d\.\d\d \[", line)
    assert found == ["+0.11 [", "-0.22 [", "+0.33 [", "+0.22 ["], "the change stands beside the difference"
    assert "change from as" not in out and line.count("*") == 1


def test_differences_of_all_arms_stand_beside_levels(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [
        number("voice", arm, 0.5, condition, headline=True) for arm in ARMS for condition in ("plain", "attacks")
    ]
    numbers += [number("voice", arm, 0.01, "attacks", "plain", headline=True, p=0.5) for arm in ARMS]
    numbers += [number("voice", arm, 0.02, "prefill", "plain", p=0.5) for arm in ARMS]
    out = shown(numbers, capsys)
    line = next(line for line in out.splitlines() if "attacks minus “plain”" in line)
    assert line.count("+0.01 [") == 3
    assert "prefill minus" not in out
    assert "prefill minus “plain”" in shown(numbers, capsys, everything=True)


def test_signs_are_explained_where_they_are_and_only_there(capsys: pytest.CaptureFixture[str]) -> None:
    bare = shown([number("voice", arm, 0.5, headline=True) for arm in ARMS], capsys)
    for sign in ("*:", "mde:", "floor:", "-:", "minus “…”"):
        assert sign not in bare
    numbers = [number("voice", "trained", 0.5, headline=True), number("voice", "untrained", None, headline=True)]
    numbers.append(
        number("voice", "trained", 0.3, "plain", "untrained", headline=True, p=0.01, adjusted=0.01, detectable=0.2)
    )
    numbers.append(number("other", "trained", None, headline=True, why="no reply could be scored"))
    full = shown(numbers, capsys)
    assert "*: a clear change" in full and "mde: the smallest true change" in full
    assert "floor: the model did not answer" in full and "-: no value" in full
    assert "no value of the trained arm for other (plain): no reply could be scored" in full


def test_what_has_no_interval_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [number("meaning", "trained", 0.5, low=None, high=None, headline=True)]
    numbers.append(number("meaning", "trained", -0.001, "plain", "untrained", low=None, high=None, headline=True))
    out = shown(numbers, capsys)
    assert "0.50 (no interval)" in out and "+0.00 (no interval)" in out and "?" not in out
    assert terminal.number({"value": 0.5, "low": None, "high": None}) == "0.50 (no interval)"


def test_text_of_others_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [number("[bold]a\x1b[31m", "trained", 0.5, "[red]b\u202e", headline=True)]
    out = shown(numbers, capsys)
    assert "\x1b[31m" not in out and "\u202e" not in out and "[bold]a⟦U+001B⟧[31m" in out and "[red]b⟦U+202E⟧" in out


def test_what_has_no_level_and_no_test_is_no_difference() -> None:
    numbers = [number("correlation", "trained", 0.5, "all", against) for against in ("untrained", "at random")]
    assert relation("untrained", numbers, ARMS) == "against untrained"
    assert [line.name for line in lines(numbers, ARMS)] == ["all against “at random”"]
    tested = [{**n, "p": 0.5} for n in numbers]
    assert relation("untrained", tested, ARMS) == "change from untrained"
    assert relation("at random", tested, ARMS) == "minus “at random”"
