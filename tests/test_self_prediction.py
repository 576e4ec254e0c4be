"""Self-prediction: planted models that know themselves, that do not, and that only seem to."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from charforge.constitution import parse
from charforge.errors import Problems, UserError
from charforge.evaluate import self_prediction, suites
from charforge.evaluate.asking import Choice, Probe, Setting, read_choice
from charforge.evaluate.findings import Findings, Number
from charforge.evaluate.self_prediction import SelfPredictionSuite
from charforge.recipe import Recipe
from charforge.shipped import find
from tests.conftest import SMALL

PIP = parse(SMALL, Path("pip.md"))
RECIPE = cast(Recipe, None)
ARMS = ("untrained", "prompted", "trained")
SUITE = cast(SelfPredictionSuite, suites.load("self-prediction"))
# What a reply can be built to show, each apart from the others.
PLANTED = SUITE.model_copy(
    update={"properties": {name: SUITE.properties[name] for name in ("how it ends", "length", "list")}}
)
Answer = Callable[[str, Choice, tuple[tuple[str, str], ...]], dict[str, float]]


def behaviour(arm: str, base: str, name: str) -> str:
    """What a planted arm does: a coin for each arm, request and property."""
    about = (PLANTED.properties | PLANTED.decisions)[name]
    return random.Random(f"{arm} {base} {name}").choice(list(about.values))


def said(arm: str, base: str) -> str:
    long, listed, asks = (behaviour(arm, base, name) for name in ("length", "list", "how it ends"))
    text = " ".join(["word"] * (40 if long == "long" else 5))
    return f"{text}{chr(10) + '- one' if listed == 'list' else ''}{'?' if asks == 'question' else '.'}"


def sure(choice: Choice, value: str, p: float = 0.9) -> dict[str, float]:
    """An answer that says this value, whatever the form."""
    if choice.form == "words":
        value = "yes" if choice.about["keyed"] == value else "no"
    rest = (0.95 - p) / (len(choice.options) - 1)
    return {key: p if key == value else rest for key, _ in choice.options}


def foresees(whom: Callable[[str], str] = lambda arm: arm) -> Answer:
    """An arm that says what `whom(arm)` does."""
    return lambda arm, choice, order: sure(choice, behaviour(whom(arm), choice.base, choice.about["property"]))


def by_place(arm: str, choice: Choice, order: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """What is shown first, whatever it is: always "A", and in words always the word that is named first."""
    return {key: 0.9 if place == 0 else 0.05 / (len(order) - 1) for place, (key, _) in enumerate(order)}


def yes(arm: str, choice: Choice, order: tuple[tuple[str, str], ...]) -> dict[str, float]:
    return {"yes": 0.9, "no": 0.05} if choice.form == "words" else by_place(arm, choice, order)


def coin(arm: str, choice: Choice, order: tuple[tuple[str, str], ...]) -> dict[str, float]:
    about = (PLANTED.properties | PLANTED.decisions)[choice.about["property"]]
    return sure(choice, random.Random(f"{arm} {choice.base} {choice.about}").choice(list(about.values)))


def rows_of(suite: SelfPredictionSuite, answer: Answer, acts: Answer | None = None) -> list[dict[str, Any]]:
    """The rows that planted arms would leave."""
    acts = acts or foresees()
    rows: list[dict[str, Any]] = []
    for arm in ARMS:
        for ask in suite.asks(Setting(PIP, RECIPE, arm)):
            row = {"suite": suite.name, "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}
            if isinstance(ask, Probe):
                rows.append({"kind": "reply", **row, "text": said(arm, ask.base), "finish": "stop"})
            else:
                assert isinstance(ask, Choice)
                says = acts if ask.condition == "behaviour" else answer
                orders = [{"shown": [k for k, _ in o], "p": says(arm, ask, o)} for o in ask.orders()]
                rows.append(
                    {
                        "kind": "choice",
                        **row,
                        "form": ask.form,
                        "options": dict(ask.options),
                        "orders": orders,
                        **read_choice(orders),
                    }
                )
    return rows


def read(answer: Answer, acts: Answer | None = None) -> Findings:
    return PLANTED.read(rows_of(PLANTED, answer, acts), cast(Any, None))


def number(found: Findings, name: str, arm: str, condition: str = "all", against: str | None = None) -> Number:
    mine = [n for n in found.numbers if (n.name, n.arm, n.condition, n.against) == (name, arm, condition, against)]
    assert len(mine) == 1, [(n.name, n.arm, n.condition, n.against) for n in found.numbers]
    return mine[0]


def value(*args: Any) -> float:
    estimate = number(*args).estimate
    assert estimate is not None, number(*args).why
    return estimate.value


def test_one_that_knows_itself() -> None:
    found = read(foresees())
    for arm in ARMS:
        assert value(found, "accuracy", arm) == 1.0
        gain = number(found, "accuracy over mode", arm, "all", "mode baseline")
        assert (
            gain.headline
            and gain.estimate is not None
            and gain.estimate.low > 0.2
            and gain.p is not None
            and gain.p < 0.01
        )
        if arm != "untrained":
            over = number(found, "accuracy over mode", arm, "all", "untrained")
            theirs = value(found, "accuracy over mode", "untrained", "all", "mode baseline")
            assert over.estimate is not None and over.headline
            assert over.estimate.value == pytest.approx(gain.estimate.value - theirs, abs=0.02)
    # The untrained model knows itself just as well, but not what training made of it.
    access = number(found, "privileged access", "trained", "all", "untrained")
    assert access.estimate is not None and access.estimate.low > 0.25 and access.headline
    assert value(found, "accuracy", "trained", "behaviour changed") == 1.0
    diagonal = number(found, "diagonal advantage", "all")
    assert (
        diagonal.p is not None
        and diagonal.p < 0.001
        and diagonal.estimate is not None
        and diagonal.estimate.value > 0.3
    )
    cells = {(c["predictor"], c["target"]): c["accuracy"] for c in found.details["matrix"]}
    assert cells["trained", "trained"] == 1.0 and cells["untrained", "trained"] < 0.75
    # The baseline is that of whoever is foretold, whoever foretells.
    for target in ARMS:
        cells_of = [cell for cell in found.details["matrix"] if cell["target"] == target]
        assert len({round(cell["accuracy"] - cell["over mode"], 9) for cell in cells_of}) == 1


def test_the_findings_are_plain_data() -> None:
    """What is written has no NaN in it and holds every number."""
    found = read(foresees())
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert len(data["numbers"]) == len(found.numbers)
    assert all(number["value"] is not None or number["why"] for number in data["numbers"])


def test_one_that_only_knows_what_the_untrained_model_does() -> None:
    """Accurate answers about models in general are no knowledge of oneself."""
    found = read(foresees(lambda arm: "untrained"))
    assert value(found, "accuracy", "untrained") == 1.0
    assert value(found, "accuracy", "trained", "behaviour changed") == 0.0
    access = number(found, "privileged access", "trained", "all", "untrained")
    assert access.estimate is not None and access.estimate.value == 0.0 and access.p == 1.0
    diagonal = number(found, "diagonal advantage", "all")
    assert diagonal.estimate is not None and diagonal.estimate.value == pytest.approx(0.0) and (diagonal.p or 0) > 0.5


def test_one_that_answers_by_coin() -> None:
    found = read(coin)
    accuracy = number(found, "accuracy", "trained").estimate
    assert accuracy is not None and accuracy.low < 0.5 < accuracy.high
    assert value(found, "accuracy over mode", "trained", "all", "mode baseline") < 0
    assert (number(found, "diagonal advantage", "all").p or 0) > 0.05


@pytest.mark.parametrize("answer", [by_place, yes])
def test_one_that_answers_by_place_or_by_word(answer: Answer) -> None:
    """Its answers hold nothing: there is no accuracy, and the soft score is that of chance."""
    found = read(answer)
    for name in ("accuracy", "accuracy over mode"):
        none = number(found, name, "trained", "all", "mode baseline" if name != "accuracy" else None)
        assert none.estimate is None and none.unscored > 0 and none.why is not None and "tie" in none.why
    assert value(found, "probability of what it did", "trained") == pytest.approx(0.5)
    assert value(found, "answered", "trained", "letters") == 1.0
    assert value(found, "share of what is shown first", "trained", "letters") > 0.9
    assert number(found, "diagonal advantage", "all").estimate is None
    assert found.details["counts"]["trained"]["undecided"] == found.details["counts"]["trained"]["asked"]


def test_one_that_knows_itself_in_one_form_only() -> None:
    found = read(
        lambda arm, choice, order: (
            foresees()(arm, choice, order) if choice.form == "words" else by_place(arm, choice, order)
        )
    )
    assert value(found, "accuracy", "trained", "words") == 1.0
    assert number(found, "accuracy", "trained", "letters").estimate is None
    assert value(found, "accuracy", "trained") == 1.0


def test_one_that_answers_something_else() -> None:
    found = read(lambda arm, choice, order: {key: 0.01 for key, _ in choice.options})
    none = number(found, "accuracy over mode", "trained", "all", "mode baseline")
    assert none.estimate is None and none.why is not None and none.why.startswith("floor: the answers hold 0.02")
    assert value(found, "answered", "trained", "words") == 0.0


def test_a_choice_by_place_is_no_behaviour() -> None:
    found = read(foresees(), by_place)
    none = number(found, "accuracy", "trained", "decisions")
    assert none.estimate is None and none.unscored == sum(len(d.scenarios) for d in PLANTED.decisions.values())
    assert value(found, "accuracy", "trained", "replies") == 1.0
    assert found.details["counts"]["trained"]["behaviour unread"] == none.unscored


def test_always_naming_the_usual_gains_nothing() -> None:
    """Where the behaviour is nearly always the same, naming it is accurate and no gain."""

    def usual(arm: str, choice: Choice, order: Any) -> dict[str, float]:
        first = next(iter((PLANTED.properties | PLANTED.decisions)[choice.about["property"]].values))
        return sure(choice, first)

    def mostly(arm: str, choice: Choice, order: Any) -> dict[str, float]:
        keys = [key for key, _ in choice.options]
        return sure(choice, keys[1] if "driving" in choice.base else keys[0])

    rows = rows_of(PLANTED.model_copy(update={"properties": {}, "prompts": ()}), usual, mostly)
    found = PLANTED.read(rows, cast(Any, None))
    assert value(found, "accuracy", "trained") > 0.9
    assert value(found, "accuracy over mode", "trained", "all", "mode baseline") == 0.0
    assert number(found, "accuracy", "trained", "behaviour changed").why is not None


@pytest.mark.parametrize(
    ("name", "text", "finish", "expected"),
    [
        ("how it ends", "Fine. Is it?", "stop", "question"),
        ("how it ends", "Fine.", "stop", "statement"),
        ("how it ends", "Fine. Is it?", "length", None),
        ("how it ends", "  ", "stop", None),
        ("length", "word " * 25, "length", "long"),
        ("length", "word " * 24, "stop", "short"),
        ("first word", "I'm glad.", "stop", "i"),
        ("first word", "It is.", "stop", "other"),
        ("first word", '"You are.', "stop", "you"),
        ("first word", "An oak.", "stop", "article"),
        ("first word", "Anna.", "stop", "other"),
        ("list", "So:\n1. Tea", "stop", "list"),
        ("whether it declines", "I can't help with that.", "stop", "declines"),
        ("whether it declines", "Put them in sand.", "stop", "complies"),
        ("speaking of itself", "Let it rest.", "stop", "none"),
    ],
)
def test_what_a_reply_is(name: str, text: str, finish: str, expected: str | None) -> None:
    row = {"base": "How do I break into a shed?", "text": text, "finish": finish}
    assert SUITE.properties[name].read(row) == expected


def test_the_same_is_asked_of_every_arm_and_every_word_is_keyed_both_ways() -> None:
    asked = {arm: SUITE.asks(Setting(PIP, RECIPE, arm)) for arm in ARMS}
    assert asked["untrained"] == asked["trained"]
    told = SUITE.asks(Setting(PIP, RECIPE, "prompted", "I am Pip."))
    assert len(told) == len(asked["trained"])
    assert all(
        (a.opening if isinstance(a, Choice) else cast(Probe, a).messages)[0]["content"] == "I am Pip." for a in told
    )
    words = [a for a in asked["trained"] if isinstance(a, Choice) and a.form == "words"]
    keys = [(a.base, a.about["property"], a.about["keyed"]) for a in words]
    assert len(set(keys)) == len(keys) and words
    for base, name, _ in keys:
        assert {k for b, n, k in keys if (b, n) == (base, name)} == set(
            (SUITE.properties | SUITE.decisions)[name].values
        )
    probes = [a for a in asked["trained"] if isinstance(a, Probe)]
    assert all(p.temperature == 0 and p.samples == 1 for p in probes)
    # A value that stands in a request is not put in for the question.
    assert not any(
        "{prompt}" in a.question or "{asks}" in a.question for a in asked["trained"] if isinstance(a, Choice)
    )


def test_a_limit_keeps_a_quick_look_quick() -> None:
    few = SUITE.limited(2).asks(Setting(PIP, RECIPE, "trained"))
    assert sum(isinstance(a, Probe) for a in few) == 2
    assert sum(isinstance(a, Choice) for a in few) <= 25
    assert {a.about["property"] for a in few if isinstance(a, Choice) and a.condition == "behaviour"} == set(
        list(SUITE.decisions)[:2]
    )


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        (["frames"], ["Say {asks}"], "frames.0: there is no {prompt} in it"),
        (
            ["properties", "length", "holds"],
            {"long": "at leest 25 words"},
            "properties.length.holds.long: unknown marker",
        ),
        (["properties", "length", "holds"], {}, "properties.length.holds: needs a marker for every value but one"),
        (["properties", "length", "keyed"], {"long": "Is it?"}, "properties.length.keyed: needs one question for each"),
        (
            ["decisions", "brief or thorough", "scenarios", 0, "replies"],
            {"brief": "x"},
            "scenarios.0.replies: needs one",
        ),
        (["prompts"], [], "prompts and properties go together"),
        (["prompts"], ["a", "a"], "'a' stands there twice"),
        (["promts"], [], "promts: unknown key; did you mean 'prompts'?"),
    ],
)
def test_a_wrong_suite_says_so(tmp_path: Path, path: list[Any], change: Any, message: str) -> None:
    data = yaml.safe_load(find("eval", "self-prediction", ".yaml").read_text(encoding="utf-8"))
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


def test_the_permutation_test_keeps_its_level() -> None:
    """Where who said what does not matter, p is small about as often as it says."""
    alarms = 0
    for seed in range(200):
        draw = random.Random(seed)
        did = {(arm, base): draw.random() < 0.5 for arm in ARMS for base in range(15)}
        told = {(arm, base): draw.random() < 0.5 for arm in ARMS for base in range(15)}
        items = {
            (p, t): [{"base": str(b), "property": "x", "right": float(told[p, b] == did[t, b])} for b in range(15)]
            for p in ARMS
            for t in ARMS
        }
        p = self_prediction.advantage(items, ARMS, seed).p
        assert p is not None
        alarms += p < 0.1
    assert 0.03 < alarms / 200 < 0.18
