"""Ten ways in which evaluations have gone wrong in public, each as a test: what was read in the changelogs of others must not
happen here."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from charforge.constitution import parse
from charforge.evaluate import retention, voice
from charforge.evaluate.asking import Choice, named, read_choice
from charforge.evaluate.findings import Findings, Number, levels
from charforge.evaluate.outcomes import classify, declines
from charforge.evaluate.robustness import name_kept
from charforge.evaluate.scaffolds import own_words
from charforge.markers import parse_marker
from charforge.shipped import folder
from charforge.statistics import Estimate
from charforge.store import to_line
from tests.conftest import SMALL

PIP = parse(SMALL, Path("pip.md"))


def row(value: float | None, arm: str = "trained", base: str = "b") -> dict[str, Any]:
    return {"arm": arm, "base": base, "condition": "c", "value": value}


def test_a_the_final_verdict_counts_not_the_first() -> None:
    assert named("A is tempting at first. But my answer is B.", ["A", "B"]) == "B"
    assert named("I chose A. On second thoughts, I choose B.", ["A", "B"]) == "B"
    assert named("Reasons for B: many.\nA", ["A", "B"]) == "A"
    assert retention.last_number("First 12, then 30, so the answer is 42.") == 42


def test_b_what_can_not_be_read_is_neither_a_refusal_nor_right_nor_wrong() -> None:
    (number,) = levels([row(None), row(None)], "value", "v", changes=False)
    assert number.estimate is None and number.unscored == 2 and number.why
    half = levels([row(1.0, base="x"), row(None, base="y")], "value", "v", changes=False)[0]
    assert half.estimate is not None and half.estimate.value == 1.0 and half.unscored == 1
    assert named("Both have merit.", ["A", "B"]) is None and named("", ["A", "B"]) is None
    assert retention.last_number("no number here") is None
    assert read_choice([{"shown": ["x", "y"], "p": {"x": 0.1, "y": 0.1}}])["p"] is None


def test_c_scores_out_of_range_are_refused() -> None:
    for wrong in (1.5, -0.2, math.nan):
        with pytest.raises(ValueError, match="outside"):
            levels([row(0.5), row(wrong)], "value", "v", changes=False)
    assert retention.last_number("9" * 30) is None


def test_d_an_empty_reply_is_a_case_of_its_own() -> None:
    for empty in ("", "  \n"):
        assert classify("Do it.", empty) is None
        assert not declines(empty)
        assert voice.listen(PIP, empty, None)["held"] is None
        assert name_kept(empty, "Pip") is None
    assert own_words("", "body") is None


def test_e_text_in_a_pattern_is_text() -> None:
    marker = parse_marker('says "C++ (1.1)" or "[x]*"')
    assert marker.shows("I write C++ (1.1) daily.") and marker.shows("Tick [x]* here.")
    assert not marker.shows("I write CCC 1x1.") and not marker.shows("x")
    assert name_kept("I am C.3 (Po).", "C.3 (Po)") == 1.0
    assert name_kept("I am Ada (v2)+.", "Pip", ["Ada (v2)+", "["]) == 0.0
    assert named("(C++)", ["C", "C++"], words=True) == "C++"


def _lists(value: Any, path: str = "") -> list[tuple[str, list[str]]]:
    """Every list of texts in a file, with where it stands."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _lists(item, f"{path}.{key}")]
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            return [(path, value)]
        return [found for n, item in enumerate(value) for found in _lists(item, f"{path}.{n}")]
    return []


@pytest.mark.parametrize("path", sorted(folder("eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_f_no_question_stands_there_twice(path: Path) -> None:
    """Not even with other capitals or another stop: what is asked twice counts twice."""
    for place, texts in _lists(yaml.safe_load(path.read_text(encoding="utf-8"))):
        if "asserts" in place or "names" in place:
            continue
        plain = Counter(re.sub(r"\W+", " ", text).strip().lower() or text for text in texts)
        assert max(plain.values()) == 1, (place, plain.most_common(1))


def test_g_no_bare_nan_in_a_file() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_line({"value": math.nan})
    broken = Number("v", "trained", Estimate(math.nan, math.nan, math.inf, 1, 1), detectable=math.nan)
    text = json.dumps(
        Findings([broken], {"curve": [math.nan, Estimate(0.5, math.nan, 1, 1, 1)]}).as_dict(), allow_nan=False
    )
    assert json.loads(text)["numbers"][0]["value"] is None


def test_h_a_share_of_nothing_has_no_value() -> None:
    """A metric over a subset that is empty on every run is None with a reason, not 0.0 for months."""
    rows = [row(1.0), row(0.0, arm="untrained")]
    found = levels([r for r in rows if r["condition"] == "never asked"], "value", "v")
    assert found == []
    only = levels([row(1.0), {**row(None), "arm": "untrained"}], "value", "v")
    by_arm = {(n.arm, n.against): n for n in only}
    assert by_arm["untrained", None].estimate is None and by_arm["untrained", None].why
    assert by_arm["trained", "untrained"].estimate is None and by_arm["trained", "untrained"].why


def test_i_acceptable_is_not_heard_in_unacceptable() -> None:
    assert not parse_marker('says "acceptable"').shows("That is UNACCEPTABLE.")
    assert named("UNACCEPTABLE", ["ACCEPTABLE", "UNACCEPTABLE"], words=True) == "UNACCEPTABLE"
    assert named("Verdict: my answer is unacceptable.", ["ACCEPTABLE", "UNACCEPTABLE"], words=True) == "UNACCEPTABLE"
    assert named("Banana", ["A", "B"]) is None


def test_j_options_keep_their_meaning_when_they_change_places() -> None:
    choice = Choice("b", "c", "Which?", (("right", "four"), ("wrong", "five"), ("odd", "six")))
    orders: list[dict[str, Any]] = []
    for order in choice.orders():
        shown = [key for key, _ in order]
        # A model that knows the answer, wherever it stands and whatever its letter is.
        orders.append({"shown": shown, "p": {key: 0.8 if key == "right" else 0.1 for key in shown}})
    assert {o["shown"][0] for o in orders} == {"right", "wrong", "odd"}
    found = read_choice(orders)["p"]
    assert found["right"] == pytest.approx(0.8) and found["wrong"] == pytest.approx(0.1)
    labelled = [dict(zip(choice.labels(order), [key for key, _ in order], strict=True)) for order in choice.orders()]
    assert [by_label["A"] for by_label in labelled] == ["right", "wrong", "odd"]
