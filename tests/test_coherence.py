"""Coherence: what is asked of each trait, and planted models whose truth must come out."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from charforge.constitution import Constitution, Trait, load, parse
from charforge.data import contexts, scenarios
from charforge.errors import Problems, UserError
from charforge.evaluate import coherence, suites
from charforge.evaluate.asking import Ask, Choice, Probe, Setting, Text, describe, read_choice
from charforge.evaluate.coherence import CoherenceSuite
from charforge.evaluate.findings import Findings, Number
from charforge.evaluate.judging import Judging
from charforge.evaluate.measure import Desk
from charforge.recipe import Recipe
from charforge.recipe import load as load_recipe
from charforge.shipped import find
from charforge.store import Row
from tests.conftest import SMALL

UNTRAINED, TRAINED = "untrained", "trained"


@cache
def wren() -> Constitution:
    return load(find("constitutions", "wren", ".md"))


@cache
def characters() -> list[Constitution]:
    """All that are shipped."""
    folder = find("constitutions", "wren", ".md").parent
    return [load(p) for p in sorted([*folder.glob("*.md"), *folder.glob("*/*.md")]) if p.stem != "TEMPLATE"]


@cache
def recipe() -> Recipe:
    return load_recipe(find("recipes", "demo", ".yaml"))


@cache
def shipped(limit: int | None = None) -> CoherenceSuite:
    suite = suites.load("coherence")
    assert isinstance(suite, CoherenceSuite)
    return suite.limited(limit)


# --- planted models -------------------------------------------------------------------------------------------------


class Model:
    """Answers what is asked by the truth that is planted in it. The plain one knows nothing and behaves like a contrast."""

    mass = 0.9

    def favours(self, ask: Choice) -> float:
        """The probability with which it takes the side of the trait."""
        return 0.5

    def shows(self, probe: Probe, sample: int) -> bool:
        return False

    def choose(self, ask: Choice, shown: Sequence[str]) -> dict[str, float]:
        p = self.favours(ask)
        side = {"own": "yes", "other": "no"}.get(ask.about.get("asked", "both"), "own")
        return {key: self.mass * (p if key == side else 1 - p) for key in shown}

    def reply(self, probe: Probe, sample: int, trait: Trait) -> str:
        example = trait.examples[sample % len(trait.examples)]
        text = example.reply if self.shows(probe, sample) else example.contrast or "It depends."
        # Outside the chat a model goes on with what comes next; that is not its turn any more.
        return f" {text}\n\nUser: And then?\n\n- a list" if probe.document is not None else text

    def weigh(self, text: Text) -> float:
        return -2.0 if text.about["side"] == "own" else -1.0


class AlwaysA(Model):
    def choose(self, ask: Choice, shown: Sequence[str]) -> dict[str, float]:
        return {key: 0.95 if place == 0 else 0.02 for place, key in enumerate(shown)}


class AlwaysYes(Model):
    def choose(self, ask: Choice, shown: Sequence[str]) -> dict[str, float]:
        if ask.form == "words":
            return {"yes": 0.93, "no": 0.03}
        return dict.fromkeys(shown, 0.45)


class Coin(Model):
    def __init__(self, seed: int = 0) -> None:
        self.draw = random.Random(seed)

    def favours(self, ask: Choice) -> float:
        return self.draw.random()

    def shows(self, probe: Probe, sample: int) -> bool:
        return self.draw.random() < 0.5


class Itself(Model):
    """Says what it is and does what it says, in the chat and outside, and ascribes it to nobody else."""

    def favours(self, ask: Choice) -> float:
        return 0.5 if ask.about["part"] == "other" else 0.95

    def shows(self, probe: Probe, sample: int) -> bool:
        return True

    def weigh(self, text: Text) -> float:
        return -1.0 if text.about["side"] == "own" else -2.0


class Talker(Itself):
    def shows(self, probe: Probe, sample: int) -> bool:
        return False


class Everybody(Itself):
    def favours(self, ask: Choice) -> float:
        return 0.95


class OnlyInChat(Itself):
    def favours(self, ask: Choice) -> float:
        return 0.5 if ask.about["part"] == "document" else super().favours(ask)

    def shows(self, probe: Probe, sample: int) -> bool:
        return probe.document is None


class OnlyInLetters(Itself):
    def favours(self, ask: Choice) -> float:
        return super().favours(ask) if ask.form == "letters" else 0.3


class Silent(Itself):
    mass = 0.2


class Partly(Itself):
    """Has only the traits of some sections; says so if it is honest, and the opposite if it is not."""

    def __init__(self, honest: bool) -> None:
        self.honest = honest

    def has(self, ask: Ask) -> bool:
        return wren().trait(ask.base).is_voice

    def favours(self, ask: Choice) -> float:
        if ask.about["part"] == "other":
            return 0.5
        return 0.95 if self.has(ask) == self.honest else 0.1

    def shows(self, probe: Probe, sample: int) -> bool:
        return self.has(probe)


def answered(asks: Sequence[Ask], arm: str, model: Model, constitution: Constitution) -> list[Row]:
    """The rows of an arm, in the form in which `speak` and `weigh` write them."""
    rows: list[Row] = []
    for ask in asks:
        row = {"suite": "coherence", "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}
        if isinstance(ask, Choice):
            shown = [[key for key, _ in order] for order in ask.orders()]
            orders = [{"shown": keys, "p": model.choose(ask, keys)} for keys in shown]
            rows.append({**row, "kind": "choice", "form": ask.form, "orders": orders, **read_choice(orders)})
        elif isinstance(ask, Text):
            rows.append({**row, "kind": "text", "text": ask.text, "mean": model.weigh(ask), "tokens": 9})
        else:
            assert isinstance(ask, Probe) and ask.samples
            for sample in range(ask.samples):
                text = model.reply(ask, sample, constitution.trait(ask.base))
                rows.append({**row, "kind": "reply", "sample": sample, "text": text, "finish": "stop"})
    return rows


@cache
def asked(arm: str) -> Sequence[Ask]:
    return shipped().asks(Setting(wren(), recipe(), arm))


def read(
    suite: CoherenceSuite,
    models: dict[str, Model],
    constitution: Constitution | None = None,
) -> tuple[Findings, list[Row]]:
    character = constitution or wren()
    rows: list[Row] = []
    for arm, model in models.items():
        whole = suite is shipped() and constitution is None
        asks = asked(arm) if whole else suite.asks(Setting(character, recipe(), arm))
        rows += answered(asks, arm, model, character)
    bench: Any = None  # nothing is weighed when rows are read
    return suite.read(rows, Desk(character, recipe(), bench, Judging())), rows


def number(found: Findings, name: str, arm: str, condition: str = "chat", against: str | None = None) -> Number:
    matching = [
        n
        for n in found.numbers
        if (n.name, n.arm, n.condition, n.against, n.trait) == (name, arm, condition, against, None)
    ]
    assert len(matching) == 1, (name, arm, condition, against, len(matching))
    return matching[0]


def value(found: Findings, name: str, arm: str = TRAINED, condition: str = "chat", against: str | None = None) -> float:
    estimate = number(found, name, arm, condition, against).estimate
    assert estimate is not None, number(found, name, arm, condition, against).why
    return estimate.value


_PLANTED: dict[str, Findings] = {}


def planted(kind: type[Model]) -> Findings:
    if kind.__name__ not in _PLANTED:
        _PLANTED[kind.__name__] = read(shipped(), {UNTRAINED: Model(), TRAINED: kind()})[0]
    return _PLANTED[kind.__name__]


# --- what is asked --------------------------------------------------------------------------------------------------


def test_a_statement_never_names_the_character_and_differs_from_its_foil() -> None:
    seen = 0
    for constitution in characters():
        traits = shipped().chosen(constitution)
        foils = coherence.foils(constitution, traits)
        own = {coherence.statement(constitution, trait) for trait in constitution.traits}
        for trait in traits:
            assert constitution.name not in coherence.statement(constitution, trait).split()
            assert foils[trait.id] not in own
            seen += 1
        assert foils == coherence.foils(constitution, list(reversed(traits)))
        assert len(set(foils.values())) >= len(foils) / 2, "the same foil for most traits"
    assert seen > 50


def test_a_sentence_that_names_the_character_is_no_statement_of_it() -> None:
    told = SMALL.replace("I end every reply with a question.", "Pip, for one, asks back. I pipe up with a question.")
    pip = parse(told, Path("pip.md"))
    assert coherence.statement(pip, pip.traits[0]) == "I pipe up with a question."


def test_a_foil_is_nothing_that_the_character_does() -> None:
    """Others end on a question too: said of a character that does so, that would be true."""
    checks = {coherence.statement(c, trait): trait.markers for c in characters() for trait in c.traits}
    for constitution in characters():
        replies = [reply for _, _, reply in constitution.replies()]
        for foil in coherence.foils(constitution, shipped().chosen(constitution)).values():
            shown = sum(all(marker.shows(reply) for marker in checks[foil]) for reply in replies)
            assert not checks[foil] or shown < len(replies) / 2, (constitution.name, foil)


def test_one_wording_is_asked_the_same_of_self_and_others() -> None:
    suite = shipped()
    asks = [a for a in asked(TRAINED) if isinstance(a, Choice)]
    trait = suite.chosen(wren())[0]
    mine = [a for a in asks if a.base == trait.id]
    own = [a for a in mine if a.about["part"] == "self"]
    # Letters and numbers ask once for each wording, words twice: for the statement and for its foil.
    assert len(own) == len(suite.questions) * 4
    words = [a for a in own if a.form == "words"]
    assert sorted(a.about["asked"] for a in words) == ["other"] * 3 + ["own"] * 3
    assert all((a.about["own"] if a.about["asked"] == "own" else a.about["foil"]) in a.question for a in words)
    others = [a for a in mine if a.about["part"] == "other"]
    assert {a.about["who"] for a in others} == set(suite.others)
    assert {a.about["wording"] for a in others} == {0, 1, 2}
    for ask in others:
        assert (
            ask.about["who"] in ask.question
            and "you" not in ask.question.replace(ask.about["own"], "").replace(ask.about["foil"], "").split()
        )
    assert not any("{" in a.question + a.preamble for a in asks)


def test_what_is_held_out_is_asked_and_nothing_else() -> None:
    asks = asked(TRAINED)
    heldout = {r["prompt"] for r in scenarios.authored(wren(), recipe()) if r["split"] == "heldout"}
    probes = [a for a in asks if isinstance(a, Probe)]
    assert probes and all(a.about["prompt"] in heldout for a in probes)
    share = recipe().judge.heldout_examples
    kept = {e.id for trait in wren().traits for e in contexts.split_examples(trait, share)[1]}
    shown = [a for a in asks if isinstance(a, Text) or (isinstance(a, Choice) and a.about["part"] == "revealed")]
    assert shown and all(a.about["example"] in kept for a in shown)


def test_all_arms_are_asked_the_same() -> None:
    for limit in (2, None):
        found = {describe(shipped(limit).asks(Setting(wren(), recipe(), arm))) for arm in (UNTRAINED, TRAINED)}
        assert len(found) == 1


def test_the_prompted_arm_is_told_in_chat_and_documents() -> None:
    asks = shipped().asks(Setting(wren(), recipe(), "prompted", "I am Wren, in brief."))
    for ask in asks:
        if isinstance(ask, Choice):
            told = ask.preamble if ask.document else ask.opening[0]["content"]
        elif isinstance(ask, Probe) and ask.document is not None:
            told = ask.document
        else:
            assert isinstance(ask, Probe | Text)
            told = ask.messages[0]["content"]
        assert told.startswith("I am Wren, in brief.")


def test_the_name_stands_only_in_the_documents_that_are_said_to_hold_it() -> None:
    suite = shipped()
    assert len(suite.documents) == 4 and sum(d.named for d in suite.documents.values()) <= 2
    found = planted(Itself)
    assert found.details["documents_that_name_the_character"] == {
        name: document.named for name, document in suite.documents.items()
    }
    for ask in asked(TRAINED):
        if isinstance(ask, Probe) and ask.document is not None and not ask.about["named"]:
            assert "Wren" not in ask.document
        if isinstance(ask, Choice) and ask.document and not ask.about["named"]:
            assert "Wren" not in ask.preamble + ask.question


def test_a_limit_keeps_the_strongest_of_each_section_and_little_else() -> None:
    suite = shipped(2)
    assert [trait.id for trait in suite.chosen(wren())] == ["ends-with-a-question", "curiosity-about-the-person"]
    asks = suite.asks(Setting(wren(), recipe(), TRAINED))
    assert sum(isinstance(a, Choice) for a in asks) <= 25
    assert sum(a.samples or 0 for a in asks if isinstance(a, Probe)) <= 8
    assert {trait.section for trait in shipped(4).chosen(wren())} == {"Voice", "Values", "Self-knowledge"}


# --- planted truths -------------------------------------------------------------------------------------------------


def test_a_true_self_report_comes_out() -> None:
    found = planted(Itself)
    assert value(found, "self-report") > 0.9 and value(found, "self-report", UNTRAINED) == pytest.approx(0.5)
    assert value(found, "behaviour") > value(found, "behaviour", UNTRAINED) + 0.2
    change = number(found, "self-report", TRAINED, against=UNTRAINED)
    assert change.estimate is not None and change.estimate.low > 0.1 and change.p is not None and change.p < 0.05
    apart = number(found, "self minus others", TRAINED, against="others")
    assert apart.headline and apart.estimate is not None and apart.estimate.value == pytest.approx(0.45)
    assert value(found, "self minus others", against=UNTRAINED) == pytest.approx(0.45)
    leak = number(found, "leak to others", TRAINED, "others", UNTRAINED)
    assert leak.estimate is not None and leak.estimate.value == pytest.approx(0, abs=0.01)
    for what in ("self-report", "behaviour"):
        retained = value(found, f"{what} retained outside the chat", TRAINED, "all documents", UNTRAINED)
        assert retained == pytest.approx(1, abs=0.15), what
    assert value(found, "own reply chosen", condition="own reply") > 0.9
    assert value(found, "own reply likelier", condition="likelihood") == 1
    assert value(found, "own reply likelier", UNTRAINED, "likelihood") == 0
    assert value(found, "paraphrase consistency") == pytest.approx(1)
    assert value(found, "same decision") == 1 and value(found, "format agreement") == 1


def test_self_report_without_behaviour_is_a_gap() -> None:
    """The talker says of itself what the other one is, and does nothing of it."""
    gap, honest = (number(planted(kind), "gap between self-report and behaviour", TRAINED) for kind in (Talker, Itself))
    assert gap.estimate is not None and honest.estimate is not None
    assert gap.estimate.value > honest.estimate.value + 0.2
    above = number(planted(Talker), "self-report above behaviour", TRAINED).estimate
    assert above is not None and above.low > 0.1
    change = number(planted(Talker), "behaviour", TRAINED, against=UNTRAINED).estimate
    assert change is not None and change.value == 0
    noise = number(planted(Talker), "noise of the gap: halves of the self-report", TRAINED).estimate
    assert noise is not None and noise.value < 0.05 < gap.estimate.value
    retained = number(planted(Talker), "behaviour retained outside the chat", TRAINED, "all documents", UNTRAINED)
    assert retained.estimate is None and retained.why is not None and "no signal" in retained.why


def test_what_is_said_of_everybody_leaks() -> None:
    found = planted(Everybody)
    leak = number(found, "leak to others", TRAINED, "others", UNTRAINED)
    assert leak.estimate is not None and leak.estimate.value == pytest.approx(1, abs=0.01)
    assert value(found, "self minus others", against="others") == pytest.approx(0, abs=0.01)
    assert value(found, "self-report") > 0.9


def test_what_vanishes_outside_the_chat_is_not_retained() -> None:
    found = planted(OnlyInChat)
    for what in ("self-report", "behaviour"):
        retained = value(found, f"{what} retained outside the chat", TRAINED, "all documents", UNTRAINED)
        assert retained == pytest.approx(0, abs=0.15), what
    assert value(found, "self-report") > 0.9 and value(found, "self-report", condition="story") == pytest.approx(0.5)


def test_an_answer_to_nearly_everything_is_surely_below_the_floor() -> None:
    class NearlyA(AlwaysA):
        def __init__(self) -> None:
            self.draw = random.Random(3)

        def choose(self, ask: Choice, shown: Sequence[str]) -> dict[str, float]:
            return {key: p + self.draw.uniform(0, 0.01) for key, p in super().choose(ask, shown).items()}

    found, _ = read(shipped(), {UNTRAINED: Model(), TRAINED: NearlyA()})
    sensitivity = number(found, "content sensitivity", TRAINED).estimate
    assert sensitivity is not None and abs(sensitivity.value) < coherence.SENSITIVE > sensitivity.high
    assert number(found, "paraphrase consistency", TRAINED).estimate is None


@pytest.mark.parametrize("kind", [AlwaysA, AlwaysYes])
def test_an_answer_to_everything_is_no_self_report(kind: type[Model]) -> None:
    """Perfectly consistent in the wrong sense: the level is that of no answer, and nothing is called consistent."""
    found = planted(kind)
    assert value(found, "self-report") == pytest.approx(0.5) and value(found, "content sensitivity") == pytest.approx(0)
    for name in (
        "paraphrase consistency",
        "same decision",
        "format agreement",
        "reliability of self-report (ICC)",
        "self-report and behaviour: Pearson r",
        "gap between self-report and behaviour",
    ):
        none = number(found, name, TRAINED)
        assert none.estimate is None and none.why == "floor: the answers do not depend on what is asked", name
    leak = number(found, "leak to others", TRAINED, "others", UNTRAINED)
    assert leak.estimate is None and leak.why is not None and leak.why.startswith("floor")
    if kind is AlwaysA:
        assert value(found, "goes to the label shown first", condition="letters") > 0.9
    else:
        assert value(found, "says yes", condition="self") > 0.9


def test_where_the_labels_hold_nothing_there_is_no_value() -> None:
    found, rows = read(shipped(), {UNTRAINED: Silent(), TRAINED: Silent()})
    level = number(found, "self-report", TRAINED)
    assert level.estimate is None and level.why is not None and level.why.startswith("floor")
    items = len(shipped().chosen(wren())) * 9
    assert level.unscored == items
    assert number(found, "paraphrase consistency", TRAINED).why == "floor: the model did not answer"
    assert number(found, "self minus others", TRAINED, against="others").estimate is None
    assert value(found, "behaviour") > 0.5, "behaviour is measured all the same"
    assert all(row["score"] is None for row in rows if row["kind"] == "choice")


def test_a_coin_is_unreliable_and_hardly_ever_called_itself() -> None:
    alarms = 0
    for seed in range(8):
        found, _ = read(shipped(), {UNTRAINED: Coin(100 + seed), TRAINED: Coin(seed)})
        change = number(found, "self-report", TRAINED, against=UNTRAINED).estimate
        assert change is not None
        alarms += not change.low <= 0 <= change.high
        reliability = number(found, "paraphrase consistency", TRAINED).estimate
        assert reliability is None or reliability.value < 0.8
    assert alarms <= 2


def test_a_coin_is_seldom_sensitive_to_what_is_asked() -> None:
    """What the docs say of coins: about 0 in the mean, and at or above the floor in one of ten runs at most."""
    draw = random.Random(0)
    places = [
        (form, trait, wording)
        for form in ("letters", "words", "numbers")
        for trait in range(14)
        for wording in range(3)
    ]
    found = []
    for _ in range(300):
        said = [
            {"form": form, "base": trait, "wording": wording, "score": float(draw.random() < 0.5)}
            for form, trait, wording in places
        ]
        found.append(statistics.mean(coherence._sensitivity(said)))
    assert sum(value >= coherence.SENSITIVE for value in found) <= 30


def test_formats_that_disagree_are_seen() -> None:
    found = planted(OnlyInLetters)
    assert value(found, "self-report", condition="letters") > 0.9 > 0.4 > value(found, "self-report", condition="words")
    assert value(found, "format agreement") == pytest.approx(1 / 3)
    assert value(found, "paraphrase consistency") == pytest.approx(1)
    # The interview asks in letters, and is compared with what the chat says in letters.
    retained = value(found, "self-report retained outside the chat", condition="interview", against=UNTRAINED)
    assert retained == pytest.approx(1)


@pytest.mark.parametrize(("honest", "sign"), [(True, 1), (False, -1)])
def test_said_and_done_go_together_or_against_each_other(honest: bool, sign: int) -> None:
    found, _ = read(shipped(), {UNTRAINED: Model(), TRAINED: Partly(honest)})
    changes = number(found, "changes of self-report and behaviour: Pearson r", TRAINED, against=UNTRAINED).estimate
    assert changes is not None and changes.value * sign > 0.7 and changes.n == 9
    outside = number(found, "self-report outside and in the chat: Pearson r", TRAINED, "survey", UNTRAINED).estimate
    assert outside is not None and outside.value > 0.95


def test_only_the_first_turn_outside_the_chat_is_read() -> None:
    _, rows = read(shipped(), {TRAINED: Itself()})
    outside = [row for row in rows if row["part"] == "outside"]
    assert outside and not any("And then?" in row["words"] or "\n" in row["words"] for row in outside)
    story = [row for row in outside if row["condition"] == "story"]
    assert story and not any('"' in row["words"] for row in story)
    empty = [{**row, "text": ' "\n\nUser: Hello'} for row in story]
    shipped().read(empty, Desk(wren(), recipe(), None, Judging()))  # type: ignore[arg-type]
    assert all(row["shown"] is None for row in empty), "an empty turn shows nothing and lacks nothing"


def test_half_a_yes_no_pair_is_no_answer() -> None:
    """A statement whose foil was not answered would count its agreement alone."""
    character, suite = wren(), shipped()
    rows = answered(asked(TRAINED), TRAINED, AlwaysYes(), character)
    for row in rows:
        if row["kind"] == "choice" and row.get("asked") == "other":
            row["p"] = None
    found = suite.read(rows, Desk(character, recipe(), None, Judging()))  # type: ignore[arg-type]
    words = number(found, "self-report", TRAINED, "words")
    assert words.estimate is None and words.unscored == 3 * len(suite.chosen(character))


def test_behaviour_that_repeats_itself_agrees_with_itself() -> None:
    assert recipe().evaluation.samples == 1, "two draws are made all the same"
    found, _ = read(shipped(), {UNTRAINED: Model(), TRAINED: Partly(True)})
    assert value(found, "behaviour again: Pearson r", condition="two draws") > 0.9
    assert value(found, "behaviour again: gap", condition="two temperatures") == 0
    assert value(found, "behaviour again: Pearson r", condition="two temperatures") == pytest.approx(1)

    class Warm(Partly):
        def shows(self, probe: Probe, sample: int) -> bool:
            return self.has(probe) == (probe.temperature != 1.0)

    found, _ = read(shipped(), {UNTRAINED: Model(), TRAINED: Warm(True)})
    assert value(found, "behaviour again: Pearson r", condition="two temperatures") < 0
    assert value(found, "behaviour again: gap", condition="two temperatures") > 0.2


# --- any constitution -----------------------------------------------------------------------------------------------


def test_a_constitution_without_markers_has_no_behaviour_and_says_why() -> None:
    bare = parse(SMALL.replace("#### Markers\n\n- ends with a question\n- no lists\n", ""), Path("pip.md"))
    assert not bare.traits[0].markers
    found, _ = read(shipped(), {UNTRAINED: Model(), TRAINED: Itself()}, bare)
    behaviour = number(found, "behaviour", TRAINED)
    assert behaviour.estimate is None and behaviour.why is not None and "markers" in behaviour.why
    assert value(found, "self-report") > 0.9
    few = number(found, "self-report and behaviour: Pearson r", TRAINED)
    assert few.estimate is None and few.why is not None and "four traits" in few.why
    assert found.as_dict()["numbers"]


def test_a_constitution_without_such_sections_says_so() -> None:
    suite = shipped().model_copy(update={"sections": ("posture",)})
    assert suite.asks(Setting(wren(), recipe(), TRAINED)) == []
    found, _ = read(suite, {UNTRAINED: Model()})
    assert found.numbers[0].estimate is None and found.numbers[0].why == "the constitution has no trait in posture"


def test_a_foil_of_ones_own() -> None:
    suite = shipped(2).model_copy(update={"foils": {"ends-with-a-question": "I never ask anybody anything."}})
    asks = suite.asks(Setting(wren(), recipe(), TRAINED))
    assert {a.about["foil"] for a in asks if a.base == "ends-with-a-question" and "foil" in a.about} == {
        "I never ask anybody anything."
    }


def test_what_is_read_depends_on_the_markers() -> None:
    trait = replace(wren().traits[0], markers=())
    changed = replace(wren(), traits=(trait, *wren().traits[1:]))
    assert shipped().heard(wren()) != shipped().heard(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wordings": []}, "wordings: unknown key"),
        ({"forms": ["letters", "letters"]}, "forms: one of them stands there twice"),
        ({"own_reply": "Which is yours?"}, "own_reply: there is no {prompt} in it"),
        ({"temperatures": [3]}, "temperatures: each lies between 0 and 2"),
        ({"documents": {"chat": None}}, "that name is taken"),
        ({"documents": {"story": None}}, "more than half hold {name}"),
    ],
)
def test_a_wrong_suite_says_so(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(find("eval", "coherence", ".yaml").read_text())
    if "documents" in change:
        change = {"documents": dict.fromkeys(change["documents"], data["documents"]["story"])}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**data, **change}))
    with pytest.raises((Problems, UserError)) as error:
        suites.load(str(tmp_path / "mine.yaml"))
    assert message in str(error.value)


def test_a_blank_in_the_wrong_place_says_so(tmp_path: Path) -> None:
    data = yaml.safe_load(find("eval", "coherence", ".yaml").read_text())
    data["questions"][0]["confirm"] = "Is it true of {who}?"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises((Problems, UserError)) as error:
        suites.load(str(tmp_path / "mine.yaml"))
    assert "questions.0.confirm: there is no {statement} in it" in str(error.value)
    assert "questions.0.confirm: nothing fills {who} here" in str(error.value)
