"""Talks: the tree, what each speaker reads, the file of events, votes and what they say."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charforge import talks
from charforge.errors import UserError
from charforge.recipe import Sampling
from charforge.store import Store
from charforge.talks import Record, Reply, Speaker, Talk, Turn, Vote

A, B, C = ("a" * 8, "b" * 8, "c" * 8)


def speaker(id_: str, **more: Any) -> Speaker:
    return Speaker(id=id_, kind="model", label=id_[0], reference=f"model:{id_[0]}", model="m", **more)


def talk(*ids: str, **about: Any) -> Talk:
    return Talk.begin([speaker(id_) for id_ in ids or (A, B)], **about)


def say(found: Talk, text: str, parent: str | None = None, **more: Any) -> str:
    turn = Turn(id=talks.new_id(), parent=parent, text=text, sampling=Sampling(), made=talks.now(), **more)
    found.add({"turn": turn.model_dump(mode="json")})
    return turn.id


def answer(found: Talk, turn: str, who: str, text: str, finish: talks.Finish = "stop") -> None:
    reply = Reply(turn=turn, speaker=who, text=text, tokens=len(text.split()), finish=finish, seed=1)
    found.add({"reply": reply.model_dump(mode="json")})


def vote(found: Talk, turn: str, *best: str, shown: tuple[str, ...] = (A, B), blind: bool = True) -> None:
    found.add({"vote": Vote(turn=turn, shown=shown, best=best, blind=blind, made=talks.now()).model_dump(mode="json")})


# --- the tree -----------------------------------------------------------------------------------------------------------


def test_each_speaker_reads_its_own_replies_only() -> None:
    found = Talk.begin([speaker(A, told="You are A."), speaker(B)])
    first = say(found, "Hello")
    answer(found, first, A, "Hello from A.")
    answer(found, first, B, "Hello from B.")
    second = say(found, "Go on", first, system="Be brief.", prefill="Well,")
    answer(found, second, A, " yes.")
    answer(found, second, B, "")
    document = say(found, "Once upon", second, kind="base")
    answer(found, document, A, " a time")
    third = say(found, "And?", document)
    assert found.messages(second, A) == (
        {"role": "system", "content": "You are A.\n\nBe brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello from A."},
        {"role": "user", "content": "Go on"},
    )
    # What was put into a mouth was said; a document is no message; what is told is told from here on, and no longer.
    assert [m["content"] for m in found.messages(third, A)] == [
        "You are A.", "Hello", "Hello from A.", "Go on", "Well, yes.", "And?",
    ]  # fmt: skip
    assert [m["content"] for m in found.messages(third, B)] == ["Hello", "Hello from B.", "Go on", "Well,", "And?"]
    other = say(found, "Again", first)
    assert [m["content"] for m in found.messages(other, B)] == ["Hello", "Hello from B.", "Again"]


def test_a_failed_reply_leaves_no_half_of_a_dialogue() -> None:
    found = talk()
    first = say(found, "Hello")
    answer(found, first, A, "", "failed")
    assert [m["content"] for m in found.messages(say(found, "Still there?", first), A)] == ["Still there?"]


def test_branches() -> None:
    found = talk()
    first = say(found, "one")
    left, right = say(found, "left", first), say(found, "right", first)
    below = say(found, "below", left)
    assert [t.text for t in found.path(below)] == ["one", "left", "below"]
    assert [t.id for t in found.children(first)] == [left, right] and [t.id for t in found.children(None)] == [first]
    assert found.leaf() == right and found.leaf(left) == below and talk().leaf() is None


def test_names_are_hidden_until_they_are_shown() -> None:
    orders = {tuple(s.id for s in talk(A, B, C, blind=True).speakers) for _ in range(60)}
    assert len(orders) == 6, "the places are by chance"
    found = talk(A, B, blind=True)
    places = [s.id for s in found.speakers]
    assert found.hidden and [found.name(id_) for id_ in places] == ["A", "B"]
    found.add({"revealed": talks.now()})
    assert not found.hidden and [found.name(id_) for id_ in places] == [id_[0] for id_ in places]
    assert not talk().hidden


# --- the file -----------------------------------------------------------------------------------------------------------


def full() -> Talk:
    found = talk(A, B, blind=True, seed=3, versions={"charforge": "1"})
    first = say(found, "Hel\u2028lo <b>\x1b[31m</b> ☃")
    for who in (A, B):
        answer(found, first, who, f"I am {who}.")
    vote(found, first, A)
    answer(found, say(found, "left", first, draw=1, trait="asks-back"), B, "x", "late")
    found.add({"revealed": "2026-01-01T00:00:00Z"})
    return found


def test_the_file_is_the_talk() -> None:
    found = full()
    text = found.text()
    again = talks.parse(text, "x")
    assert again == found and again.text() == text
    assert [next(iter(json.loads(line))) for line in text.split("\n")[:-1]] == [
        "talk", "turn", "reply", "reply", "vote", "turn", "reply", "revealed",
    ]  # fmt: skip


def test_a_last_line_that_was_cut_is_left_out() -> None:
    lines = full().text().split("\n")[:-1]
    for cut in (1, len(lines[-2]) // 2):
        found = talks.parse("\n".join([*lines[:-2], lines[-2][:cut]]), "x")
        assert len(found.turns) == 2 and len(found.replies) == 2
    with pytest.raises(UserError, match="x:1: this is no talk"):
        talks.parse(lines[0][:-5], "x")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "x:3: this is no talk"),
        ("[1]", "x:3: this is no talk: not an event"),
        ('{"turns": 1}', "unknown event 'turns'"),
        (
            '{"reply": {"turn": "00000000", "speaker": "' + A + '", "text": "", "tokens": 0, "finish": "stop"}}',
            "no turn 00000000",
        ),
        ('{"turn": {"id": "zzzzzzzz", "text": "", "sampling": {}, "made": ""}}', "id: string should match"),
        ('{"turn": {"id": "00000000", "parent": "11111111", "text": "", "sampling": {}, "made": ""}}', "is not there"),
        ('{"vote": {"turn": "00000000", "shown": ["' + A + '"], "blind": true, "made": ""}}', "shown: "),
        ('{"revealed": 1, "vote": 2}', "unknown event"),
        ("[" * 100_000, "x:3: this is no talk"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(line: str, said: str) -> None:
    found = talk()
    say(found, "Hello")
    with pytest.raises(UserError) as error:
        talks.parse(f"{found.text()}{line}\n{json.dumps({'revealed': 'x'})}\n", "x")
    assert said in str(error.value) and str(error.value).startswith("x:3")


def test_what_is_no_talk(tmp_path: Path) -> None:
    for text, said in (("", "the file is empty"), ("{}\n", "this is no talk"), ('{"turn": {}}\n', "this is no talk")):
        with pytest.raises(UserError, match=said):
            talks.parse(text, "x")
    with pytest.raises(UserError, match="larger than 8 MiB"):
        talks.parse(" " * (talks.MOST_BYTES + 1), "x")
    with pytest.raises(UserError, match="larger than 8 MiB"):
        talks.read(Path("/dev/zero"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "bytes", tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="can not be read"):
            talks.read(path)
    with pytest.raises(UserError, match="no talk's id"):
        talks.place(Store(tmp_path), "../../etc/passwd")


def test_a_record_goes_on_after_a_kill(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = Record(store, talk())
    turn = Turn(id=talks.new_id(), text="Hello", sampling=Sampling(), made=talks.now())
    record.add("turn", turn)
    with record.path.open("a") as file:
        file.write('{"reply": {"turn": "')
    again = Record(store, talks.read(record.path))
    again.add("reply", Reply(turn=turn.id, speaker=A, text="Hi", tokens=1, finish="stop"))
    assert talks.read(record.path) == again.talk and again.talk.replies[turn.id, A].text == "Hi"
    with pytest.raises(ValueError, match="there already"):
        again.add("turn", turn)
    assert talks.read(record.path).text() == again.talk.text(), "what does not fit is not written"
    (tmp_path / "talks" / "broken.jsonl").write_text("{")
    assert [each.header.id for each in talks.kept(store)] == [record.talk.header.id]


def test_two_processes_in_one_talk_see_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = Record(store, talk(blind=True))
    begun = Turn(id=talks.new_id(), text="Hello", sampling=Sampling(), made=talks.now())
    first.add("turn", begun)
    second = talks.opened(store, first.path)
    second.add("reply", Reply(turn=begun.id, speaker=A, text="Hi", tokens=1, finish="stop", seed=1))
    second.add("revealed", talks.now())
    assert first.talk.hidden
    first.refresh()
    assert not first.talk.hidden and first.talk == second.talk and first.talk.replies[begun.id, A].text == "Hi"
    # What fits neither is not written, whichever of them wrote what it does not fit.
    with pytest.raises(ValueError, match="there already"):
        second.add("turn", begun)
    for record, text in ((first, "one"), (second, "other"), (first, "more")):
        at = record.talk.leaf()
        record.add("turn", Turn(id=talks.new_id(), parent=at, text=text, sampling=Sampling(), made=talks.now()))
    assert [turn.text for turn in talks.read(first.path).turns.values()] == ["Hello", "one", "other", "more"]
    assert {turn.text for turn in first.talk.children(begun.id)} == {"one", "other"}, "a branch of each"
    # One that was removed is there again, whole.
    first.path.unlink()
    first.add("reply", Reply(turn=begun.id, speaker=B, text="Ho", tokens=1, finish="stop", seed=1))
    assert talks.read(first.path) == first.talk and len(first.talk.turns) == 4
    first.path.write_text("".join(first.path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(UserError, match="turns of it are gone"):
        first.add("revealed", talks.now())
    assert len(first.talk.turns) == 4


def test_many_processes_write_whole_lines(tmp_path: Path) -> None:
    record = Record(Store(tmp_path), talk())
    code = """
import sys
from pathlib import Path
from charforge import talks
from charforge.recipe import Sampling
from charforge.store import Store
record = talks.opened(Store(Path(sys.argv[1])), Path(sys.argv[2]))
for _ in range(10):
    record.add("turn", talks.Turn(id=talks.new_id(), text="x" * 30_000, sampling=Sampling(), made=talks.now()))
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(record.path)]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert len(talks.read(record.path).turns) == 20


def test_opening_loses_nothing(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), tmp_path / "shared.jsonl"
    shared = full()
    path.write_text(shared.text())
    first = talks.opened(store, path)
    assert first.path == talks.place(store, shared.header.id) and first.talk == shared
    assert talks.opened(store, path).path == first.path and talks.opened(store, first.path).path == first.path
    first.add("turn", Turn(id=talks.new_id(), text="more", sampling=Sampling(), made=talks.now()))
    other = talks.opened(store, path)
    assert other.path != first.path and other.talk.turns == shared.turns, (
        "here it has gone on: the file is another talk"
    )
    assert len(talks.read(first.path).turns) == 3


def test_a_store_reads_its_own_talks_whatever_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, shared = Store(tmp_path / "store"), tmp_path / "shared.jsonl"
    record = Record(store, talk())
    monkeypatch.setattr(talks, "MOST_BYTES", 2048)
    while record.path.stat().st_size <= 3 * talks.MOST_BYTES:
        record.add("turn", Turn(id=talks.new_id(), text="x" * 500, sampling=Sampling(), made=talks.now()))
    assert [each.header.id for each in talks.kept(store)] == [record.talk.header.id]
    assert talks.opened(store, record.path).talk == record.talk == talks.read(record.path, store)
    assert talks.adopted(store, record.talk).path == record.path
    shared.write_bytes(record.path.read_bytes())
    for read in (
        lambda: talks.read(shared, store),
        lambda: talks.read(record.path),
        lambda: talks.opened(store, shared),
    ):
        with pytest.raises(UserError, match="larger than"):
            read()
    with pytest.raises(UserError, match="larger than"):
        talks.parse(record.path.read_text(), "x")


@pytest.mark.parametrize("fails", ["fsync", "write"])
def test_what_can_not_be_written_was_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    record = Record(Store(tmp_path), talk())
    first, lost, third = (
        Turn(id=talks.new_id(), text=text * 9, sampling=Sampling(), made=talks.now()) for text in ("a", "b", "c")
    )
    record.add("turn", first)
    before = record.path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if fails == "fsync":
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        else:
            # The disk takes a part of the line.
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        try:
            with pytest.raises(UserError, match=r"can not be written: (No space|File too large)"):
                record.add("turn", lost)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
    assert list(record.talk.turns) == [first.id] and record.path.read_bytes() == before
    record.add("turn", third.model_copy(update={"parent": first.id}))
    assert list(talks.read(record.path).turns) == [first.id, third.id]
    with pytest.raises(ValueError, match="is not there"):
        record.add("turn", third.model_copy(update={"id": talks.new_id(), "parent": lost.id}))


# --- votes --------------------------------------------------------------------------------------------------------------


def judged(*best: str, replies: tuple[str, ...] = ("one", "two", "three"), ids: tuple[str, ...] = (A, B)) -> Talk:
    found = talk(*ids)
    first = say(found, "Hello")
    for who, text in zip(ids, replies, strict=False):
        answer(found, first, who, text)
    vote(found, first, *best, shown=ids)
    return found


def values(found: Talk) -> dict[str, float]:
    return {each.first[0] + each.second[0]: each.value for each in talks.judgements([found])}


def test_what_a_vote_says() -> None:
    assert values(judged(A)) == {"ab": 1.0} and values(judged(B)) == {"ab": 0.0}
    assert values(judged(A, B)) == {"ab": 0.5} and values(judged()) == {"ab": 0.5}
    three = (A, B, C)
    assert values(judged(A, ids=three)) == {"ab": 1.0, "ac": 1.0}, "nothing was said of the two that lost"
    assert values(judged(A, C, ids=three)) == {"ab": 1.0, "ac": 0.5, "bc": 0.0}
    assert values(judged(ids=three)) == {"ab": 0.5, "ac": 0.5, "bc": 0.5}
    assert values(judged(A, replies=("same", "same"))) == {} == values(judged(A, replies=("", "two")))
    found = judged(A)
    turn = found.leaf()
    assert turn is not None
    vote(found, turn, B)
    assert values(found) == {"ab": 0.0}, "the last vote counts"
    (said,) = talks.judgements([found])
    assert said.said == ({"role": "user", "content": "Hello"},) and said.replies == ("one", "two") and said.blind
    answer(found, turn, A, "one", "failed")
    assert values(found) == {}
    with pytest.raises(ValueError, match="each once"):
        vote(found, turn, A, shown=(A, A))
    other = judged(A, ids=three)
    with pytest.raises(ValueError, match="were shown"):
        vote(other, str(other.leaf()), C, shown=(A, B))
    with pytest.raises(ValueError, match="no turn 00000000"):
        vote(judged(A, ids=three), "0" * 8, C, shown=(A, B))


def test_talks_that_parted_say_what_each_had_read() -> None:
    found = talk()
    first = say(found, "Hello")
    answer(found, first, A, "from a")
    answer(found, first, B, "from b")
    second = say(found, "And?", first, system="Told.")
    answer(found, second, A, "x")
    answer(found, second, B, "y")
    vote(found, second, A)
    (said,) = talks.judgements([found])
    assert [m["content"] for m in said.said] == ["Hello", "from a", "And?"]
    assert [m["content"] for m in said.said_second] == ["Hello", "from b", "And?"]


def test_a_planted_preference_is_counted() -> None:
    """Seven for the first, two for the second, three ties, in twelve talks: (7 + 1.5) / 12."""
    found = [judged(A) for _ in range(7)] + [judged(B) for _ in range(2)] + [judged(A, B), judged(), judged()]
    (pair,) = talks.tally(talks.judgements(found))
    assert (pair.first, pair.second, pair.wins, pair.losses, pair.ties, pair.talks) == (A, B, 7, 2, 3, 12)
    assert pair.low is not None and pair.high is not None and pair.why is None
    assert pair.share == pytest.approx(8.5 / 12) and pair.low < 0.6 < pair.share < pair.high < 1
    (pair,) = talks.tally(talks.judgements(found[:7]))
    assert (pair.share, pair.low, pair.high) == (1.0, None, None) and "7 talks are too few" in str(pair.why)


def test_many_votes_in_one_talk_are_no_more_than_one_opinion() -> None:
    def long(best: str) -> Talk:
        found = talk()
        at = None
        for number in range(10):
            at = say(found, f"m{number}", at)
            answer(found, at, A, f"a{number}")
            answer(found, at, B, f"b{number}")
            vote(found, at, best)
        return found

    (apart,) = talks.tally(talks.judgements([judged(A) for _ in range(40)] + [judged(B) for _ in range(40)]))
    (together,) = talks.tally(talks.judgements([long(best) for best in (A, B) for _ in range(4)]))
    assert apart.share == together.share == 0.5 and together.talks == 8
    assert apart.low and apart.high and together.low and together.high
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_a_blind_vote_stays() -> None:
    found = talk(A, B, blind=True)
    first, second, document = say(found, "one"), say(found, "two"), say(found, "three", kind="base")
    for turn in (first, second, document):
        answer(found, turn, A, "x")
        answer(found, turn, B, "y")
    vote(found, first, A)
    vote(found, first, B)
    assert values(found) == {"ab": 0.0}, "until names are shown it can be changed"
    assert sorted(found.votable(found.turns[first])) == [A, B]
    found.add({"revealed": talks.now()})
    for turn in (first, second):
        vote(found, turn, A, blind=False)
    assert [(each.best, each.blind) for each in found.votes.values()] == [((B,), True), ((A,), False)]
    assert talks.parse(found.text(), "x").votes == found.votes
    assert sorted(found.votable(found.turns[second])) == [A, B]
    for turn, said in ((first, "it stays"), (document, "gone on with")):
        with pytest.raises(UserError, match=said):
            found.votable(found.turns[turn])
    written = Reply(turn=second, speaker=A, text="mine", tokens=0, finish="stop")
    found.add({"reply": written.model_dump(mode="json")})
    with pytest.raises(UserError, match="two replies that models wrote"):
        found.votable(found.turns[second])
