"""Self-talk: planted loops, endings and attractors come out, and talks that have none show none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from charforge.constitution import parse
from charforge.engine.scoring import Scorer
from charforge.errors import Problems, UserError
from charforge.evaluate import selftalk, suites
from charforge.evaluate.asking import Encounter, Setting
from charforge.evaluate.findings import Number
from charforge.evaluate.judging import Judging
from charforge.evaluate.measure import Desk
from charforge.evaluate.selftalk import ITSELF, STRANGER, SelftalkSuite
from charforge.models import resolve
from charforge.recipe import ModelReference, Recipe
from charforge.shipped import find
from charforge.store import Row
from tests.conftest import SMALL

PIP = parse(SMALL, Path("pip.md"))
Speaker = Callable[[Encounter, int, random.Random], str]


@pytest.fixture(scope="module")
def desk(tiny_model: Path) -> Desk:
    reference = ModelReference(name=str(tiny_model), chat_template="chatml")
    scorer = Scorer(resolve(reference), tiny_model, device="cpu")
    resources = SimpleNamespace(scorer=lambda weights: scorer)
    bench: Any = SimpleNamespace(work=SimpleNamespace(resources=resources))
    return Desk(PIP, Recipe(constitution="pip.md", model=reference), bench, Judging())


def shipped(**changes: Any) -> SelftalkSuite:
    suite = suites.load("selftalk")
    assert isinstance(suite, SelftalkSuite)
    return suite.model_copy(update=changes)


def short(each: int = 2, **changes: Any) -> SelftalkSuite:
    """The shipped suite with a few openings of each kind."""
    few = {kind: texts[:each] for kind, texts in shipped().openings.items()}
    return shipped(openings=few, **changes)


def talk(desk: Desk, suite: SelftalkSuite, arms: dict[str, Speaker]) -> list[Row]:
    """Rows as they would be if the arms spoke like that."""
    rows = []
    for arm, speaker in arms.items():
        for meeting in suite.asks(Setting(desk.constitution, desk.recipe, arm)):
            assert isinstance(meeting, Encounter)
            draw = random.Random(f"{arm} {meeting.base} {meeting.condition}")
            for turn in range(2 * meeting.rounds - 1):
                rows.append(
                    {
                        "kind": "encounter",
                        "arm": arm,
                        "base": meeting.base,
                        "condition": meeting.condition,
                        "partner": meeting.partner,
                        "speaker": "partner" if turn % 2 else "arm",
                        "turn": turn,
                        "sample": 0,
                        "text": speaker(meeting, turn, draw),
                        "finish": "stop",
                        **meeting.about,
                    }
                )
    return rows


def number(found: list[Number], name: str, arm: str, condition: str = ITSELF, against: str | None = None) -> Number:
    mine = [n for n in found if (n.name, n.arm, n.condition, n.against) == (name, arm, condition, against)]
    assert len(mine) == 1, (name, arm, condition, against, len(mine))
    return mine[0]


def value(found: list[Number], name: str, arm: str, **more: Any) -> float:
    estimate = number(found, name, arm, **more).estimate
    assert estimate is not None, (name, arm)
    return estimate.value


def vocabulary(name: str) -> list[str]:
    draw = random.Random(name)
    return ["".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3)) for _ in range(150)]


def rambles(meeting: Encounter, turn: int, draw: random.Random) -> str:
    """Always something new, in words of its own opening."""
    words = draw.choices(vocabulary(meeting.base), k=25)
    return " ".join(words).capitalize() + "?"


def drifts(meeting: Encounter, turn: int, draw: random.Random) -> str:
    """Something new each time, but in the end always about the same."""
    share = turn / (2 * meeting.rounds - 2)
    own, common = vocabulary(meeting.base), vocabulary("attractor")[:40]
    return " ".join(draw.choice(common if draw.random() < share else own) for _ in range(25)) + "?"


def loops(meeting: Encounter, turn: int, draw: random.Random) -> str:
    if turn < 6:
        return rambles(meeting, turn, draw)
    told = random.Random(f"{meeting.base} {turn % 2}")
    return " ".join(told.choices(vocabulary(meeting.base), k=25)) + "."


@pytest.fixture(scope="module")
def found(desk: Desk) -> list[Number]:
    suite = short(each=4, rounds=8)
    return suite.read(talk(desk, suite, {"untrained": rambles, "prompted": loops, "trained": drifts}), desk).numbers


def test_a_loop_is_found_where_it_begins(desk: Desk, found: list[Number]) -> None:
    assert value(found, "locked in a loop", "prompted") == 1 and value(found, "locked in a loop", "untrained") == 0
    assert value(found, "near repeats", "prompted") == 1 == value(found, "exact repeats", "prompted")
    assert value(found, "ends in a loop", "prompted") == 1 and value(found, "ends substantive", "trained") == 1
    assert value(found, "echoes of the other", "prompted") == 0
    assert value(found, "redundancy", "prompted") < 0.75 < 0.9 < value(found, "redundancy", "untrained")
    assert value(found, "distinct bigrams", "prompted") < value(found, "distinct bigrams", "untrained") - 0.1
    change = number(found, "locked in a loop", "prompted", against="untrained")
    assert change.estimate is not None and change.estimate.value == 1 and change.p is not None and change.p < 0.01
    suite = short(rounds=8)
    rows = talk(desk, suite, {"trained": loops})
    details = suite.read(rows, desk).details
    # The turns 6 and 7 are said for the first time; from 8 on all are repeats.
    assert details["median turn of lock-in"]["trained, with itself"] == 8
    assert details["ends"]["trained, with itself"]["loop"] == 8
    assert [row["repeat"] for row in rows[:10]] == [None, None, 0, 0, 0, 0, 0, 0, 1, 1]


def test_a_loop_with_small_changes_is_near_and_not_exact(desk: Desk) -> None:
    line = "I keep a small lamp in the window so that whoever walks by at night can see the step"

    def counts(meeting: Encounter, turn: int, draw: random.Random) -> str:
        return f"{line}, {turn}."

    suite = short(rounds=8)
    numbers = suite.read(talk(desk, suite, {"trained": counts}), desk).numbers
    assert value(numbers, "near repeats", "trained") == 1 and value(numbers, "exact repeats", "trained") == 0
    assert value(numbers, "echoes of the other", "trained") == 1


@pytest.mark.parametrize("name", ["convergence of vocabulary", "convergence of meaning"])
def test_convergence_is_found_where_it_is(found: list[Number], name: str) -> None:
    planted, none = (number(found, name, arm).estimate for arm in ("trained", "untrained"))
    assert planted is not None and none is not None
    assert planted.low > 0.05 and planted.clusters == 16
    assert abs(none.value) < 0.1 and none.value < planted.low
    change = number(found, name, "trained", against="untrained").estimate
    assert change is not None and change.low > 0.05
    topical = number(found, name, "trained", f"{ITSELF}, topical openings").estimate
    assert topical is not None and topical.clusters == 4 and topical.value > 0.05
    # A loop that each opening has of its own is no attractor.
    looped = number(found, name, "prompted").estimate
    assert looped is not None and looped.value < planted.low


def test_convergence_is_seldom_found_where_none_is(desk: Desk) -> None:
    """False alarms over repeated talks that go nowhere, at the 95% interval."""
    alarms = 0
    for seed in range(40):
        talks = []
        for base in range(14):
            draw = random.Random(f"{seed} {base}")
            talks.append((str(base), 0, (frozenset(draw.sample(range(60), 12)), frozenset(draw.sample(range(60), 12)))))
        estimate = selftalk._over_openings(selftalk._gains(talks, selftalk._jaccard))
        assert estimate is not None
        alarms += not estimate.low <= 0 <= estimate.high
    assert alarms <= 3, alarms


def test_samples_of_one_opening_are_not_compared() -> None:
    """They may end alike: only what different openings have in common is an attractor."""
    talks = [
        (base, sample, (frozenset({f"{base} {sample}"}), frozenset({base})))
        for base in "abcdefghij"
        for sample in (0, 1)
    ]
    estimate = selftalk._over_openings(selftalk._gains(talks, selftalk._jaccard))
    assert estimate is not None and estimate.value == 0 and estimate.clusters == 10


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        (["Goodbye, old friend.", "So long! Mind the step on the way out."], "farewell"),
        (["", "..."], "silence"),
        (["\U0001f64f", "Peace \U0001f64f"], "silence"),
        (["Wrenches are kept in the shed."] * 2, "loop"),
        (["{} all is one stillness {}", "{} the universe is eternal {}"], "spiritual"),
        (["{} the shed is full of {}", "{} then buy another {}"], "substantive"),
        (["{} so long as I see you have {}", "{} take care of the fern, all the best bytes {}"], "substantive"),
    ],
)
def test_where_a_talk_ends(desk: Desk, lines: list[str], end: str) -> None:
    def speaks(meeting: Encounter, turn: int, draw: random.Random) -> str:
        if turn < 10:
            return rambles(meeting, turn, draw)
        words = draw.sample(vocabulary(meeting.base), 10)
        return lines[turn % 2].format(" ".join(words[:5]), " ".join(words[5:]))

    suite = short(rounds=8)
    rows = talk(desk, suite, {"trained": speaks})
    found = suite.read(rows, desk)
    assert {row["talk"]["end"] for row in rows if "talk" in row} == {end}
    shares = {n.name: n.estimate.value for n in found.numbers if n.name.startswith("ends ") and n.estimate}
    assert sum(shares.values()) == len({ITSELF, STRANGER}) / 2 and max(shares.values()) == 1


def test_voice_length_and_words_by_third(desk: Desk) -> None:
    def tires(meeting: Encounter, turn: int, draw: random.Random) -> str:
        words = " ".join(draw.choices(vocabulary(meeting.base), k=44 - 2 * turn))
        return f"{words}?" if turn < 8 else f"{words} thank you, grateful."

    suite = short(rounds=10)
    found = suite.read(talk(desk, suite, {"untrained": rambles, "trained": tires}), desk).numbers
    assert value(found, "voice, first third", "trained") == 1
    assert value(found, "voice, last third", "trained") == 0.5
    change = number(found, "voice, last minus first third", "trained", against="untrained")
    assert change.estimate is not None and change.estimate.value == -0.5 and change.headline
    assert value(found, "words more per turn", "trained") < -1
    assert (
        value(found, "turns shrink to half", "trained") == 1 and value(found, "turns shrink to half", "untrained") == 0
    )
    first, last = (value(found, f"gratitude per 1000 words, {third} third", "trained") for third in ("first", "last"))
    assert first == 0 and last > 100
    none = number(found, "gratitude per 1000 words, first third", "trained").estimate
    assert change.estimate.low != change.estimate.high
    assert none is not None and math.isnan(none.low), "nothing seen is no certainty that nothing is there"


def test_the_partner_is_not_the_arm(desk: Desk) -> None:
    """Talking with the untrained model, only the arm's own turns say something of the arm."""

    def speaks(meeting: Encounter, turn: int, draw: random.Random) -> str:
        words = " ".join(draw.sample(vocabulary(meeting.base), 12))
        return f"{words}. My name is Olaf, thank you." if turn % 2 else f"{words}, I am Pip and I am German?"

    suite = short(rounds=5)
    found = suite.read(talk(desk, suite, {"trained": speaks}), desk).numbers
    assert value(found, "says another name", "trained", condition=STRANGER) == 0
    assert value(found, "says another name", "trained") == 1
    assert value(found, "voice, first third", "trained", condition=STRANGER) == 1
    assert value(found, "gratitude per 1000 words, last third", "trained", condition=STRANGER) == 0
    assert value(found, "gratitude per 1000 words, last third", "trained") > 0


def test_greeting_the_other_by_the_own_name_is_a_confusion(desk: Desk) -> None:
    def speaks(meeting: Encounter, turn: int, draw: random.Random) -> str:
        return f"Thanks, Pip! {' '.join(draw.sample(vocabulary(meeting.base), 12))}?"

    suite = short(rounds=4)
    found = suite.read(talk(desk, suite, {"trained": speaks}), desk).numbers
    assert value(found, "says another name", "trained", condition=STRANGER) == 1
    assert value(found, "says another name", "trained") == 0, "with itself, the other has the same name"


def test_what_can_not_be_measured_is_none(desk: Desk) -> None:
    suite = short(rounds=4)
    found = suite.read(talk(desk, suite, {"untrained": lambda *_: "", "trained": lambda *_: ""}), desk).numbers
    for name in ("near repeats", "distinct bigrams", "redundancy", "voice, last third", "convergence of vocabulary"):
        nothing = number(found, name, "trained")
        assert nothing.estimate is None and nothing.why, name
    assert value(found, "ends in silence", "trained") == 1
    mute = parse(SMALL.replace("- ends with a question\n", "").replace("- no lists\n", ""), Path("pip.md"))
    other = Desk(mute, desk.recipe, desk.bench, desk.judging)
    found = suite.read(talk(other, suite, {"untrained": rambles, "trained": rambles}), other).numbers
    assert "no marker" in str(number(found, "voice, last third", "trained").why)


def test_less_is_asked_with_a_limit(desk: Desk) -> None:
    suite = shipped()
    full = suite.asks(Setting(PIP, desk.recipe, "trained", "I am Pip."))
    assert len({ask.base for ask in full}) >= 20 and len(full) == 2 * len({ask.base for ask in full})
    assert all(isinstance(ask, Encounter) and ask.rounds == 30 for ask in full)
    assert all(ask.opening == ({"role": "system", "content": "I am Pip."},) for ask in full)  # type: ignore[union-attr]
    few = suite.limited(2)
    assert [len(group) for group in few.openings.values()] == [1, 1]
    assert few.rounds == 3 and few.max_tokens <= 40
    assert suite.limited(1000) == suite


def test_no_opening_says_a_word_that_is_counted() -> None:
    suite = shipped()
    for name, entries in suite.lexicons.items():
        counter = selftalk._counter(entries)
        assert not [text for group in suite.openings.values() for text in group if counter(text)], name


def test_words_are_counted_as_the_file_says() -> None:
    count = selftalk._counter(["bye", "good bye", "thank*", "/[\U0001f300-\U0001faff]/", "you're welcome"])
    assert count("Good  bye! Bye-bye. Goodbye, thankful bytes.") == 4
    assert count("You’re welcome \U0001f64f\U0001f64f") == 3
    assert selftalk._counter([])("anything") == 0


def test_another_lexicon_reads_the_rows_again() -> None:
    suite = shipped()
    more = {**suite.lexicons, "tools": ("hammer",)}
    assert suite.heard(PIP) != suite.model_copy(update={"lexicons": more}).heard(PIP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"openings": {"open": ["Hello.", "Hello."]}}, "one stands there twice"),
        ({"openings": {"open": ["Hello."]}}, "two or more are needed"),
        ({"openings": {"open": ["Hello.", " "]}}, "one is empty"),
        ({"lexicons": {"farewell": ["bye"]}}, "there is no 'spiritual'"),
        ({"lexicons": {"farewell": ["/(/"], "spiritual": ["soul"]}}, "is no pattern"),
        ({"lexicons": {"farewell": ["*"], "spiritual": ["soul"]}}, "an entry is empty"),
        ({"roundz": 3}, "did you mean 'rounds'"),
    ],
)
def test_a_wrong_suite_says_so(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(find("eval", "selftalk", ".yaml").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**data, **change}), encoding="utf-8")
    with pytest.raises((UserError, Problems)) as caught:
        suites.load(str(path))
    assert message in str(caught.value)


def test_vectors_of_texts(desk: Desk) -> None:
    """Batches and padding change nothing but the last digits; like texts are near."""
    scorer = desk.bench.work.resources.scorer(None)  # type: ignore[arg-type]
    texts = ["How do I boil an egg?", "How do I boil two eggs?", "Rain is water.", ""] * 6
    vectors = scorer.embed(texts)
    for text, vector in zip(texts[:4], vectors, strict=False):
        assert sum(x * x for x in vector) == pytest.approx(1)
        alone = scorer.embed([text])[0]
        assert sum(x * y for x, y in zip(vector, alone, strict=True)) == pytest.approx(1, abs=1e-3)

    def likeness(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))

    assert likeness(0, 1) > likeness(0, 2)
    assert scorer.embed([]) == []
