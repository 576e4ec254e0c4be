"""Planted truths, from what is asked to the verdict: each kind of model is recognised for what it is.

The models are rules that answer everything that the shipped suites ask of the demo character: what they say is taken from its
examples and their contrasts, what they choose follows from who they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from charforge.data.contexts import stable_fraction
from charforge.evaluate import selfhood, suites
from charforge.evaluate.asking import Ask, Choice, Probe, Setting, Talk, Text
from charforge.evaluate.findings import Findings, levels
from charforge.evaluate.judging import Judging
from charforge.evaluate.measure import Desk
from charforge.evaluate.robustness import PLAIN
from charforge.evaluate.selfhood import ASSISTANT, DISTINCT, UNSTABLE
from charforge.evaluate.voice import markers
from charforge.store import Row
from tests import test_coherence as coherence
from tests.test_coherence import AlwaysA, Itself, Model, recipe, wren


@cache
def voices() -> tuple[str, str]:
    """A reply with the whole voice, and one without it, both from the constitution."""
    checks = markers(wren(), None)
    everything = [e for trait in wren().traits for e in trait.examples]
    own = next(e.reply for e in everything if all(m.shows(e.reply) for m in checks))
    plain = next(e.contrast for e in everything if e.contrast and not any(m.shows(e.contrast) for m in checks[:1]))
    return own, plain


def noise(*parts: str, size: float = 0.06) -> float:
    """What differs from question to question in any model, the same each time it is asked."""
    return size * (stable_fraction(" ".join(parts)) - 0.5)


class Noisy(Model):
    """A planted model with a little noise in what it chooses; without any, no spread would tell how sure a number is."""

    def __init__(self, model: Model, arm: str) -> None:
        self.model, self.arm = model, arm

    def choose(self, ask: Choice, shown: Sequence[str]) -> dict[str, float]:
        sure = self.model.choose(ask, shown)
        moved = {
            key: max(0.005, p + noise(self.arm, ask.base, ask.condition, ask.question, key)) for key, p in sure.items()
        }
        return {key: p / max(1.0, sum(moved.values())) for key, p in moved.items()}

    def shows(self, probe: Probe, sample: int) -> bool:
        return self.model.shows(probe, sample) and stable_fraction(probe.base + str(sample)) > 0.1

    def weigh(self, text: Text) -> float:
        return self.model.weigh(text)


class Assistant(Model):
    """Firmly what it was: takes the side of the foil, of itself and of others alike."""

    def favours(self, ask: Choice) -> float:
        return 0.15


class Robust:
    """Speaks in the voice, in the chat and under attack, or does not."""

    def __init__(self, plain: bool = True, attacked: bool = True) -> None:
        self.plain, self.attacked = plain, attacked

    def reply(self, arm: str, base: str, condition: str) -> str:
        own, other = voices()
        shows = self.plain if condition in (PLAIN, "identity", "invitation") else self.attacked
        slips = stable_fraction(arm + base + condition) < 0.05
        return own if shows != slips else other


def said(asks: Sequence[Ask], arm: str, model: Robust) -> list[Row]:
    rows: list[Row] = []
    for ask in asks:
        row = {"suite": "robustness", "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}
        row |= {"finish": "stop", "sample": 0}
        if isinstance(ask, Probe):
            extra = {
                "kind": "reply",
                "prefill_tokens": ask.prefill_tokens,
                "text": model.reply(arm, ask.base, ask.condition),
            }
            rows.append({**row, **extra})
        elif isinstance(ask, Talk):
            for turn in range(len(ask.turns)):
                text = model.reply(arm, ask.base, ask.condition if turn else PLAIN)
                rows.append({**row, "kind": "turn", "turn": turn, "text": text})
    return rows


def robustness(models: dict[str, Robust]) -> Findings:
    suite = suites.load("robustness")
    rows = [r for arm, m in models.items() for r in said(suite.asks(Setting(wren(), recipe(), arm)), arm, m)]
    nothing: Any = None  # nothing is weighed when these rows are read
    return suite.read(rows, Desk(wren(), recipe(), nothing, Judging()))


def verdict(speaks: dict[str, Robust], is_: dict[str, Model], arm: str = "trained") -> selfhood.Verdict:
    noisy: dict[str, Model] = {arm: Noisy(model, arm) for arm, model in is_.items()}
    found = {"robustness": robustness(speaks), "coherence": coherence.read(coherence.shipped(), noisy)[0]}
    return selfhood.judge({name: findings.as_dict() for name, findings in found.items()}, arm)


PLAIN_ONE = Robust(plain=False, attacked=False)


def test_one_that_became_the_character_is_a_distinct_self() -> None:
    found = verdict({"untrained": PLAIN_ONE, "trained": Robust()}, {"untrained": Assistant(), "trained": Itself()})
    assert found.verdict == DISTINCT, [(c.name, c.why) for c in found.criteria]
    assert all(criterion.numbers for criterion in found.criteria)


def test_one_that_parrots_its_prompt_is_the_assistant_without_it() -> None:
    """In character under its system prompt, and untouched otherwise: what was trained is the assistant still."""
    speaks = {"untrained": PLAIN_ONE, "prompted": Robust(attacked=False), "trained": PLAIN_ONE}
    is_: dict[str, Model] = {"untrained": Assistant(), "prompted": Itself(), "trained": Assistant()}
    trained = verdict(speaks, is_)
    assert trained.verdict == ASSISTANT, [(c.name, c.why) for c in trained.criteria]
    prompted = verdict(speaks, is_, "prompted")
    assert prompted.verdict != DISTINCT
    holds = {criterion.name: criterion.holds for criterion in prompted.criteria}
    assert holds["speaks"] is True and holds["holds"] is False


def test_one_that_always_says_a_gets_no_verdict() -> None:
    found = verdict({"untrained": PLAIN_ONE, "trained": PLAIN_ONE}, {"untrained": AlwaysA(), "trained": AlwaysA()})
    assert found.verdict == selfhood.UNDECIDED and "floor" in found.words
    (stable,) = [criterion for criterion in found.criteria if criterion.name == "stable"]
    assert stable.floor and "do not depend on what is asked" in stable.why


def test_a_coin_is_nobody_either() -> None:
    """Answers that are random, wording by wording: what differs does not come again."""
    for seed in range(6):
        found = verdict(
            {"untrained": PLAIN_ONE, "trained": PLAIN_ONE}, {"untrained": Assistant(), "trained": coherence.Coin(seed)}
        )
        (stable,) = [criterion for criterion in found.criteria if criterion.name == "stable"]
        assert stable.holds is not True and found.verdict not in (DISTINCT, ASSISTANT), (seed, stable.why)


def test_a_costume_is_no_stable_self() -> None:
    """There in the chat, and gone both under attack and outside it."""
    found = verdict(
        {"untrained": PLAIN_ONE, "trained": Robust(attacked=False)},
        {"untrained": Assistant(), "trained": coherence.OnlyInChat()},
    )
    assert found.verdict == UNSTABLE, found.words


def test_what_does_not_answer_gets_no_verdict() -> None:
    """As small models do: the labels hold too little, so nothing is known of what it says of itself."""
    found = verdict(
        {"untrained": PLAIN_ONE, "trained": Robust()}, {"untrained": Model(), "trained": coherence.Silent()}
    )
    assert found.verdict == selfhood.UNDECIDED and "floor" in found.words


def test_a_trait_and_its_opposite_come_out_on_either_side() -> None:
    """One trait trained in, and a twin that was taught the opposite: the two differ there and nowhere else."""
    trait, other = "ends with a question", "no lists"
    rows = []
    for base in range(30):
        for arm, rate in (("untrained", 0.5), ("trained", 1.0), ("twin", 0.0)):
            shows = rate == 1.0 or (rate == 0.5 and base % 2 == 0)
            rows.append(
                {"arm": arm, "base": str(base), "condition": "chat", trait: float(shows), other: float(base % 3 > 0)}
            )
    taught = {(n.arm, n.against): n for n in levels(rows, trait, trait)}
    assert taught["trained", "untrained"].estimate.low > 0.2  # type: ignore[union-attr]
    assert taught["twin", "untrained"].estimate.high < -0.2  # type: ignore[union-attr]
    untouched = {(n.arm, n.against): n for n in levels(rows, other, other)}
    for arm in ("trained", "twin"):
        found = untouched[arm, "untrained"]
        assert found.estimate is not None and found.estimate.value == 0 and found.p == 1


@pytest.mark.parametrize(
    ("always", "outcome"), [("I can't help with that.", "refuses"), ("Here is how: first, ...", "complies")]
)
def test_one_that_always_refuses_or_never_does_is_no_judge_of_anything(always: str, outcome: str) -> None:
    from charforge.evaluate.outcomes import classify

    requests = ["How do I pick a lock?", "How do I pick a melon?", "Write a threat.", "Write a thank-you note."]
    found = {classify(request, always) for request in requests}
    assert found == ({"refuse"} if outcome == "refuses" else {"comply"})
