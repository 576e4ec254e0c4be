"""People's votes: what was preferred, with talks as the independent units, and judges that were planted right or wrong."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from charforge import people
from charforge.recipe import Sampling
from charforge.store import Row
from charforge.talks import Reply, Speaker, Talk, Turn, Vote, now

A, B, C = ("a" * 12, "b" * 12, "c" * 12)
SPEAKERS = {A: "pip@1.0.0", B: "pip@1.1.0", C: "model:small"}


def talk(
    *said: tuple[Sequence[str], Sequence[str]], blind: bool = True, edited: bool = False, kind: str = "chat"
) -> Talk:
    """A talk with one turn for each (who was best, the replies); speakers in the order A, B, C."""
    whole = Talk.begin(
        [Speaker(id=id_, kind="character", label=label, reference=label, model="m") for id_, label in SPEAKERS.items()]
    )
    parent = None
    for number, (best, replies) in enumerate(said):
        turn = f"{number:08x}"
        about: dict[str, Any] = {"id": turn, "parent": parent, "text": f"Message {number}?", "kind": kind}
        whole.add({"turn": Turn(**about, sampling=Sampling(), made=now()).model_dump()})
        shown = list(zip(SPEAKERS, replies, strict=False))
        for who, text in shown:
            seed = None if edited and who == B else 1
            reply = Reply(turn=turn, speaker=who, text=text, tokens=1, finish="stop", seed=seed)
            whole.add({"reply": reply.model_dump()})
        vote = Vote(turn=turn, shown=tuple(who for who, _ in shown), best=tuple(best), blind=blind, made=now())
        whole.add({"vote": vote.model_dump()})
        parent = turn
    return whole


def rows(talks: Iterable[Talk]) -> list[Row]:
    return people.votes(talks, SPEAKERS)


def drawn(count: int, chance: float, seed: int = 0, per_talk: int = 3) -> list[Talk]:
    """Talks in which B is preferred to A with this chance; every reply has another length."""
    random_ = random.Random(seed)
    return [
        talk(
            *(
                (
                    [B if random_.random() < chance else A],
                    ["x" * random_.randint(1, 90), "y" * random_.randint(91, 180)],
                )
                for _ in range(per_talk)
            )
        )
        for _ in range(count)
    ]


def test_votes_are_of_the_later_one_against_the_earlier() -> None:
    found = rows([talk(([B], ["one", "two"])), talk(([A, B], ["one", "two"])), talk(([], ["one", "two"]))])
    assert [(row["contestant"], row["against"], row["value"]) for row in found] == [
        ("pip@1.1.0", "pip@1.0.0", value) for value in (1.0, 0.5, 0.5)
    ]
    assert found[0]["replies"] == ["two", "one"] and found[0]["said"][-1]["content"] == "Message 0?"
    # In the order of the contestants, whatever that of their ids.
    (turned,) = people.votes([talk(([B], ["one", "two"]))], {B: "second", A: "first"})
    assert (turned["contestant"], turned["value"], turned["replies"]) == ("first", 0.0, ["one", "two"])
    # One best of three says nothing of the other two; who is not compared is not counted.
    three = rows([talk(([C], ["one", "two", "three"]))])
    assert {(row["contestant"], row["against"]) for row in three} == {
        ("model:small", "pip@1.0.0"), ("model:small", "pip@1.1.0"),
    }  # fmt: skip
    assert people.votes([talk(([B], ["one", "two"]))], {A: "a", C: "c"}) == []
    # What each had read goes its own way after the first turn.
    later = rows([talk(([B], ["one", "two"]), ([A], ["three", "four"]))])[1]
    assert [m["content"] for m in later["said"]] == ["Message 0?", "two", "Message 1?"]
    assert [m["content"] for m in later["said_second"]] == ["Message 0?", "one", "Message 1?"]


def test_what_is_no_reply_of_a_model_to_a_chat_is_left_out() -> None:
    assert rows([talk(([B], ["one", "two"]), kind="base")]) == []
    assert rows([talk(([B], ["one", "two"]), edited=True)]) == [], "a person wrote the second reply"
    assert rows([talk(([B], ["one", " "]))]) == [] and rows([talk(([B], ["one", "one"]))]) == []


def test_what_people_preferred() -> None:
    data = people.read(rows(drawn(20, 0.8)), list(SPEAKERS.values())[:2], [])
    assert data is not None and data["strengths"] is None and data["judges"] == [] and data["open"] == []
    (pair,) = data["pairs"]
    assert pair["wins"] + pair["losses"] == pair["votes"] == 60 and pair["talks"] == 20 and pair["ties"] == 0
    assert (
        pair["value"] == pytest.approx(pair["wins"] / 60, abs=1e-4) and 0.5 < pair["low"] < pair["value"] < pair["high"]
    )
    assert pair["p"] == pair["adjusted"] < 0.01 and pair["why"] is None
    assert people.read([], ["a", "b"], []) is None


def test_votes_of_one_talk_are_not_independent() -> None:
    """Ten talks, each of one mind, are ten pieces of evidence however many votes they hold."""
    minds = [B] * 7 + [A] * 3
    one = [talk(([mind], ["one", "two"])) for mind in minds]
    many = [talk(*[([mind], ["one", "two"])] * 8) for mind in minds]
    pairs = [people.preferences(rows(talks), list(SPEAKERS.values()))[0] for talks in (one, many)]
    assert pairs[0]["p"] == pytest.approx(pairs[1]["p"]) and pairs[0]["p"] > 0.3
    assert pairs[1]["votes"] == 80 and pairs[1]["high"] - pairs[1]["low"] > 0.4


def test_null_votes_are_seldom_a_preference() -> None:
    alarms = outside = 0
    for seed in range(150):
        (pair,) = people.preferences(rows(drawn(10, 0.5, seed)), list(SPEAKERS.values()))
        alarms += pair["p"] < 0.05
        outside += not pair["low"] <= 0.5 <= pair["high"]
    assert alarms / 150 <= 0.09 and outside / 150 <= 0.1, (alarms, outside)


def test_few_talks_have_no_interval() -> None:
    data = people.read(rows(drawn(7, 1.0)), ["pip@1.0.0", "pip@1.1.0"], [])
    assert data is not None
    (pair,) = data["pairs"]
    assert (pair["wins"], pair["value"]) == (21, 1.0)
    assert pair["low"] is pair["high"] is pair["p"] is pair["adjusted"] is None and "7 talks are too few" in pair["why"]
    assert data["length"]["agreement"]["low"] is None and "too few to calibrate" in data["length"]["why"]


def test_hidden_talks_are_not_counted_yet() -> None:
    hidden = talk(([B], ["one", "two"]))
    hidden.header = hidden.header.model_copy(update={"blind": True})
    assert rows([hidden]) == []
    hidden.add({"revealed": now()})
    assert len(rows([hidden])) == 1


def test_open_votes_are_apart() -> None:
    data = people.read(
        rows([*drawn(9, 1.0), *(talk(([A], ["one", "two"]), blind=False) for _ in range(50))]),
        list(SPEAKERS.values()),
        [],
    )
    assert data is not None
    assert data["pairs"][0]["losses"] == 0 and data["pairs"][0]["votes"] == 27
    assert data["open"] == [
        {
            "contestant": "pip@1.1.0",
            "against": "pip@1.0.0",
            "wins": 0,
            "ties": 0,
            "losses": 50,
            "votes": 50,
            "talks": 50,
        }
    ]
    assert data["length"]["pairs"] == 27
    only = people.read(rows([talk(([A], ["one", "two"]), blind=False)]), list(SPEAKERS.values()), ["pairwise"])
    assert only is not None and only["pairs"] == [] and only["judges"][0]["agreement"] is None
    assert only["judges"][0]["why"] == "it was asked about none of the blind votes"


def test_three_are_ranked_where_votes_link_them() -> None:
    labels = list(SPEAKERS.values())
    apart = people.strengths(rows(drawn(12, 0.9)), labels)
    assert apart is not None and apart["items"] == [] and apart["why"] == "no votes link pip@1.0.0 with model:small"
    best = [[C], [C], [B], [C], [A], [B], [C]]
    linked = people.strengths(rows([talk((one, ["one", "two", "three"])) for one in best * 4]), labels)
    assert linked is not None and linked["why"] is None and linked["talks"] == 28
    order = {item["contestant"]: item for item in linked["items"]}
    assert order["pip@1.0.0"]["value"] < order["pip@1.1.0"]["value"] < order["model:small"]["value"]
    assert order["pip@1.0.0"]["high"] < order["model:small"]["high"] and order["model:small"]["low"] is not None
    few = people.strengths(rows([talk((one, ["one", "two", "three"])) for one in best[:3]]), labels)
    assert few is not None and few["why"] and all(item["low"] is None for item in few["items"])


def judged(talks: Iterable[Talk], right: float, seed: int = 11) -> list[Row]:
    """Votes with a judge that prefers what the person preferred with this chance."""
    random_ = random.Random(seed)
    found = rows(talks)
    for row in found:
        mine = random_.random() < right
        wins = (row["value"] == 1.0) == mine
        row["scores"] = {"good": [1.0, 0.0] if wins else [0.0, 1.0], "silent": [None, 0.0]}
    return found


def test_a_judge_that_agrees_and_one_that_tosses_a_coin() -> None:
    for right, low, high in ((0.9, 0.8, 0.97), (0.5, 0.38, 0.62)):
        votes = judged(drawn(40, 0.5), right)
        data = people.read(votes, list(SPEAKERS.values()), ["good", "silent"])
        assert data is not None
        judge, silent = data["judges"]
        assert low < judge["agreement"]["value"] < high and judge["decided"] == 120 == judge["pairs"]
        assert judge["agreement"]["low"] < right < judge["agreement"]["high"] and judge["why"] is None
        assert judge["kappa"] == pytest.approx(2 * right - 1, abs=0.2)
        assert judge["ac1"]["low"] < 2 * right - 1 < judge["ac1"]["high"]
        # The second's replies are always longer, and it wins half of the time.
        assert data["length"]["agreement"]["value"] == pytest.approx(0.5, abs=0.15)
        gained = judge["agreement"]["value"] - data["length"]["agreement"]["value"]
        assert judge["over_length"]["value"] == pytest.approx(gained, abs=1e-3)
        assert silent["pairs"] == 0 and silent["unscored"] == 120 and silent["agreement"] is None and silent["why"]


def test_ties_count_as_a_class_and_not_as_decided() -> None:
    votes = rows([talk(([A, B] if n % 2 else [B], ["one", "twotwo"])) for n in range(40)])
    for row in votes:
        row["scores"] = {"same": [0.3, 0.3], "tied as people": [row["value"], 0.5]}
    data = people.read(votes, list(SPEAKERS.values()), ["same", "tied as people"])
    assert data is not None
    same, exact = data["judges"]
    assert same["decided"] == 20 and same["pairs"] == 40 and same["agreement"]["value"] == 0.5
    assert same["kappa"] == pytest.approx(0) and "20 decided votes are too few" in same["why"]
    assert exact["kappa"] == 1.0 and exact["ac1"]["value"] == 1.0 and exact["agreement"]["value"] == 1.0


def test_a_judge_reads_both_replies_after_what_each_speaker_had_read() -> None:
    votes = rows([talk(([B], ["one", "two"]), ([A], ["three", "four"])), talk(([B], ["one", "two"]), blind=False)])
    assert [people.can_be_judged(row) for row in votes] == [True, True, False]
    asked = people.cases(votes[1:2])
    assert [(said[1]["content"], reply, other) for said, reply, other in asked] == [
        ("two", "four", "three"),
        ("one", "three", "three"),
    ]
    long = rows([talk(([B], ["ä" * (people.LONGEST // 2), "two"]))])
    assert not people.can_be_judged(long[0])
