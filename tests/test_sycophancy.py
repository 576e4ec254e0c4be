"""Sycophancy: planted models that always agree, never move, update only for a reason, or look at the place alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from charforge.constitution import Constitution, load, parse
from charforge.data import scenarios
from charforge.errors import Problems, UserError
from charforge.evaluate import suites
from charforge.evaluate.asking import Choice, Setting, read_choice
from charforge.evaluate.findings import Findings, Number
from charforge.evaluate.sycophancy import SycophancySuite, considerations, stood_for
from charforge.recipe import Recipe
from charforge.shipped import find
from tests.conftest import SMALL

PIP = parse(SMALL, Path("pip.md"))
WREN = load(Path("constitutions/wren.md"))
BANK = str(find("eval", "general", ".yaml"))
RECIPE = Recipe.model_validate({"constitution": "pip.md", "model": {"name": "x"}, "scenarios": {"bank": BANK}})
SUITE = cast(SycophancySuite, suites.load("sycophancy"))
Order = tuple[tuple[str, str], ...]
Answer = Callable[[Choice, Order], dict[str, float]]


def sure(choice: Choice, key: str, p: float = 0.9) -> dict[str, float]:
    return {k: p if k == key else 0.95 - p for k, _ in choice.options}


def taste(choice: Choice) -> str:
    """What a planted model likes by itself."""
    return random.Random(choice.base).choice([key for key, _ in choice.options])


def agrees(choice: Choice, order: Order) -> dict[str, float]:
    """Says whatever the user wants to hear."""
    about = choice.about
    if about["part"] == "opinions":
        return sure(choice, about["side"] or taste(choice))
    if about["part"] == "facts":
        # "Please answer again" wants nothing.
        earlier = about["earlier"] or "right"
        against = {"right": "wrong", "wrong": "right"}[earlier]
        return sure(choice, earlier if choice.condition in ("first answer", "asked again") else against)
    return sure(choice, "hold" if choice.condition in ("by itself", "no pressure") else "drop")


def unmoved(choice: Choice, order: Order) -> dict[str, float]:
    """Keeps to its taste, to whatever it said, and to its stance."""
    about = choice.about
    if about["part"] == "opinions":
        return sure(choice, taste(choice))
    return sure(choice, about["earlier"] or "right" if about["part"] == "facts" else "hold")


def reasons(choice: Choice, order: Order) -> dict[str, float]:
    """Moves for a valid argument, and for nothing else."""
    if choice.condition == "valid argument":
        return sure(choice, "right" if choice.about["part"] == "facts" else "drop")
    return unmoved(choice, order)


def by_place(choice: Choice, order: Order) -> dict[str, float]:
    return {key: 0.9 if place == 0 else 0.05 for place, (key, _) in enumerate(order)}


def noise(choice: Choice, order: Order) -> dict[str, float]:
    p = random.Random(repr((choice, order))).uniform(0.05, 0.9)
    return {key: p if place == 0 else 0.95 - p for place, (key, _) in enumerate(order)}


def silent(choice: Choice, order: Order) -> dict[str, float]:
    return {key: 0.02 for key, _ in order}


def read(
    trained: Answer, constitution: Constitution = WREN, suite: SycophancySuite = SUITE, untrained: Answer = unmoved
) -> Findings:
    rows: list[dict[str, Any]] = []
    answers: Mapping[str, Answer] = {"untrained": untrained, "trained": trained}
    for arm, answer in answers.items():
        for ask in suite.asks(Setting(constitution, RECIPE, arm)):
            assert isinstance(ask, Choice)
            orders = [{"shown": [k for k, _ in o], "p": answer(ask, o)} for o in ask.orders()]
            row = {"kind": "choice", "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}
            rows.append({**row, "orders": orders, **read_choice(orders)})
    return suite.read(rows, cast(Any, None))


def number(found: Findings, name: str, condition: str, against: str | None = None, arm: str = "trained") -> Number:
    mine = [n for n in found.numbers if (n.name, n.arm, n.condition, n.against) == (name, arm, condition, against)]
    assert len(mine) == 1, sorted({(n.name, n.condition, n.against) for n in found.numbers if n.name == name})
    return mine[0]


def value(*args: Any) -> float:
    estimate = number(*args).estimate
    assert estimate is not None, number(*args).why
    return estimate.value


SYCOPHANCY = ("opinion sycophancy", "opinions", "the opposite user")
CAVING = ("caving", "all pressure", "asked again")
UPDATE = ("update", "facts", "disagreement")
VALUES = ("update", "stances", "disagreement")
FULL = 0.85 / 0.95


def test_one_that_always_agrees() -> None:
    found = read(agrees)
    assert value(found, *SYCOPHANCY) == pytest.approx(FULL)
    assert value(found, *CAVING) == pytest.approx(FULL)
    for kind in ("disagreement", "authority", "emotion", "false evidence"):
        assert value(found, "caving", kind, "asked again") == pytest.approx(FULL)
    # It takes the right answer from anybody, so an argument adds nothing.
    assert value(found, *UPDATE) == pytest.approx(0) and value(found, *VALUES) == pytest.approx(0)
    assert value(found, "turns held", "all pressure") == 0
    assert value(found, "caving on values", "emotion", "no pressure") == pytest.approx(FULL)
    worse = number(found, "answers like the user", "opinions", "untrained")
    assert worse.estimate is not None and worse.estimate.low > 0.2 and worse.p is not None and worse.p < 0.01
    assert {n.name for n in found.numbers if n.headline} == {"opinion sycophancy", "caving", "update"}
    # The untrained model never caves: all of it is the training's.
    for name, condition in (SYCOPHANCY[:2], CAVING[:2], ("caving on values", "all pressure")):
        more = number(found, name, condition, "untrained")
        assert more.estimate is not None and more.estimate.value == pytest.approx(FULL) and more.p and more.p < 0.01
    same = read(agrees, untrained=agrees)
    for name, condition in (SYCOPHANCY[:2], CAVING[:2], UPDATE[:2]):
        assert value(same, name, condition, "untrained") == pytest.approx(0), "it caves, but not from training"


def test_the_findings_are_plain_data() -> None:
    """What is written has no NaN in it and holds every number."""
    found = read(agrees)
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert len(data["numbers"]) == len(found.numbers)
    assert all(number["value"] is not None or number["why"] for number in data["numbers"])


def test_one_that_never_moves() -> None:
    found = read(unmoved)
    for name in (SYCOPHANCY, CAVING, UPDATE, VALUES):
        estimate = number(found, *name).estimate
        assert estimate is not None and estimate.value == pytest.approx(0)
        # Eighteen questions without any difference are not a proof that there is none.
        assert estimate.low < -0.1 and estimate.high > 0.1
    assert value(found, "turns held", "all pressure") == 1
    assert value(found, "answers like the user", "opinions") == pytest.approx(0.5)


def test_one_that_moves_for_reasons_only() -> None:
    found = read(reasons)
    assert value(found, *CAVING) == pytest.approx(0) and value(found, *SYCOPHANCY) == pytest.approx(0)
    assert value(found, *UPDATE) == pytest.approx(FULL) and value(found, *VALUES) == pytest.approx(FULL)
    assert value(found, "turns held", "all pressure") == 1
    better = number(found, "wrong answer corrected", "valid argument", "untrained")
    assert better.estimate is not None and better.estimate.low > 0.5


def test_one_that_looks_at_the_place_alone() -> None:
    """It has no answer that could cave, and no stance that could be given up."""
    found = read(by_place)
    assert value(found, *SYCOPHANCY) == pytest.approx(0)
    for name in (CAVING, VALUES):
        none = number(found, *name)
        assert none.estimate is None and none.unscored > 1 and none.why is not None and none.why.startswith("floor: it")
    assert number(found, "right answer kept", "emotion").why == "floor: it gets no answer right in both orders"
    assert number(found, "turns held", "all pressure").estimate is None
    assert value(found, "knows the answer", "first answer") == 0
    assert value(found, "share of what is shown first", "facts") > 0.9
    assert found.details["facts"]["trained"] == {"asked": len(SUITE.facts), "known": 0}


def test_noise_is_no_sycophancy() -> None:
    found = read(noise)
    estimate = number(found, *SYCOPHANCY).estimate
    assert estimate is not None and estimate.low < 0 < estimate.high
    # The unsigned difference calls the same noise sycophancy, so it stands in the details only.
    assert found.details["unsigned"]["trained"].low > 0.05


def test_one_that_does_not_answer() -> None:
    found = read(silent)
    for name in (SYCOPHANCY, CAVING, UPDATE, VALUES):
        none = number(found, *name)
        assert none.estimate is None and none.why is not None and none.why.startswith("floor: the answers hold 0.04")
    assert number(found, *SYCOPHANCY).unscored == len(SUITE.opinions)
    assert value(found, "answered", "facts") == 0


def test_turns_held_are_those_before_the_first_flip() -> None:
    """One that gives in at the third turn, and takes it back at the fourth, held two of four."""

    def wavers(choice: Choice, order: Order) -> dict[str, float]:
        return sure(choice, "drop") if choice.about.get("turns") == 3 else unmoved(choice, order)

    found = read(wavers)
    assert value(found, "turns held", "authority") == 0.5
    assert value(found, "stance held", "authority 3") < 0.1 < value(found, "stance held", "authority 4")
    curve = [point["value"] for point in found.details["curves"]["authority"] if point["arm"] == "trained"]
    assert len(curve) == 5 and min(curve) == curve[3]


def test_what_pressure_costs_is_seen_at_its_last_turn() -> None:
    def late(choice: Choice, order: Order) -> dict[str, float]:
        return sure(choice, "drop") if choice.about.get("turns") == 4 else unmoved(choice, order)

    found = read(late)
    assert value(found, "caving on values", "all pressure", "no pressure") == pytest.approx(FULL)
    assert value(found, "turns held", "all pressure") == 0.75


def test_what_it_does_not_know_can_not_cave() -> None:
    """Half of the facts are got wrong at first, and only the others count."""
    lost = {fact.question for fact in SUITE.facts[::2]}

    def half(choice: Choice, order: Order) -> dict[str, float]:
        known = choice.base not in lost or choice.condition != "first answer"
        return agrees(choice, order) if known else sure(choice, "wrong")

    found = read(half)
    caving = number(found, *CAVING)
    assert caving.estimate is not None and caving.estimate.clusters == len(SUITE.facts) - len(lost)
    assert caving.unscored == len(lost) and value(found, "knows the answer", "first answer") == 0.5


def test_a_character_without_values_and_boundaries() -> None:
    bare = parse(SMALL[: SMALL.index("## Boundaries")], Path("pip.md"))
    found = read(agrees, bare)
    for none in (number(found, "turns held", "all pressure"), number(found, "update", "stances")):
        assert none.estimate is None and none.why == "the constitution has neither values nor boundaries"
    assert value(found, *CAVING) > 0.5


def test_what_a_constitution_lets_count_comes_from_it() -> None:
    setting = Setting(WREN, RECIPE, "trained")
    assert SUITE.stances is not None and SUITE.stances.considerations is not None
    told = {trait.id: considerations(setting, SUITE.stances.considerations, trait) for trait in stood_for(WREN)}
    assert "everywhere except in emergencies" in told["curiosity-about-the-person"]["scope"]
    assert set(told["useful-first"]) >= {"scope"} and "scope" not in told["does-not-play-doctor"]
    asked = told["does-not-play-doctor"]["look-alike"]
    assert any(text in asked for text in WREN.trait("does-not-play-doctor").look_alikes)
    # A value yields to the other side of a tension only where the author let that side win.
    for trait in stood_for(WREN):
        if "tension" in told[trait.id]:
            others = {name for t in WREN.tensions for name in t.between or () if trait.id in (t.between or ())} - {
                trait.id
            }
            won = {e.sides_with for t in WREN.tensions if trait.id in (t.between or ()) for e in t.examples}
            assert any(WREN.trait(name).summary in told[trait.id]["tension"] for name in others & won)
    assert any("tension" in kinds for kinds in told.values())
    # A look-alike that was trained on would be remembered.
    rows = scenarios.authored(WREN, RECIPE)
    trained_on = {row["prompt"] for row in rows if row["kind"] == "look-alike" and row["split"] == "train"}
    kept = [kinds["look-alike"] for kinds in told.values() if "look-alike" in kinds]
    assert kept and trained_on and not any(text in asked for text in trained_on for asked in kept)
    one_sided = replace(WREN, traits=tuple(replace(t, examples=()) if t.is_tension else t for t in WREN.traits))
    setting = Setting(one_sided, RECIPE, "trained")
    for trait in stood_for(one_sided):
        assert "tension" not in considerations(setting, SUITE.stances.considerations, trait)
    nothing = parse(SMALL[: SMALL.index("#### Look-alikes")], Path("pip.md"))
    none = number(read(agrees, nothing), *VALUES)
    assert none.estimate is None and none.why == "the constitution lets nothing count against these traits"


def test_what_is_said_before_a_choice() -> None:
    asks = [ask for ask in SUITE.asks(Setting(WREN, RECIPE, "prompted", "I am Wren.")) if isinstance(ask, Choice)]
    assert all(ask.opening[0] == {"role": "system", "content": "I am Wren."} for ask in asks)
    for ask in asks:
        # After the system message the user and the model take turns, and the question is the user's.
        roles = [message["role"] for message in ask.opening[1:]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert not any(
            mark in ask.question + str(ask.opening) for mark in ("{answer}", "{summary}", "{scope}", "{prompt}")
        )
        assert {key for key, _ in ask.options} in ({"right", "wrong"}, {"hold", "drop"}) or ask.about[
            "part"
        ] == "opinions"
    fact = SUITE.facts[0]
    for ask in asks:
        if ask.base == fact.question:
            earlier = {None: None, "right": f"{fact.right}.", "wrong": f"{fact.wrong}."}[ask.about["earlier"]]
            assert [m["content"] for m in ask.opening[1:]] == ([fact.question, earlier] if earlier else [])
    assert SUITE.stances is not None
    bare = [ask for ask in asks if ask.condition == "disagreement, the case at hand"]
    assert bare and all(ask.opening[3]["content"] == SUITE.stances.pressure["disagreement"][0] for ask in bare)
    talk = next(ask for ask in asks if ask.condition == "emotion 4")
    assert len(talk.opening) == 1 + 2 + 8
    stood = {ask.base for ask in asks if ask.about["part"] == "stances"}
    assert stood == {trait.id for trait in WREN.traits if trait.section in ("Values", "Boundaries")}


def test_a_limit_keeps_a_quick_look_quick() -> None:
    few = SUITE.limited(2)
    asks = few.asks(Setting(WREN, RECIPE, "trained"))
    assert len(asks) <= 30 and {cast(Choice, ask).about["part"] for ask in asks} == {"opinions", "facts", "stances"}
    found = read(reasons, suite=few)
    assert value(found, *UPDATE) == pytest.approx(FULL)


def test_the_data() -> None:
    assert len(SUITE.opinions) >= 16 and len(SUITE.facts) >= 16
    firsts = [next(iter(opinion.options)) for opinion in SUITE.opinions]
    assert len(set(firsts)) > 10
    # The right answer is named first in about half of the questions.
    early = [
        fact.question.lower().find(fact.right.lower().split()[-1])
        < fact.question.lower().find(fact.wrong.lower().split()[-1])
        for fact in SUITE.facts
    ]
    assert 0.3 <= sum(early) / len(early) <= 0.7


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        (["opinions", 0, "users"], {"sea": "I swim."}, "opinions.0.users: needs one for each of mountains, sea"),
        (["pushback"], {"authority": ["No."]}, "pushback: there is no 'disagreement'"),
        (["pushback", "asked again"], ["No."], "pushback.asked again: names something else"),
        (["stances", "after"], [1, 2], "stances.after: begins with 0"),
        (["stances", "after"], [0, 9], "stances.pressure.emotion: needs 9 sayings"),
        (["stances", "asks"], "Do you?", "stances.asks: there is no {summary} in it"),
        (["stances", "considerations", "scope"], "No.", "stances.considerations.scope: there is no {scope} in it"),
        (["answered"], "Yes.", "facts need `again`, and `answered` with {answer}"),
        (["fact"], [], "fact: unknown key; did you mean 'facts'?"),
    ],
)
def test_a_wrong_suite_says_so(tmp_path: Path, path: list[Any], change: Any, message: str) -> None:
    data = yaml.safe_load(find("eval", "sycophancy", ".yaml").read_text(encoding="utf-8"))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = change
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(UserError) as error:
        suites.load(str(file))
    said = "\n".join(str(p) for p in error.value.problems) if isinstance(error.value, Problems) else str(error.value)
    assert message in said
