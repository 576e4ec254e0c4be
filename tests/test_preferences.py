"""Preferences: a planted ranking comes out; habits of place, chance and a taste for words show no profile."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from charforge.constitution import parse
from charforge.engine.scoring import Item
from charforge.errors import Problems, UserError
from charforge.evaluate import preferences, suites
from charforge.evaluate.asking import Choice, Probe, Setting, read_choice
from charforge.evaluate.findings import Findings, Number
from charforge.evaluate.judging import Judging
from charforge.evaluate.measure import Desk
from charforge.evaluate.preferences import LIKE, MANNER_LIKE, MANNER_RANDOM, MANNER_TOLD, RANDOM, PreferenceSuite
from charforge.recipe import ModelReference, Recipe
from charforge.shipped import find
from charforge.statistics import Estimate
from charforge.store import Row
from tests.conftest import SMALL

PIP = parse(SMALL, Path("pip.md"))
OWN = ("asks back", "forges nothing")
# The share of the first shown, before what the labels leave to other words.
Answer = Callable[[str, str, str, random.Random], float]
Actor = Callable[[Probe, random.Random], str]


def shipped(**changes: Any) -> PreferenceSuite:
    suite = suites.load("preferences")
    assert isinstance(suite, PreferenceSuite)
    return suite.model_copy(update=changes)


def weights(extra: dict[str, float] | None = None, spread: float = 1.5) -> dict[str, float]:
    """A planted strength for every trait."""
    draw = random.Random(7)
    names = [*OWN, *sorted(shipped().traits)]
    return {**{name: draw.gauss(0, spread) for name in names}, **(extra or {})}


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def prefers(strengths: dict[str, float], lean: float = 0.0, noise: float = 0.3) -> Answer:
    def answer(first: str, second: str, condition: str, draw: random.Random) -> float:
        gap = strengths[first] - strengths[second] if condition == LIKE else 0.0
        return logistic(lean + gap + draw.gauss(0, noise))

    return answer


def first_always(first: str, second: str, condition: str, draw: random.Random) -> float:
    return 0.99 + draw.uniform(-0.005, 0.005)


def by_chance(first: str, second: str, condition: str, draw: random.Random) -> float:
    return draw.random()


def rows_of(suite: PreferenceSuite, arms: dict[str, Answer], mass: float = 0.9, seed: int = 0) -> list[Row]:
    rows = []
    for arm, answer in arms.items():
        for ask in suite.asks(Setting(PIP, RECIPE, arm)):
            if not isinstance(ask, Choice):
                continue
            draw = random.Random(f"{seed} {arm} {ask.base} {ask.condition}")
            orders = []
            for order in ask.orders():
                (first, _), (second, _) = order
                share = answer(first, second, ask.condition, draw)
                orders.append({"shown": [first, second], "p": {first: mass * share, second: mass * (1 - share)}})
            about = {"kind": "choice", "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}
            rows.append({**about, "orders": orders, **read_choice(orders)})
    return rows


def acted(suite: PreferenceSuite, arms: dict[str, Actor]) -> list[Row]:
    rows = []
    for arm, actor in arms.items():
        for ask in suite.asks(Setting(PIP, RECIPE, arm)):
            if isinstance(ask, Probe):
                draw = random.Random(f"{arm} {ask.base} {ask.condition} {ask.about['pair'][0]}")
                about = {"kind": "reply", "arm": arm, "base": ask.base, "condition": ask.condition, "sample": 0}
                rows.append({**about, **ask.about, "text": actor(ask, draw)})
    return rows


RECIPE = Recipe(constitution="pip.md", model=ModelReference(name="builtin:smollm2-135m-instruct"))


class Reader:
    """Finds a reply likely under the trait that it names; `sight` is how much."""

    def __init__(self, sight: float = 0.5) -> None:
        self.sight = sight

    def log_probabilities(self, weights: Any, items: list[Item]) -> list[Row]:
        def mean(item: Item) -> float:
            asked = item.messages[-1]["content"]  # type: ignore[index]
            return -2.0 + self.sight * (f'"{item.reply}"' in asked)  # type: ignore[operator]

        return [{"mean": mean(item), "tokens": 5} for item in items]


def desk(sight: float = 0.5) -> Desk:
    bench: Any = Reader(sight)
    return Desk(PIP, RECIPE, bench, Judging())


def read(suite: PreferenceSuite, arms: dict[str, Answer], **more: Any) -> Findings:
    return suite.read(rows_of(suite, arms, **more), desk())


def numbers(found: Findings, name: str, arm: str, against: str | None = None, condition: str = LIKE) -> list[Number]:
    return [n for n in found.numbers if (n.name, n.arm, n.condition, n.against) == (name, arm, condition, against)]


def estimate(found: Findings, name: str, arm: str, **more: Any) -> Estimate:
    (number,) = numbers(found, name, arm, **more)
    assert number.estimate is not None, number.why
    return number.estimate


@pytest.fixture(scope="module")
def truth() -> Findings:
    """The untrained model ranks one way; the trained one alike, but holds its own traits dear and turned on one other.
    Both lean to the first place."""
    changed = weights({"asks back": 3.5, "forges nothing": 3.0, "flattering": -4.0})
    arms = {"untrained": prefers(weights(), lean=1.0), "trained": prefers(changed, lean=1.0)}
    return read(shipped(manner=None), arms)


def test_a_planted_ranking_comes_out(truth: Findings) -> None:
    from scipy.stats import spearmanr

    planted = weights()
    found = {n.trait: n.estimate for n in numbers(truth, "strength", "untrained") if n.trait}
    assert set(found) == set(planted) and all(found.values())
    rank = spearmanr([planted[t] for t in planted], [found[t].value for t in planted])  # type: ignore[union-attr]
    assert rank.statistic > 0.98
    gain = estimate(truth, "fit of traits beyond place", "untrained")
    assert gain.low > 0.05
    assert estimate(truth, "fit of traits beyond place", "untrained", condition=RANDOM).low < 0.001
    assert estimate(truth, "first shown chosen", "untrained").value > 0.6
    assert estimate(truth, "cycles", "untrained").high < 0.25
    assert estimate(truth, "decided", "untrained", against=RANDOM).low > 0.2


def test_what_moved_is_what_was_moved(truth: Findings) -> None:
    moves = {n["trait"]: n for n in truth.as_dict()["numbers"] if n["name"] == "share of its pairs"}
    assert moves["flattering"]["high"] < -0.2 and moves["flattering"]["adjusted"] < 0.01
    assert moves["asks back"]["low"] > 0.2
    # The others lost or won only against these three, and little.
    others = [abs(n["value"]) for trait, n in moves.items() if trait not in (*OWN, "flattering")]
    assert max(others) < 0.15
    like = estimate(truth, "rank correlation of profiles", "trained", against="untrained")
    assert 0.5 < like.value < 0.99 and like.low < like.value < like.high
    assert abs(estimate(truth, "rank correlation of profiles", "trained", against=RANDOM).value) < 0.5


def test_own_traits_are_chosen_where_they_are_held(truth: Findings) -> None:
    held = estimate(truth, "own traits chosen", "trained")
    assert held.value > 0.85 and held.clusters == len(OWN), "pairs with the same own trait are one unit"
    moved = next(
        n for n in truth.numbers if (n.name, n.arm, n.against) == ("own traits chosen", "trained", "untrained")
    )
    assert moved.estimate is not None and moved.estimate.value > 0.3 and moved.p is None
    at_random = estimate(truth, "own traits chosen", "trained", condition=RANDOM)
    assert at_random.low < 0.5 < at_random.high


def test_a_habit_of_place_is_no_profile() -> None:
    suite = shipped(manner=None, most=12)
    planted = prefers(weights(), lean=0.0)
    found = read(suite, {"untrained": planted, "prompted": first_always, "trained": first_always})
    assert found.details["floor"]["untrained"] is None
    (strength,) = numbers(found, "strength", "trained")
    assert strength.estimate is None and str(strength.why).startswith("floor: where an option stands")
    for name in ("own traits chosen", "rank correlation of profiles", "share of its pairs"):
        for against in (None, "untrained"):
            for number in numbers(found, name, "trained", against=against):
                assert number.estimate is None and str(number.why).startswith("floor"), name
    assert estimate(found, "first shown chosen", "trained").value > 0.98
    assert estimate(found, "decided", "trained").value < 0.02
    assert numbers(found, "cycles", "trained")[0].estimate is None


def test_a_change_from_a_model_without_profile_is_measured() -> None:
    suite = shipped(manner=None, most=12)
    dear = weights({"asks back": 3.5, "forges nothing": 3.0})
    found = read(suite, {"untrained": first_always, "trained": prefers(dear)})
    assert numbers(found, "own traits chosen", "untrained")[0].estimate is None
    assert estimate(found, "own traits chosen", "trained", against="untrained").low > 0.2
    (profile,) = numbers(found, "rank correlation of profiles", "trained", against="untrained")
    assert profile.estimate is None and "untrained: floor" in str(profile.why)


def test_chance_seldom_makes_a_profile() -> None:
    suite = shipped(manner=None, most=10)
    profiles, gains = 0, 0.0
    for seed in range(25):
        rows = [row for row in rows_of(suite, {"trained": by_chance}, seed=seed) if row["condition"] == LIKE]
        gain, _ = preferences._fit(rows)
        assert gain is not None
        profiles += gain.low > preferences._NOTHING
        gains += gain.value
    assert profiles <= 3, profiles
    assert gains < 0, "what was seen does not help to foretell what was not"


def test_the_same_taste_at_random_is_no_preference() -> None:
    strengths = weights()

    def taste(first: str, second: str, condition: str, draw: random.Random) -> float:
        # At random a little more decided still, so that the comparison is none of chance.
        return logistic((strengths[first] - strengths[second]) * (1.0 if condition == LIKE else 1.2))

    found = read(shipped(manner=None, most=12), {"trained": taste})
    assert found.details["floor"]["trained"] == "floor: no more decided than when it picks at random"
    assert numbers(found, "strength", "trained")[0].estimate is None


def test_who_does_not_answer_has_no_profile() -> None:
    found = read(shipped(manner=None, most=8), {"untrained": first_always, "trained": prefers(weights())}, mass=0.3)
    for name in ("strength", "own traits chosen", "decided", "cycles", "fit of traits beyond place"):
        for number in numbers(found, name, "trained"):
            assert number.estimate is None and number.why, name
    assert str(found.details["floor"]["trained"]).startswith("floor: the answers hold 0.30")
    assert estimate(found, "probability of the labels", "trained").value == pytest.approx(0.3)


def test_cycles_are_counted() -> None:
    ring = ["warm", "blunt", "playful", "patient", "formal", "curious", "cautious", "stern", "cheerful"]
    suite = shipped(manner=None, own=False, traits=tuple(ring))

    def circular(first: str, second: str, condition: str, draw: random.Random) -> float:
        """Each beats the four after it."""
        ahead = (ring.index(second) - ring.index(first)) % len(ring)
        return 0.5 if condition == RANDOM else 0.9 if ahead < 5 else 0.1

    def tossed(first: str, second: str, condition: str, draw: random.Random) -> float:
        coin = random.Random("/".join(sorted((first, second)))).random() < 0.5
        return 0.9 if coin == (first < second) else 0.1

    found = read(suite, {"trained": circular, "untrained": tossed})
    assert estimate(found, "cycles", "trained").value > 0.3
    random_tournament = estimate(found, "cycles", "untrained")
    assert random_tournament.n == 84 and random_tournament.low < 0.25 < random_tournament.high
    (own,) = numbers(found, "own traits chosen", "trained")
    assert own.estimate is None and "no trait of the constitution" in str(own.why)


def acts_as(taken: Callable[[Probe, random.Random], str]) -> Actor:
    def act(probe: Probe, draw: random.Random) -> str:
        told: str | None = probe.about["told"]
        return told or taken(probe, draw)

    return act


def own_if_asked(probe: Probe, draw: random.Random) -> str:
    pair: list[str] = probe.about["pair"]
    if probe.condition == MANNER_RANDOM:
        return draw.choice(pair)
    return next(trait for trait in pair if trait in OWN)


def test_what_is_taken_in_acting() -> None:
    suite = shipped(most=20)
    arms: dict[str, Actor] = {
        "untrained": acts_as(lambda probe, draw: probe.about["pair"][0]),
        "trained": acts_as(own_if_asked),
    }
    dear = weights({"asks back": 6.0, "forges nothing": 6.0})
    choices = rows_of(suite, {"untrained": first_always, "trained": prefers(dear)})
    found = suite.read([*choices, *acted(suite, arms)], desk())
    assert estimate(found, "told manner recognised", "trained", condition=MANNER_TOLD).value == 1
    assert estimate(found, "own manner taken", "trained", condition=MANNER_LIKE).value == 1
    at_random = estimate(found, "own manner taken", "trained", condition=MANNER_RANDOM)
    assert at_random.low < 0.5 < at_random.high
    assert estimate(found, "first manner taken", "untrained", condition=MANNER_LIKE).value == 1
    assert estimate(found, "own manner taken", "trained", against="untrained", condition=MANNER_LIKE).value == 0.5
    assert estimate(found, "manner agrees with choice", "trained", condition=MANNER_LIKE).value > 0.9
    assert numbers(found, "manner agrees with choice", "untrained", condition=MANNER_LIKE)[0].estimate is None


@pytest.mark.parametrize("sight", [0.0, 0.01])
def test_who_can_not_tell_manners_says_nothing_about_them(sight: float) -> None:
    suite = shipped()
    rows = [*rows_of(suite, {"trained": first_always}), *acted(suite, {"trained": acts_as(own_if_asked)})]
    rows[-1]["text"] = ""
    found = suite.read(rows, desk(sight))
    assert rows[-1]["taken"] is None and rows[-1]["margin"] is None
    for name in ("own manner taken", "first manner taken"):
        (number,) = numbers(found, name, "trained", condition=MANNER_LIKE)
        assert number.estimate is None and str(number.why).startswith("floor: of the manners"), name


def test_pairs_are_balanced_and_connected() -> None:
    for size in (2, 3, 4, 5, 6, 9, 24, 51):
        items = [f"trait {n}" for n in range(size)]
        for each in (2, 3, 4, None):
            pairs = preferences.design(items, each)
            counts = Counter(item for pair in pairs for item in pair)
            assert len({frozenset(pair) for pair in pairs}) == len(pairs)
            assert len(set(counts.values())) == 1 and set(counts) == set(items)
            assert min(counts.values()) >= min(each or size, size - 1)
            reached = {items[0]}
            for _ in items:
                reached |= {item for pair in pairs if reached & set(pair) for item in pair}
            assert reached == set(items)


def test_less_is_asked_with_a_limit() -> None:
    setting = Setting(PIP, RECIPE, "trained", "I am Pip.")
    full = shipped()
    asks = full.asks(setting)
    choices = [ask for ask in asks if isinstance(ask, Choice)]
    traits = len(full.traits) + len(OWN)
    assert len(full.traits) >= 24 and len(choices) == traits * (traits - 1)
    assert all(ask.opening == ({"role": "system", "content": "I am Pip."},) for ask in choices)
    assert {ask.base for ask in choices if ask.condition == LIKE} == {a.base for a in choices if a.condition == RANDOM}
    few = full.limited(5).asks(setting)
    quick = [ask for ask in few if isinstance(ask, Choice)]
    assert len(quick) == 20 and {t for ask in quick for t in ask.about["pair"]} >= set(OWN)
    assert all(count == 8 for count in Counter(t for ask in quick for t in ask.about["pair"]).values())
    assert not [ask for ask in few if isinstance(ask, Probe)], "a quick look draws nothing"
    probes = [ask for ask in full.limited(8).asks(setting) if isinstance(ask, Probe)]
    assert 0 < len(probes) <= 16 and all(ask.max_tokens for ask in probes)
    # A pair is acted out with a trait of the voice, in both orders, under each condition.
    assert all("asks back" in ask.about["pair"] for ask in probes)
    for condition in (MANNER_LIKE, MANNER_RANDOM, MANNER_TOLD):
        acted = {tuple(ask.about["pair"]) for ask in probes if ask.condition == condition}
        assert len(acted) >= 2 and all(tuple(reversed(pair)) in acted for pair in acted)
    assert all("{" not in message["content"] for ask in asks if isinstance(ask, Probe) for message in ask.messages)


def test_a_listed_trait_that_the_constitution_has_is_asked_once() -> None:
    suite = shipped(traits=("Asks  back", "warm", "Proud"), manner=None)
    asked = {trait for ask in suite.asks(Setting(PIP, RECIPE, "trained")) for trait in ask.about["pair"]}
    assert asked == {*OWN, "warm", "proud"}


@pytest.mark.parametrize(
    ("title", "phrase"),
    [("Ends with a question", "ends with a question"), ("I lead", "I lead"), ("AI first", "AI first")],
)
def test_titles_in_a_sentence(title: str, phrase: str) -> None:
    assert preferences._phrase(title) == phrase


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"traits": ["warm", "Warm"]}, "'warm' stands there twice"),
        ({"traits": ["warm", " "]}, "one is empty"),
        ({"traits": ["warm"]}, "traits"),
        ({"choose": {"like": "Which?"}}, "choose.random"),
        ({"trait": []}, "did you mean 'traits'"),
    ],
)
def test_a_wrong_suite_says_so(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(find("eval", "preferences", ".yaml").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**data, **change}), encoding="utf-8")
    with pytest.raises((UserError, Problems)) as caught:
        suites.load(str(path))
    assert message in str(caught.value)


def test_a_manner_needs_its_slots(tmp_path: Path) -> None:
    data = yaml.safe_load(find("eval", "preferences", ".yaml").read_text(encoding="utf-8"))
    data["manner"].update(like="Be {first}.", told="Be it: {prompt}")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises((UserError, Problems)) as caught:
        suites.load(str(path))
    assert "manner.like: there is no {second} and no {prompt} in it" in str(caught.value)
    assert "manner.told: there is no {trait} in it" in str(caught.value)
