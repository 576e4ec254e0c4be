"""Evaluation by suites: what is asked, what is read, and planted truths that must come out."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import yaml

from charforge.constitution import parse
from charforge.engine import Request
from charforge.engine.bench import Bench
from charforge.engine.scoring import Item
from charforge.errors import Problems, StageError, UserError
from charforge.evaluate import asking, judging, scaffolds, suites, voice
from charforge.evaluate.asking import Choice, Encounter, Setting
from charforge.evaluate.findings import Findings, Number, change, levels
from charforge.evaluate.measure import Desk
from charforge.evaluate.scaffolds import ScaffoldSuite
from charforge.models import resolve
from charforge.recipe import Endpoint, Recipe, Sampling
from charforge.shipped import find
from charforge.stage import Progress, Weights
from charforge.store import Store, read_rows
from tests.conftest import SMALL, run_cli
from tests.test_pipeline import kill_when, lines

PIP = parse(SMALL, Path("pip.md"))
BANK = str(find("eval", "general", ".yaml"))
RECIPE = Recipe.model_validate(
    {"constitution": "pip.md", "model": "builtin:smollm2-135m-instruct", "scenarios": {"bank": BANK}}
)
BARE = Setting(PIP, RECIPE, "untrained")


def shipped(name: str) -> Any:
    return suites.load(name)


@pytest.mark.parametrize("name", suites.SHIPPED)
def test_what_is_asked_is_the_same_for_every_arm(name: str) -> None:
    """The arms differ in what they are told and in nothing else; every preset asks something, and less is part of more."""
    suite = shipped(name)
    told = Setting(PIP, RECIPE, "prompted", "I am Pip.")

    def places(setting: Setting, of: Any) -> list[tuple[str, str, str]]:
        return [(type(ask).__name__, ask.base, ask.condition) for ask in of.asks(setting)]

    assert places(BARE, suite) == places(told, suite)
    assert any("I am Pip." in str(vars(ask)) for ask in suite.asks(told))
    assert not any("I am Pip." in str(vars(ask)) for ask in suite.asks(BARE))
    counts = []
    for preset in ("quick", "standard", "full"):
        settings = suites.presets()[preset][suite.name]
        counts.append(len(suite.limited(settings.limit).asks(BARE)))
    assert 0 < counts[0] < counts[2] and counts[0] <= counts[1] <= counts[2]
    assert asking.describe(suite.asks(BARE)) != asking.describe(suite.asks(told))


def test_every_matter_is_in_every_scaffold() -> None:
    suite: ScaffoldSuite = shipped("scaffolds")
    assert len(suite.scaffolds) >= 9 and len(suite.matters) >= 6
    asks = suite.asks(BARE)
    matters = [ask for ask in asks if ask.about["trait"] is None]
    assert len(matters) == len(suite.scaffolds) * len(suite.matters)
    long = next(ask for ask in matters if ask.condition == "long_chat")
    assert isinstance(long, asking.Probe)
    assert len(long.messages) == 1 + 2 * len(suite.scaffolds["long_chat"].before)
    wrapped = [ask for ask in asks if ask.about["trait"] == "asks-back"]
    assert {ask.condition for ask in wrapped} == {n for n, s in suite.scaffolds.items() if s.wraps}
    assert all(ask.about["matter"] in cast("asking.Probe", ask).messages[-1]["content"] for ask in wrapped)


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("Hello.", None, "Hello."),
        ('{"body": "Dear you."}', "body", "Dear you."),
        ('Sure:\n```json\n{"tool": "x", "body": "Two\nlines."}\n```', "body", "Two\nlines."),
        ('{"a": {"b": 1}} then {"body": "Later."}', "body", "Later."),
        ("Dear you.", "body", None),
        ('{"body": 3}', "body", None),
        ('{"body": "cut', "body", None),
        ("", "body", None),
    ],
)
def test_own_words(text: str, field: str | None, expected: str | None) -> None:
    assert scaffolds.own_words(text, field) == expected


def test_what_is_heard() -> None:
    heard = voice.listen(PIP, "Fine. Is it?", None)
    assert heard["held"] == 1.0 and set(heard["markers"]) == {"ends with a question", "no lists"}
    assert voice.listen(PIP, "Fine.", None)["held"] == 0.0 and voice.listen(PIP, "Fine.", None)["share"] == 0.5
    # An empty reply is unread: it is neither a voice held nor a voice lost.
    assert voice.listen(PIP, " ", None)["held"] is None
    narrow = parse(
        SMALL.replace("*Intensity: 0.9*", "*Intensity: 0.9*\n\n*Scope: everywhere except code*"), Path("p.md")
    )
    assert voice.listen(narrow, "Fine.", "code")["held"] is None
    opening = parse(SMALL.replace("- no lists", '- begins with "well"'), Path("p.md"))
    assert voice.listen(opening, "Is it?", None)["held"] == 0.0
    assert voice.listen(opening, "Is it?", None, opening=False)["held"] == 1.0


def planted(rates: dict[str, float], bases: int = 40, seed: int = 0, arm: str = "trained") -> list[dict[str, Any]]:
    """Rows in which a voice is heard at a known rate in each condition."""
    draw = random.Random(seed)
    return [
        {"arm": arm, "base": str(base), "condition": condition, "share": float(draw.random() < rate)}
        for base in range(bases)
        for condition, rate in rates.items()
    ]


def by_condition(rows: list[dict[str, Any]], after: str, before: str) -> Any:
    a, b = ([row for row in rows if row["condition"] == condition] for condition in (after, before))
    return change(a, b, "share", "share", "trained", after, before)


def test_planted_truths_come_out() -> None:
    rows = planted({"plain": 0.95, "suffix": 0.2, "override": 0.95})
    lost = by_condition(rows, "suffix", "plain")
    assert lost.estimate.high < -0.4 and lost.p < 0.01
    null = by_condition(rows, "override", "plain")
    assert null.estimate.low < 0 < null.estimate.high and null.p > 0.05 and 0 < null.detectable < 0.3


def test_a_change_that_is_none_is_seldom_called_one() -> None:
    """Type I error of the paired change, by its interval and by its p, over repeated nulls: about one in twenty."""
    by_interval = by_p = 0
    for seed in range(300):
        found = by_condition(planted({"plain": 0.7, "suffix": 0.7}, bases=25, seed=seed), "suffix", "plain")
        by_interval += not found.estimate.low <= 0 <= found.estimate.high
        by_p += found.p < 0.05
    assert by_interval / 300 < 0.09 and by_p / 300 < 0.09, (by_interval, by_p)


def test_differences_without_spread_are_no_certainty() -> None:
    found = by_condition(planted({"plain": 1.0, "suffix": 1.0}, bases=5), "suffix", "plain")
    assert found.estimate.value == 0 and found.estimate.low == -0.6 and found.estimate.high == 0.6 and found.p == 1


def test_unread_replies_are_counted_and_not_scored() -> None:
    rows = planted({"chat": 1.0, "form": 1.0}) + planted({"chat": 0.0, "form": 0.0}, arm="untrained")
    for row in rows:
        if row["condition"] == "form":
            row["share"] = None
    found = {(n.condition, n.arm, n.against): n for n in levels(rows, "share", "share")}
    form = found["form", "trained", None]
    assert form.estimate is None and form.unscored == 40 and form.why == "no reply could be scored"
    assert found["form", "trained", "untrained"].estimate is None
    assert found["chat", "trained", "untrained"].estimate.value == 1.0  # type: ignore[union-attr]


def test_changes_are_adjusted_for_their_number() -> None:
    """Twenty null changes and one real one: the real one stands out after the adjustment, of the others hardly any."""
    rows = []
    for arm in ("untrained", "trained"):
        rates = {f"c{n}": 0.5 for n in range(20)} | {"real": 0.9 if arm == "trained" else 0.1}
        rows += planted(rates, bases=30, seed=len(arm), arm=arm)
    found = Findings(levels(rows, "share", "share")).as_dict()["numbers"]
    changes = {n["condition"]: n for n in found if n["against"] == "untrained"}
    assert changes["real"]["adjusted"] < 0.01
    assert all(n["adjusted"] >= n["p"] for n in changes.values())
    assert sum(n["adjusted"] < 0.05 for n in changes.values()) <= 2


# --- forced choices ---------------------------------------------------------------------------------------------------


def answered(choice: Choice, pick: Any) -> dict[str, Any]:
    """The row of a choice as a planted model answers it: `pick(shown texts)` gives the probability of each place."""
    orders = []
    for order in choice.orders():
        orders.append(
            {
                "shown": [k for k, _ in order],
                "p": dict(zip([k for k, _ in order], pick([t for _, t in order]), strict=True)),
            }
        )
    return asking.read_choice(orders)


RISK = Choice("b", "c", "Which?", (("bold", "jump"), ("safe", "wait")))


def test_a_model_that_always_says_a_has_no_opinion() -> None:
    """One order alone would have shown .99 for whatever stands first."""
    found = answered(RISK, lambda shown: [0.99, 0.005])
    assert found["p"]["bold"] == pytest.approx(0.5) and found["first"] == pytest.approx(0.995, abs=0.01)
    three = Choice("b", "c", "Which?", (("x", "1st"), ("y", "2nd"), ("z", "3rd")))
    assert list(answered(three, lambda shown: [0.9, 0.05, 0.05])["p"].values()) == pytest.approx([1 / 3] * 3)


def test_a_preference_follows_its_option_through_the_orders() -> None:
    """Shuffling the options remaps the key: what was chosen is the option, not the letter."""
    found = answered(RISK, lambda shown: [0.9 if text == "jump" else 0.1 for text in shown])
    assert found["p"]["bold"] == pytest.approx(0.9) and found["first"] == pytest.approx(0.5)


def test_below_the_floor_there_is_no_value() -> None:
    found = answered(RISK, lambda shown: [0.05, 0.02])
    assert found["p"] is None and found["mass"] == pytest.approx(0.07)
    assert found["first"] is None, "which way the noise leans is no answer either"
    half = iter([[0.6, 0.3], [0.2, 0.1]])
    assert answered(RISK, lambda shown: next(half))["p"] is None
    row = {"kind": "choice", "arm": "trained", "base": "b", "condition": "c", **found}
    (number,) = levels([row], lambda r: r["p"] and r["p"]["bold"], "risk", changes=False)
    assert (
        number.estimate is None and number.why is not None and number.why.startswith("floor") and "0.07" in number.why
    )


def test_how_a_choice_is_put() -> None:
    letters = RISK.prompt(RISK.options)
    assert "A. jump" in letters and "B. wait" in letters and letters.endswith("the letter alone: A or B.")
    assert "1. jump" in replace(RISK, form="numbers").prompt(RISK.options)
    words = replace(RISK, form="words", options=(("yes", "Yes"), ("no", "No")))
    assert [words.labels(order) for order in words.orders()] == [("Yes", "No"), ("No", "Yes")]
    assert "A." not in words.prompt(words.options) and words.prompt(words.options).endswith("one word: Yes or No.")
    written = replace(RISK, document=True, preamble="INTERVIEW\n\n").prompt(RISK.options)
    assert written.startswith("INTERVIEW") and written.endswith("Answer:")


@pytest.mark.slow
def test_a_real_model_is_weighed(tiny_model: Path) -> None:
    """Labels count with and without a space; text outside the template is weighed as it stands; nothing sums above 1."""
    from charforge.engine.scoring import Item, Scorer
    from charforge.models import fetch, resolve
    from charforge.recipe import ModelReference

    model = resolve(ModelReference(name=str(tiny_model), chat_template="chatml"))
    scorer = Scorer(model, fetch(model), device="cpu")
    asked: tuple[dict[str, str], ...] = ({"role": "user", "content": "A or B?"},)
    chat, text = scorer.choose((), [asked, "Pip said: A or B? Answer:"], ("A", "B"))
    assert chat != text and 0 < sum(chat) < 1 and 0 < sum(text) < 1
    assert (
        scorer.render((), asked).endswith("<|im_start|>assistant\n") and scorer.render((), "As it is.") == "As it is."
    )
    (alone,) = scorer.score([Item((), "", "Rain fell.")])
    assert alone.tokens > 0 and alone.total < 0


# --- talking ----------------------------------------------------------------------------------------------------------


class Played:
    """Plays scripts with a rule in place of models, and keeps what was asked of whom."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule
        self.asked: list[tuple[str, list[dict[str, str]]]] = []
        own = Weights(cast("Any", Endpoint(endpoint="http://x/v1", model="own")))
        self.work = cast("Any", SimpleNamespace(recipe=RECIPE, stage=SimpleNamespace(weights=own)))
        self.own = own

    def play(self, asks: list[Any], untrained: Weights) -> list[dict[str, Any]]:
        script = asking.script(self.work, "s", "prompted", asks, untrained)
        rows: list[dict[str, Any]] | None = None
        while True:
            try:
                asked = next(script) if rows is None else script.send(rows)
            except StopIteration as end:
                return cast("list[dict[str, Any]]", end.value)
            rows = []
            for request, weights in asked:
                who = cast("Endpoint", weights.source).model
                self.asked.append((who, list(request.messages)))
                rows.append({**request.about, "text": self.rule(who, request.messages)})


def test_each_turn_of_a_talk_knows_what_was_said() -> None:
    played = Played(lambda who, said: f"reply {len(said)}")
    talk = asking.Talk("b", "c", BARE.chat(also="Be brief."), ("one", "two", "three"), samples=1)
    short = asking.Talk("d", "c", (), ("only",), samples=1)
    rows = played.play([talk, short, asking.Probe("e", "c", BARE.chat("Hi."), samples=2)], played.own)
    assert [row["turn"] for row in rows if row["base"] == "b"] == [0, 1, 2]
    assert len(rows) == 6 and len(played.asked) == 6
    assert [m["content"] for m in played.asked[-1][1]] == ["Be brief.", "one", "reply 2", "two", "reply 4", "three"]


def test_each_hears_the_other_as_its_user() -> None:
    """Against another model: every one sees its own words as the assistant's, and only the arm has the arm's system prompt."""
    stranger = Weights(cast("Any", Endpoint(endpoint="http://x/v1", model="stranger")))
    count = iter(range(100))
    played = Played(lambda who, said: f"{who} {next(count)}")
    opening = Setting(PIP, RECIPE, "prompted", "I am Pip.").chat()
    meeting = Encounter("b", "c", opening, "Hello.", rounds=3, partner="untrained", samples=1)
    rows = played.play([meeting], stranger)
    assert [row["text"] for row in rows] == ["own 0", "stranger 1", "own 2", "stranger 3", "own 4"]
    for who, said in played.asked:
        lines = [m for m in said if m["role"] != "system"]
        assert [m["role"] for m in lines] == ["user", "assistant"] * (len(lines) // 2) + ["user"]
        assert all(m["content"].startswith(who) for m in lines if m["role"] == "assistant")
        assert (said[0]["role"] == "system") == (who == "own")
    alone = Encounter("b", "c", (), "Hello.", rounds=4, partner="itself", window=3, samples=1)
    rows = played.play([alone], stranger)
    assert len(rows) == 7 and all(who == "own" for who, _ in played.asked[5:])
    assert all(len(said) <= 3 and said[0]["role"] == "user" for _, said in played.asked[5:])


# --- judges ------------------------------------------------------------------------------------------------------------


def known(count: int = 4) -> dict[str, tuple[dict[str, Any], ...]]:
    rows = [
        {"judge": "likelihood_ratio", "prompt": f"p{n}", "in_character": f"good {n}", "other": f"bad {n}", "margin": 1.0,
         "example": str(n)} for n in range(count)
    ]  # fmt: skip
    return {"likelihood_ratio": judging.canaries(rows, "likelihood_ratio")}


class FakeBench:
    """Log-probabilities by a rule of the reply: what a judge would say, without its model."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule
        self.seen: list[Any] = []
        self.work = SimpleNamespace(constitution=PIP, recipe=RECIPE)

    def anew(self) -> FakeBench:
        return self

    def guarded(self, check: Callable[[], None]) -> FakeBench:
        check()
        return self

    def log_probabilities(self, weights: Weights, items: Any) -> list[dict[str, Any]]:
        self.seen += items
        return [{"mean": self.rule(item.reply) if item.context else 0.0, "tokens": 1} for item in items]


def test_a_judge_that_errs_on_known_cases_fails_the_run() -> None:
    said = ({"role": "system", "content": "I am Pip."}, {"role": "user", "content": "u"})
    bench = FakeBench(lambda reply: 1.0 if reply.startswith("good") else 0.0)
    judge = judging.Judging(known())
    found = judge.score(cast("Bench", bench), [(said, "good reply", "bad reply")])
    assert found == {"likelihood_ratio": [1.0]} and judge.about["likelihood_ratio"] == {"canaries": 4, "wrong": 0}
    # The judge is blind: nothing that it reads says which arm it is.
    assert not any("I am Pip." in m["content"] for item in bench.seen for m in item.messages)
    draw = random.Random(3)
    caught = 0
    for _ in range(40):
        try:
            judging.Judging(known()).score(cast("Bench", FakeBench(lambda reply: draw.random())), [(said, "x", "y")])
        except StageError as error:
            assert "errs on" in str(error)
            caught += 1
    # By chance alone a judge gets four known pairs right one time in sixteen.
    assert caught >= 32


def test_half_of_the_canaries_are_drawn_among_the_pairs_it_was_right_about() -> None:
    rows = [
        {"judge": kind, "prompt": "p", "in_character": "good", "other": str(n), "margin": 40.0 - n, "example": str(n)}
        for kind in ("likelihood_ratio", "pairwise")
        for n in range(60)
    ]
    draws = [judging.canaries(rows, "pairwise", str(draw)) for draw in range(20)]
    for drawn in draws:
        assert len(drawn) == judging.CANARIES and {row["judge"] for row in drawn} == {"pairwise"}
        assert [row["example"] for row in drawn[:2]] == ["0", "1"]
        # 40 were right; of those the wider half, where no rounding turns a verdict round.
        assert all(row["margin"] > 20 for row in drawn) and len({row["example"] for row in drawn}) == 4
    assert len({tuple(row["example"] for row in drawn) for drawn in draws}) > 10
    assert draws[0] == judging.canaries(rows, "pairwise", "0")
    assert [len(judging.canaries(rows[:n], "likelihood_ratio")) for n in (0, 1, 3, 5)] == [0, 1, 3, 4]


def test_canaries_are_weighed_anew(tmp_path: Path) -> None:
    """Scores that another evaluation kept are taken over, but not for the canaries: they would say how the judge once was."""

    class Drifting:
        about: ClassVar[dict[str, str]] = {}
        shift = 0.0

        def score(self, items: Any) -> list[Any]:
            value = {"good": 1.0, "bad": 0.0}
            return [
                SimpleNamespace(mean=(1 - 2 * self.shift) * value[i.reply.split()[0]] if i.context else 0.0, tokens=1)
                for i in items
            ]

    scorer = Drifting()
    store = Store(tmp_path)

    def bench(key: str) -> Bench:
        artifact = store.artifact("measure-scaffolds", key * 64)
        artifact.directory.mkdir(parents=True)
        fixed: dict[str, Any] = {
            "fresh": False,
            "progress": Progress(),
            "resources": SimpleNamespace(scorer=lambda w: scorer),
        }
        work = SimpleNamespace(
            artifact=artifact, directory=artifact.directory, store=store, recipe=RECIPE, constitution=PIP, **fixed
        )
        return Bench(cast("Any", work))

    cases = [(({"role": "user", "content": "u"},), "good reply", "bad reply")]
    before = bench("a")
    assert judging.Judging(known()).score(before, cases) == {"likelihood_ratio": [1.0]}
    before.close()
    assert len(before.journal.lines) == 2, "of the canaries nothing is kept"
    scorer.shift = 1.0
    after = bench("b")
    # What it said while it was right stands, and asks it nothing; before one word more it is tried.
    again = judging.Judging(known())
    assert again.score(after, cases) == {"likelihood_ratio": [1.0]} and after.about["computed"] == 0
    assert again.about == {"likelihood_ratio": {"canaries": 0, "wrong": 0}}
    with pytest.raises(StageError, match="errs on 4 of 4 cases"):
        again.score(after, [*cases, (cases[0][0], "good answer", "bad reply")])
    assert len(after.journal.lines) == 2, "nothing that it would have said after is kept"
    kept = after.about["kept"]
    weights = Weights(resolve(RECIPE.model))
    items = [Item((), ({"role": "user", "content": "u"},), "good reply")]
    assert after.log_probabilities(weights, items)[0]["mean"] == 0.0
    assert after.about["kept"] == kept + 1
    after.close()


def test_two_addresses_are_two_judges() -> None:
    from charforge.engine import bench

    one, other = (Weights(Endpoint(endpoint=f"http://{host}/v1", model="m")) for host in ("a", "b"))
    assert bench._identity(one) != bench._identity(other)


# --- scaffolds ----------------------------------------------------------------------------------------------------------


def scaffolded(speak: Any, judges: Any, limit: int | None = None, recipe: Recipe = RECIPE) -> list[Number]:
    """The numbers of the shipped scaffolds where `speak(arm, ask)` is what each arm says."""
    suite = cast(ScaffoldSuite, shipped("scaffolds").limited(limit))
    rows = [
        {"kind": "reply", "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}
        | {"messages": [], "text": speak(arm, ask), "finish": "stop", "sample": 0}
        for arm in ("untrained", "trained")
        for ask in suite.asks(Setting(PIP, RECIPE, arm))
    ]
    bench = FakeBench(lambda reply: 1.0 if reply.startswith("good") else 0.0)
    return suite.read(rows, Desk(PIP, recipe, cast(Bench, bench), judging.Judging(judges))).numbers


def test_wins_that_the_training_judge_alone_gives_say_so() -> None:
    def speak(arm: str, ask: Any) -> str:
        return ("good" if arm == "trained" else "bad") + " reply. Is it?"

    wins = [n for n in scaffolded(speak, known()) if n.name.startswith("judge likelihood-ratio: wins")]
    assert wins and all(n.note and "labelled the training data" in n.note for n in wins)
    assert next(n for n in wins if n.condition == "chat" and n.trait is None).estimate
    settings = RECIPE.judge.model_copy(update={"kind": "pairwise", "second": "likelihood_ratio"})
    other = scaffolded(speak, known(), recipe=RECIPE.model_copy(update={"judge": settings}))
    assert not [n for n in other if n.note], "another judge than the one that labelled"


def test_what_a_scaffold_could_not_measure_stands_there_and_says_why() -> None:
    def speak(arm: str, ask: Any) -> str:
        return "" if ask.condition == "email_agent" else "Fine. Is it?"

    found = scaffolded(speak, {})
    names = {
        n.condition for n in found if n.name == "share of the voice" and n.against == "chat" and n.arm == "trained"
    }
    assert names == set(shipped("scaffolds").scaffolds) - {"chat"}
    assert all(n.estimate is not None or n.why for n in found)
    (judged,) = [n for n in found if n.name == "judge: wins over untrained"]
    assert judged.why and "no judge is heard" in judged.why
    few = scaffolded(speak, known(), limit=2)
    assert {n.why for n in few if n.name == "markers of the trait"} == {
        "no held-out prompt of a trait with markers was asked"
    }
    assert any("nothing is judged" in (n.why or "") for n in few)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "robustnes"}, "measure: 'robustnes' is none; did you mean 'robustness'?"),
        ({"sufixes": []}, "sufixes: unknown key; did you mean 'suffixes'?"),
        ({"prefill": ""}, "prefill and prefill_tokens go together"),
        ({"overrides": [{}]}, "give either system or user"),
        ({"plain": ["a", "a"]}, "a request stands there twice"),
        ({"name": "A B"}, "must be lower-case"),
    ],
)
def test_a_wrong_suite_says_so(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(find("eval", "robustness", ".yaml").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**data, **change}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        suites.load(str(path))
    said = "\n".join(str(p) for p in error.value.problems) if isinstance(error.value, Problems) else str(error.value)
    assert message in said and "mine.yaml" in said


def test_a_scaffold_without_its_matter_says_so(tmp_path: Path) -> None:
    data = yaml.safe_load(find("eval", "scaffolds", ".yaml").read_text(encoding="utf-8"))
    del data["matters"]["parcel"]["form"]
    data["matters"]["kettle"]["fom"] = "x"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(UserError) as error:
        suites.load(str(path))
    assert "nothing for form" in str(error.value) and "did you mean 'form'" in str(error.value)


def test_a_prefill_is_part_of_the_key_and_only_where_there_is_one() -> None:
    plain = Request(({"role": "user", "content": "a"},), Sampling(), 1)
    keys = {Request(plain.messages, plain.sampling, 1, prefill="I will", prefill_tokens=n).key({}) for n in (1, 2)}
    assert len(keys | {plain.key({})}) == 3


def test_an_endpoint_can_not_be_prefilled() -> None:
    from charforge.engine.endpoint import EndpointEngine

    engine = EndpointEngine(Endpoint(endpoint="http://127.0.0.1:9/v1", model="m"), concurrency=1, retries=0)
    request = Request(({"role": "user", "content": "a"},), Sampling(), 1, prefill="I", prefill_tokens=1)
    with pytest.raises(StageError, match="begin a reply"):
        list(engine.generate([request]))


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workshop with a character. Not to be changed: tests work in a copy of it."""
    folder = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    untrained = run_cli("eval", "recipe.yaml", cwd=folder)
    assert untrained.returncode == 2 and "is not trained here" in untrained.stderr
    done = run_cli("train", "recipe.yaml", "--set", "sft.max_steps=2", "--set", "dpo.enabled=false", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("prepared")
def test_eval_on_the_command_line(trained: Path, tmp_path: Path) -> None:
    """A trained character is asked, the rows are kept, another suite asks nothing again, and an edit of the file that it
    was trained from changes nothing."""
    folder = tmp_path / "work"
    shutil.copytree(trained, folder, symlinks=True)
    asked = run_cli(
        "eval", "pip@1.0.0", "--store", "store", "--suite", "robustness", "--limit", "2", "--json", cwd=folder
    )
    assert asked.returncode == 0, asked.stderr
    data = json.loads(asked.stdout)
    numbers = {(n["name"], n["condition"], n["arm"], n["against"]): n for n in data["suites"]["robustness"]["numbers"]}
    # The scripted engine speaks in voice with a system message or trained weights, whatever it is asked.
    assert numbers["voice held", "suffix", "trained", None]["value"] == 1.0
    assert numbers["voice held", "plain", "untrained", None]["value"] == 0.0
    assert numbers["voice held", "plain", "trained", "untrained"]["value"] == 1.0
    rows = read_rows(Path(folder / data["suites"]["robustness"]["rows"]))
    assert {"messages", "rendered", "condition", "markers", "held"} <= set(rows[0])

    (folder / "pip.md").write_text(SMALL.replace("It keeps the talk going.", "So."), encoding="utf-8")
    again = run_cli(
        "eval", "pip@1.0.0", "--store", "store", "--limit", "2", "--twin", "pip@1.0.0", "--json", cwd=folder
    )
    assert again.returncode == 0, again.stderr
    # Another preset, a twin and nine more suites: what robustness asked of the three arms is not asked again.
    assert again.stderr.count("reused") >= 3, again.stderr
    data = json.loads(again.stdout)
    assert set(data["suites"]) == set(suites.SHIPPED)
    for name, found in data["suites"].items():
        assert {n["arm"] for n in found["numbers"]} >= {"trained"}, name
        assert all(n["value"] is not None or n["why"] for n in found["numbers"]), name
    shares = {(n["arm"], n["condition"]): n["value"] for n in data["suites"]["robustness"]["numbers"]
              if n["name"] == "share of the voice" and n["against"] is None}  # fmt: skip
    assert shares["twin", "plain"] == shares["trained", "plain"], "the twin is the same character"
    # The verdict rests on numbers that are there: a measure that renamed one would leave its criterion unmeasured.
    assert not [c for c in data["verdict"]["criteria"] if "not measured" in c["why"]]
    page = (folder / data["directory"] / "evaluation.html").read_text(encoding="utf-8")
    assert "pip@1.0.0" in page and "http://" not in page
    # The command on the page asks for this very evaluation, whichever build is the latest by then.
    command = json.loads((folder / data["directory"] / "evaluation.json").read_text(encoding="utf-8"))["provenance"][
        "command"
    ]
    assert command.count("pip@1.0.0/") == 2, "the twin too is named by its build"
    same = run_cli(*shlex.split(command)[1:], "--store", "store", "--json", cwd=folder)
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["directory"] == data["directory"]
    shown = run_cli("show", "pip", "--store", "store", cwd=folder)
    assert "robustness" in shown.stdout and "selftalk" in shown.stdout
    kept = run_cli("gc", "--store", "store", "--json", cwd=folder)
    assert not [item for item in json.loads(kept.stdout)["items"] if "robustness" in item["path"]]

    for words, said in (
        (["pap@1.0.0"], "did you mean 'pip@1.0.0'"),
        (["pip@1.0.0", "--suite", "robustnes"], "did you mean 'robustness'"),
        (["pip@1.0.0", "--suite", "quick"], "--preset quick"),
        (["pip@1.0.0", "--preset", "quik"], "did you mean 'quick'"),
        (["pip@1.0.0", "--judge", "pairwize"], "did you mean 'pairwise'"),
        (["pip@1.0.0", "--harness", "arc_easy"], "'harness' extra"),
    ):
        wrong = run_cli("eval", *words, "--store", "store", cwd=folder)
        assert wrong.returncode == 2 and said in wrong.stderr, (words, wrong.stderr)


@pytest.mark.slow
@pytest.mark.xdist_group("prepared")
def test_a_killed_evaluation_goes_on(trained: Path, tmp_path: Path) -> None:
    """kill -9 while replies are drawn; what was drawn is kept, and the rows are those of an unbroken run."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        shutil.copytree(trained, folder, symlinks=True)
    command = ["eval", "pip@1.0.0", "--store", "store", "--suite", "robustness", "--suite", "selftalk", "--limit", "2"]
    done = run_cli(*command, cwd=whole)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "charforge"), *command],
        cwd=broken,
        env={**os.environ, "CHARFORGE_SCRIPTED_DELAY": "0.05"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kill_when(process, lambda: len(lines(broken / "store", "selftalk-untrained")) >= 6)
    kept = lines(broken / "store", "selftalk-untrained")
    done = run_cli(*command, cwd=broken)
    assert done.returncode == 0, done.stderr
    for stage in ("robustness-prompted", "selftalk-untrained", "selftalk-trained", "measure-selftalk"):
        (a,), (b,) = (list((f / "store/artifacts" / stage).glob("*/rows.jsonl")) for f in (whole, broken))
        assert a.read_bytes() == b.read_bytes(), stage
    (rows,) = (broken / "store/artifacts/selftalk-untrained").glob("*/rows.jsonl")
    assert set(kept) <= set(rows.read_bytes().splitlines(keepends=True))
