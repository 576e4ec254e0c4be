"""Chat: who answers, the process that answers, and a talk in the terminal. The scripted engine; once the real one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from charforge import compare, talks
from charforge.chat import party as parties
from charforge.chat.party import Party, Piece
from charforge.chat.party import _Child as Child
from charforge.chat.probes import TRAINED_ON, Probes
from charforge.child import child
from charforge.cli import main
from charforge.errors import StageError, UserError
from charforge.models import resolve
from charforge.recipe import ModelReference, Runtime, Sampling
from charforge.registry import Entry
from charforge.stage import Made, Progress, Weights
from charforge.store import Store
from charforge.talks import Reply, Talk, Turn
from charforge.worker import Held
from tests.conftest import SMALL
from tests.test_engine_vllm import adapter, widened
from tests.test_registry import character, made, version

BARE = "model:builtin:smollm2-135m-instruct"


def cast(root: Path) -> Store:
    """Two versions of a character that a fixed rule speaks for."""
    store = Store(root)
    for text in (SMALL, version("1.1.0", "It opens the next door.")):
        entry = character(store, text, engine="scripted")
        pairs = store.artifact("preferences", entry.manifest["inputs"]["preferences"])
        (pairs.directory / "pairs.jsonl").write_text("", encoding="utf-8")
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return cast(tmp_path_factory.mktemp("cast"))


@pytest.fixture(scope="module")
def party(store: Store) -> Iterator[Party]:
    with parties.party(store, ["pip@1.0.0", BARE]) as found:
        found.start()
        yield found


@pytest.fixture
def slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Party]:
    """A word takes a tenth of a second: a reply takes about two."""
    monkeypatch.setenv("CHARFORGE_SCRIPTED_DELAY", "0.1")
    with parties.party(store, ["pip@1.0.0", BARE]) as found:
        found.start()
        yield found


def say(party: Party, talk: Talk, text: str, parent: str | None = None, **more: Any) -> Turn:
    turn = Turn(id=talks.new_id(), parent=parent, text=text, sampling=party.sampling, made=talks.now(), **more)
    talk.add({"turn": turn.model_dump(mode="json")})
    return turn


def answered(party: Party, talk: Talk, turn: Turn, seconds: float = 30) -> tuple[list[Piece], list[Reply]]:
    """All pieces and replies, in the order of the speakers."""
    every = list(party.ask(talk, turn, seconds=seconds))
    order = [speaker.id for speaker in talk.speakers]
    replies = sorted((each for each in every if isinstance(each, Reply)), key=lambda r: order.index(r.speaker))
    for reply in replies:
        talk.add({"reply": reply.model_dump(mode="json")})
        assert reply.turn == turn.id
        assert (
            "".join(p.text for p in every if isinstance(p, Piece) and p.speaker == reply.speaker).rstrip() == reply.text
        )
    return [each for each in every if isinstance(each, Piece)], replies


# --- who answers --------------------------------------------------------------------------------------------------------


def test_one_is_enough_and_who_it_is_is_known(store: Store, party: Party) -> None:
    one, bare = party.speakers
    assert (one.kind, one.label, one.told) == ("character", "pip@1.0.0", None) and one.reference.startswith(
        "pip@1.0.0/"
    )
    assert one.key and one.revision == bare.revision and one.model == bare.model == "SmolLM2-135M-Instruct"
    found, _ = compare.contestants(store, ["pip@1.0.0", BARE])
    assert [speaker.id for speaker in party.speakers] == [contestant.digest for contestant in found]
    assert party.sampling == Sampling(temperature=0.7, max_tokens=256) and party.scripted
    assert party.versions()["engine"] == "scripted"
    with parties.party(store, ["prompt:pip@1.1.0"], {"temperature": 0.2, "max_tokens": 8}) as told:
        assert told.speakers[0].told and "I am Pip" in told.speakers[0].told
        assert told.sampling == Sampling(temperature=0.2, max_tokens=8)
    for texts, said in (
        (["pip@1.0.0", "pip@1.0.0"], "the same"),
        (["pop"], "no trained character"),
        (["model:"], "no model"),
    ):
        with pytest.raises(UserError, match=said):
            parties.party(store, texts)


def test_all_answer_side_by_side(slow: Party) -> None:
    talk = slow.begin()
    pieces, replies = answered(slow, talk, say(slow, talk, "Hello"))
    assert [reply.finish for reply in replies] == ["stop", "stop"]
    assert replies[0].text.startswith("I would start") and replies[1].text.startswith("It is important")
    assert all(reply.tokens == len(reply.text.split()) and reply.seed is not None for reply in replies)
    turns = sum(one.speaker != other.speaker for one, other in pairwise(pieces))
    assert turns > 8, "their words come as they are said, not one reply after the other"


def test_a_talk_decides_its_replies(party: Party) -> None:
    def replies(talk: Talk, *turns: tuple[str, int]) -> list[str]:
        at, found = None, []
        for text, draw in turns:
            turn = say(party, talk, text, at, draw=draw)
            at = turn.id
            found += [reply.text for reply in answered(party, talk, turn)[1]]
        return found

    both = ("Hello", 0), ("Go on", 0)
    first = replies(party.begin(seed=0), *both)
    assert first == replies(party.begin(seed=0), *both) and len(set(first)) == 4
    assert first[:2] == replies(party.begin(seed=0), ("Hello", 0)) != replies(party.begin(seed=0), ("Hello", 1))
    assert first[2:] != replies(party.begin(seed=0), ("Hi", 0), ("Go on", 0))[2:], "what was said before counts"
    assert first[:2] != replies(party.begin(seed=1), ("Hello", 0))
    # Talks are no independent evidence where the same words draw the same replies.
    fresh = party.begin(), party.begin(blind=True)
    assert fresh[0].header.seed != fresh[1].header.seed
    assert replies(fresh[0], ("Hello", 0)) != replies(fresh[1], ("Hello", 0))
    # Whoever else is asked changes nothing.
    talk = party.begin(seed=0)
    turn = say(party, talk, "Hello")
    (alone,) = (each for each in party.ask(talk, turn, [party.speakers[1].id]) if isinstance(each, Reply))
    assert alone.text == first[1]


def test_words_are_put_into_mouths_and_documents_gone_on_with(party: Party) -> None:
    talk = party.begin()
    _, replies = answered(party, talk, say(party, talk, "Hello", prefill="Well,"))
    assert replies[0].text.startswith(" I would"), "the space after what was put there is kept"
    assert talk.messages(say(party, talk, "x", replies[0].turn).id, replies[0].speaker)[1]["content"].startswith(
        "Well, I"
    )
    _, replies = answered(party, talk, say(party, talk, "Once upon a time", kind="base"))
    assert all(reply.finish == "stop" and reply.text.startswith(" ") for reply in replies)


def test_many_ask_at_once(slow: Party) -> None:
    expected, found = {}, {}
    for number in range(6):
        talk = slow.begin(seed=number)
        expected[number] = talk, say(slow, talk, f"Message {number}")

    def ask(number: int) -> None:
        talk, turn = expected[number]
        found[number] = [reply.text for reply in answered(slow, talk, turn)[1]]

    begun = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,)) for number in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    # One alone takes two seconds.
    assert time.monotonic() - begun < 9
    assert len(found) == 6 and len({text for texts in found.values() for text in texts}) == 12
    talk = slow.begin(seed=3)
    assert [reply.text for reply in answered(slow, talk, say(slow, talk, "Message 3"))[1]] == found[3]


def test_time_is_up(slow: Party) -> None:
    talk = slow.begin()
    begun = time.monotonic()
    _, replies = answered(slow, talk, say(slow, talk, "Hello"), seconds=0.55)
    assert 0.5 < time.monotonic() - begun < 1.5
    assert [reply.finish for reply in replies] == ["late", "late"]
    assert all(1 <= reply.tokens == len(reply.text.split()) <= 6 for reply in replies)


def test_replies_are_stopped_and_kept(slow: Party) -> None:
    talk = slow.begin()
    turn = say(slow, talk, "Hello")
    threading.Timer(0.5, slow.stop, [turn.id]).start()
    _, replies = answered(slow, talk, turn)
    assert [reply.finish for reply in replies] == ["stopped", "stopped"] and all(reply.text for reply in replies)
    slow.stop(turn.id)
    # Who does not listen to the end ends it as well.
    answers = slow.ask(talk, say(slow, talk, "Again"), seconds=30)
    next(answers)
    assert slow._child is not None and slow._child._asks
    answers.close()  # type: ignore[attr-defined]
    assert not slow._child._asks and not slow._asks


def test_when_the_process_dies_another_answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARFORGE_SCRIPTED_DELAY", "0.1")
    with parties.party(store, ["pip@1.0.0", BARE]) as party:
        talk = party.begin()
        party.start()
        assert party._child is not None and party._child._process is not None
        first = party._child._process.pid
        threading.Timer(0.6, os.kill, [first, signal.SIGKILL]).start()
        _, replies = answered(party, talk, say(party, talk, "Hello"))
        for reply in replies:
            assert reply.finish == "failed" and reply.text and reply.why and "was killed" in reply.why
        monkeypatch.setenv("CHARFORGE_SCRIPTED_DELAY", "0")
        _, replies = answered(party, talk, say(party, talk, "Hello again"))
        assert [reply.finish for reply in replies] == ["stop", "stop"] and party._child._process.pid != first
        second = party._child._process
    assert second.poll() is not None and party.log.is_file(), "the log of a failure stays"
    with pytest.raises(StageError, match="closed"):
        party.start()


def test_what_can_not_start_says_why(store: Store, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    with parties.party(store, ["pip@1.0.0", f"model:{folder}"]) as party:
        (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
        talk = party.begin()
        with pytest.raises(StageError, match="could not start: model:model changed while it was being loaded") as error:
            party.start()
        assert "start the chat again" in str(error.value) and str(party.log) in str(error.value)
        _, replies = answered(party, talk, say(party, talk, "Hello"))
        assert {reply.finish for reply in replies} == {"failed"} and "changed" in str(replies[0].why)


def test_waiting_for_the_engines_ends_in_time_and_can_be_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parties, "_Child", lambda command, *rest: Child(["/bin/sleep", "60"], *rest))
    with parties.party(store, ["pip@1.0.0", BARE]) as party:
        talk = party.begin()
        begun = time.monotonic()
        _, replies = answered(party, talk, say(party, talk, "Hello"), seconds=0.5)
        assert {reply.finish for reply in replies} == {"late"} and 0.4 < time.monotonic() - begun < 3
        turn = say(party, talk, "Again")
        threading.Timer(0.4, party.stop, [turn.id]).start()
        _, replies = answered(party, talk, turn, seconds=60)
        assert {reply.finish for reply in replies} == {"stopped"} and time.monotonic() - begun < 6
        assert not party._asks


def test_what_was_read_is_kept_while_it_is_short() -> None:
    for length, kept in ((talks.LONGEST_READ, True), (talks.LONGEST_READ + 1, False)):
        reply = parties._Answer("0" * 8, "1" * 8, 1, read="x" * length).reply("stop")
        assert (reply.read is not None) is kept


def test_a_child_that_can_not_start_leaves_no_pipe(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for log in (tmp_path / "log", tmp_path / "none" / "log"):
        with pytest.raises(OSError, match="No such file"), child([str(tmp_path / "none")], log, print, Runtime()):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_who_is_not_here_does_not_answer(party: Party) -> None:
    stranger = party.speakers[0].model_copy(update={"id": "0" * 12})
    talk = Talk.begin([*party.speakers, stranger])
    _, replies = answered(party, talk, say(party, talk, "Hello"))
    assert [reply.finish for reply in replies] == ["stop", "stop", "failed"]
    assert replies[2].why == "it takes no part in this chat"


# --- probes -------------------------------------------------------------------------------------------------------------


def test_the_next_held_out_probe(store: Store, party: Party) -> None:
    talk = party.begin()
    probes = party.probes
    assert probes.traits == {"asks-back": "Asks back", "forges-nothing": "Forges nothing"}
    constitution, recipe = (lambda c: (c.constitution, c.recipe))(party.contestants[0].character)  # type: ignore[union-attr]
    heldout = [row["prompt"] for row in compare.asked([(constitution, recipe)], [])[0] if row["trait"] == "asks-back"]
    asked = []
    for _ in heldout:
        text, note = probes.next(talk, "asks-back")
        assert note is None
        asked.append(text)
        say(party, talk, text, trait="asks-back")
    assert sorted(asked) == sorted(heldout) and len(set(asked)) == len(asked) > 1
    text, note = probes.next(talk, "asks-back")
    assert text == asked[0] and note and "again" in note
    assert probes.shows("asks-back", "Is it so?") == {"ends with a question": True, "no lists": True}
    assert probes.shows("asks-back", "- a\n- b") == {"ends with a question": False, "no lists": False}
    assert probes.shows("asks-back", " ") == {}
    with pytest.raises(UserError, match="did you mean 'asks-back'"):
        probes.next(talk, "ask-back")
    with pytest.raises(UserError, match="bare models have no traits"):
        Probes(store, [party.contestants[1]]).next(talk, "asks-back")
    # What everything was trained on is asked, and said to be.
    probes.__dict__["_heldout"] = []
    assert probes.next(talk, "forges-nothing")[1] == TRAINED_ON
    del probes.__dict__["_heldout"]


# --- engines that are shared --------------------------------------------------------------------------------------------


class Loaded:
    """In the place of vLLM: what it was opened with, and what was asked of it."""

    opened: list[Loaded] = []  # noqa: RUF012

    def __init__(self, model: Any, folder: Path, settings: Any, *, device: str, adapters: Any = ()) -> None:
        self.folder, self.memory, self.adapters, self.closed = folder, settings.memory, list(adapters), False
        Loaded.opened.append(self)

    def serves(self, adapter: Path | None) -> bool:
        return adapter is None or adapter in self.adapters

    def under(self, adapter: Path | None) -> tuple[Loaded, Path | None]:
        return self, adapter

    def close(self) -> None:
        self.closed = True


def test_adapters_of_one_model_share_an_engine_on_a_gpu(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from charforge.engine import vllm

    monkeypatch.setattr(vllm, "VllmEngine", Loaded)
    Loaded.opened = []
    store = Store(tmp_path)
    model = resolve(ModelReference(name=str(tiny_model), chat_template="chatml"))
    other = resolve(ModelReference(name=str(tiny_model)))

    def trained(name: str, file: str = "adapter__adapter_model.safetensors") -> Weights:
        return Weights(model, Made("dpo", made(store, "dpo", {"name": name}, {}, **{file: "w"}).key))

    base, one, two, late = Weights(model), trained("one"), trained("two"), trained("late")
    whole = trained("whole", "model__model.safetensors")
    folders = {
        w.label: store.artifact("dpo", w.trained.key).directory / "adapter" for w in (one, two, late) if w.trained
    }
    missing = Weights(model, Made("dpo", "0" * 64))
    runtime = Runtime.model_validate({"device": "cuda", "vllm": {"memory": 0.8}})
    held = Held("vllm", runtime, store, Progress(), expected=[base, one, two, missing])
    found: list[Any] = list(held.engines(base))
    (engine,) = Loaded.opened
    assert engine.adapters == [folders[one.label], folders[two.label]] and engine.folder == tiny_model
    found[:] = held.engines(one, base, two, one)
    assert [adapter for _, adapter in found] == [folders[one.label], None, folders[two.label], folders[one.label]]
    assert Loaded.opened == [engine] and engine.memory == 0.8 and {e for e, _ in found} == {engine}
    # A whole model needs weights of its own, and another template makes another base: memory is split between engines.
    held.engines(one, whole, two, Weights(other))
    assert engine.closed and len(Loaded.opened) == 4
    assert [e.memory for e in Loaded.opened[1:]] == [pytest.approx(0.8 / 3)] * 3
    assert Loaded.opened[2].folder.name == "model" and Loaded.opened[2].adapters == []
    # One that nobody expected has no place in the engine that is open: another is opened, with a place for all.
    held.engines(base)
    held.engines(late)
    assert Loaded.opened[-1].adapters == [folders[late.label], folders[one.label], folders[two.label]]
    held.close()
    assert all(each.closed for each in Loaded.opened)
    # With nothing trained it is the plain engine of before.
    Held("vllm", runtime, store, Progress(), expected=[base]).engines(base)
    assert Loaded.opened[-1].adapters == []


# --- in the terminal ----------------------------------------------------------------------------------------------------


def chat(store: Store, *words: str, lines: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "charforge"), "chat", *words, "--store", str(store.root)],
        input=lines if isinstance(lines, bytes) else lines.encode(),
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=120,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def kept(done: subprocess.CompletedProcess[str]) -> Path:
    (path,) = re.findall(r"^to go on: charforge chat --open (\S+)", done.stderr, re.MULTILINE)
    return Path(path)


def test_a_script_talks(store: Store, tmp_path: Path) -> None:
    lines = """Hello there
/vote 1
/retry
/vote tie
/system Be kind.
first line\\
second line
/undo
/edit Instead
/prefill Well,
/set temperature 0.25
And now?
/prefill off
/base Once upon a time
/history
/tally
"""
    done = chat(
        store, "pip@1.0.0", BARE, lines=f"{lines}/save {tmp_path}/a.jsonl\n/save {tmp_path}/a.html\n/quit\nNever said\n"
    )
    assert done.returncode == 0, done.stderr
    talk = talks.read(kept(done))
    assert talk.text() == talks.read(tmp_path / "a.jsonl").text() == talks.read(tmp_path / "a.html").text()
    assert "Never said" not in done.stdout
    turns = {turn.text: turn for turn in talk.turns.values()}
    hello = [turn for turn in talk.turns.values() if turn.text == "Hello there"]
    assert [turn.draw for turn in hello] == [0, 1] and hello[0].parent is hello[1].parent is None
    assert [len(vote.best) for vote in talk.votes.values()] == [1, 2] and not any(v.blind for v in talk.votes.values())
    lost, instead = turns["first line\nsecond line"], turns["Instead"]
    # Undone, and something else said instead of what came before: the branch that was left is still there.
    assert lost.parent == hello[1].id and instead.parent is None and lost.system == instead.system == "Be kind."
    assert turns["And now?"].prefill == "Well," and turns["And now?"].sampling.temperature == 0.25
    assert turns["Once upon a time"].kind == "base" and turns["Once upon a time"].prefill == ""
    assert len(talk.replies) == 2 * len(talk.turns) == 12
    for (turn, speaker), reply in talk.replies.items():
        assert f"{talk.name(speaker)}: {talk.turns[turn].prefill}{reply.text}" in done.stdout
    assert "pip@1.0.0 against" in done.stdout or f"{BARE} against" in done.stdout
    assert "base: Once upon a time" in done.stdout and "2 other branches here" in done.stdout

    more = chat(store, "--open", str(tmp_path / "a.jsonl"), lines="/history\nGo on\n")
    assert more.returncode == 0 and kept(more) == kept(done) and "Once upon a time" in more.stdout
    assert list(talks.read(kept(done)).turns.values())[-1].parent == turns["Once upon a time"].id


def test_what_a_script_gets_wrong(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.jsonl").write_text("mine")
    lines = f"""/vote 1
Hello
/probe asks-bak
/probe asks-back 2
/probe
/rtry
/vote 7
/set temprature 1
/set temperature 9
/save {tmp_path}/there.jsonl
/save {tmp_path}/a.txt
/save {tmp_path}/none/a.jsonl
/reveal
/edit
"""
    done = chat(store, "pip@1.0.0", BARE, lines=lines)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for said in (
        "nothing was said yet", "did you mean 'asks-back'", "traits: asks-back, forges-nothing", "did you mean 'retry'",
        "'7' is no vote", "did you mean 'temperature'", "less than or equal to 2", "is not this talk",
        "as .jsonl or .html", "can not be written", "never hidden", "/edit takes the text",
    ):  # fmt: skip
        assert said in done.stderr, (said, done.stderr)
    assert (tmp_path / "there.jsonl").read_text() == "mine"
    probed = [turn for turn in talks.read(kept(done)).turns.values() if turn.trait == "asks-back"]
    assert len(probed) == 2 and probed[0].text != probed[1].text
    assert done.stdout.count("✓ ends with a question") == 2 and done.stdout.count("✗ ends with a question") == 2
    for words, said in (
        ([], "nobody to talk with"),
        (["pip@1.0.0", "pip@1.0.0"], "are the same"),
        (["pup@1.0.0"], "did you mean"),
        (["--open", str(tmp_path / "there.jsonl")], "there.jsonl:1: this is no talk"),
        (["--open", str(kept(done)), "--seed", "1"], "its own"),
        (["--open", str(kept(done)), "pip@1.1.0"], "takes no part in this talk"),
        (["pip@1.0.0", "--temperature", "3"], "--temperature"),
        (["pip@1.0.0", "--port", "0"], "add --web"),
    ):
        monkeypatch.setattr(sys, "argv", ["charforge", "chat", *words, "--store", str(store.root)])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            main()
        signal.signal(signal.SIGTERM, before)
        error = capsys.readouterr().err
        assert end.value.code == 2 and said in error and "Traceback" not in error, (words, error)


def test_a_shared_talk_needs_its_speakers(store: Store, tmp_path: Path) -> None:
    done = chat(store, "pip@1.1.0", lines="Hello\n")
    empty = Store(tmp_path / "empty")
    empty.root.mkdir()
    wrong = chat(empty, "--open", str(kept(done)), lines="Hello\n")
    assert wrong.returncode == 2 and "not all who take part in this talk are here" in wrong.stderr
    both = chat(store, "pip@1.0.0", "pip@1.1.0", lines="Hello\n")
    one = chat(store, "--open", str(kept(both)), "pip@1.1.0", lines="Go on\n")
    talk = talks.read(kept(both))
    assert one.returncode == 0 and len(talk.turns) == 2 and len(talk.replies) == 3, "one of two goes on"


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """The command in this process: its exit code, and what it said on standard error."""
    monkeypatch.setattr(sys, "argv", ["charforge", "chat", *words])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main()
    signal.signal(signal.SIGTERM, before)
    return int(end.value.code or 0), capsys.readouterr().err


def foreign(path: Path, *references: str, blind: bool = False) -> Path:
    """A talk from elsewhere between these."""
    ids = [f"c0ffee{number:02d}" for number in range(len(references))]
    speakers = [
        talks.Speaker(id=id_, kind="model", label=reference, reference=reference, model="m")
        for id_, reference in zip(ids, references, strict=True)
    ]
    talk = Talk(talks.Header(id="abcdef0123", speakers=tuple(speakers), blind=blind, made=talks.now()))
    path.write_text(talk.text(), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "reference",
    ["model:./\x1b]0;owned\x07\x1b[31mx", "wr\x1b[31men@1.0.0\x07", "model:builtin:\x1b[2J\x07", "prompt:\x1b\x07"],
)
def test_errors_about_a_talk_do_nothing_to_the_terminal(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    path = foreign(tmp_path / "evil.jsonl", reference, BARE)
    for words in ((), (BARE,), ("pip@1.0.0",)):
        code, error = run(capsys, monkeypatch, "--open", str(path), *words, "--store", str(store.root))
        assert code == 2 and not re.search("[\x1b\x07]", error) and "Traceback" not in error, error
        assert re.search(r"⟦U\+001B⟧|\\x1b", error) and "\n  name" in error.replace("\n  who", "\n  name"), (
            "it is named, and the hint has its own line"
        )
    path.write_text(json.dumps({"talk": {"\x1b]0;owned\x07": 1}}))
    code, error = run(capsys, monkeypatch, "--open", str(path), "--store", str(store.root))
    assert code == 2 and "this is no talk" in error and "\x1b" not in error


def test_a_file_does_not_choose_what_is_loaded(
    store: Store,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    named = compare.named

    def recorded(place: Store, texts: list[str]) -> list[compare.Contestant]:
        asked.extend(texts)
        return named(place, texts)

    monkeypatch.setattr(compare, "named", recorded)
    path = foreign(tmp_path / "talk.jsonl", "model:somebody/model", "model:/etc", BARE)
    code, error = run(capsys, monkeypatch, "--open", str(path), "--store", str(store.root))
    assert code == 2 and "model:/etc, model:somebody/model" in error and "name those who go on" in error
    assert asked == [], "nothing was looked up"
    # A model in a folder is named again by the one who goes on.
    done = chat(store, "pip@1.0.0", f"model:{tiny_model}", lines="Hello\n")
    assert f"{kept(done)} pip@1.0.0/" in done.stderr and f" model:{tiny_model} --store" in done.stderr, done.stderr
    more = chat(store, "--open", str(kept(done)), "pip@1.0.0", f"model:{tiny_model}", lines="Go on\n")
    assert more.returncode == 0 and len(talks.read(kept(done)).turns) == 2
    code, error = run(capsys, monkeypatch, "--open", str(kept(done)), "--store", str(store.root))
    assert code == 2 and "name those who go on" in error and asked == []


def test_hidden_names_are_in_no_order_and_in_no_file(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = foreign(tmp_path / "talk.jsonl", "model:builtin:zeta", "model:builtin:alpha", blind=True)
    code, error = run(capsys, monkeypatch, "--open", str(path), "pip@1.0.0", "--store", str(store.root))
    assert code == 2 and "who takes part: model:builtin:alpha, model:builtin:zeta" in error
    done = chat(store, "pip@1.0.0", BARE, "--blind", lines="Hello\n")
    code, error = run(capsys, monkeypatch, "--open", str(kept(done)), BARE, "--store", str(store.root))
    assert code == 2 and "who goes on without the others would be known" in error
    code, error = run(capsys, monkeypatch, "pip@1.0.0", "--blind", "--store", str(store.root))
    assert code == 2 and "nothing to hide" in error
    lines = f"Hello\n/save {tmp_path}/a.jsonl\n/save {tmp_path}/a.html\n/reveal\n/save {tmp_path}/b.jsonl\n"
    done = chat(store, "pip@1.0.0", BARE, "--blind", lines=lines)
    assert done.returncode == 2 and done.stderr.count("the names are hidden") == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.jsonl", "talk.jsonl"]


def test_a_store_that_can_not_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cast(tmp_path)
    (store.root / "talks").touch()
    code, error = run(capsys, monkeypatch, "pip@1.0.0", "--store", str(store.root))
    assert code == 2 and "the store can not be written" in error and "--store" in error and "bug" not in error


def test_blind_until_revealed(store: Store) -> None:
    done = chat(
        store, "pip@1.0.0", BARE, "--blind", lines="Hello\n/vote A\n/tally\n/history\n/reveal\n/tally\n/vote B\n"
    )
    before, after = done.stdout.split("A is ")
    assert "pip" not in before and "smollm" not in before and before.startswith("A: ") and "\nB: " in before
    assert done.returncode == 2 and "the names are hidden" in done.stderr
    assert "pip@1.0.0" in after and re.search(r"[1-9] (better|worse)", after)
    assert re.search(r"\(\d talks? (is|are) too few for an interval: 8 are the least\)", after)
    assert "a blind vote was given here" in done.stderr and "it stays" in done.stderr
    talk = talks.read(kept(done))
    (vote,) = talk.votes.values()
    assert vote.blind and vote.best == (talk.speakers[0].id,) and not talk.hidden


def test_what_is_said_can_do_nothing_to_the_terminal(store: Store) -> None:
    nasty = (
        "/prefill \x1b]0;title\x07\x1b[2J[bold]x[/bold] a\u202eb\nHello\n/history\n".encode()
        + b"/edit \xff\xfe bytes\n"
    )
    done = chat(store, "pip@1.0.0", lines=nasty)
    assert done.returncode == 0 and not re.search("[\x1b\x07\u202e]", done.stdout)
    assert "⟦U+001B⟧" in done.stdout and "⟦U+202E⟧" in done.stdout and "[bold]x[/bold]" in done.stdout
    assert "\ufffd\ufffd bytes" in talks.read(kept(done)).text()


def test_a_reply_that_fails_is_said(store: Store) -> None:
    done = chat(
        store, "pip@1.0.0", "--seconds", "0.3", lines="Hello\n/set seconds 30\nAgain\n", CHARFORGE_SCRIPTED_DELAY="0.05"
    )
    assert done.returncode == 0 and "(time was up)" in done.stdout
    replies = list(talks.read(kept(done)).replies.values())
    assert [reply.finish for reply in replies] == ["late", "stop"]


class Terminal:
    """A command in a real terminal."""

    def __init__(self, *words: str, columns: int = 100, **environment: str) -> None:
        command = [str(Path(sys.executable).parent / "charforge"), *words]
        # The terminal says how wide it is, and no variable that some library left here.
        own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execvpe(command[0], command, {**own, "TERM": "xterm", **environment})
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.text = ""
        self.heard = 0

    def until(self, wanted: str | None, seconds: float = 60) -> str:
        """What comes next, up to these words; None: up to its end."""
        deadline = time.monotonic() + seconds
        while wanted is None or wanted not in self.text[self.heard :]:
            assert time.monotonic() < deadline, self.text[self.heard :]
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    break
        begun = self.heard
        self.heard = len(self.text) if wanted is None else self.text.index(wanted, begun) + len(wanted)
        return self.text[begun : self.heard]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def press(self, key: str, wanted: str) -> None:
        """Press a key, and again where it went unheard.

        ``input()`` looks for a signal when its ``select`` is interrupted: one that comes between the prompt and the
        ``select`` is not seen before the next key. A person presses again.
        """
        for _ in range(5):
            self.type(key)
            with contextlib.suppress(AssertionError):
                self.until(wanted, seconds=10)
                return
        raise AssertionError(self.text[self.heard :])

    def end(self) -> int:
        self.until(None)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_in_a_real_terminal(store: Store) -> None:
    words = ["chat", "pip@1.0.0", BARE, "--seed", "0", "--store", str(store.root)]
    terminal = Terminal(*words, CHARFORGE_SCRIPTED_DELAY="0.1")
    assert "starting the engine" in terminal.until("> ")
    terminal.type("Hello\n")
    shown = terminal.until("bread?") + terminal.until("> ")
    # They stand side by side, and they grew.
    assert re.search(r"I would start .*It is important to note", shown) and shown.count("I would start") > 5
    terminal.type("Again\n")
    terminal.until("would start")
    terminal.type("\x03")
    assert "(stopped)" in terminal.until("> ")
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.press("\x03", "Ctrl-C again")
    terminal.until("> ")
    terminal.type("\x1b[A\x1b[A\n")
    assert "I would start" in terminal.until("> "), "the arrow keys bring back what was typed"
    terminal.type("/pro\t asks-back\n")
    assert "✓ ends with a question" in terminal.until("> ")
    terminal.type("\x04")
    assert "to go on: charforge chat --open" in terminal.until("--store")
    assert terminal.end() == 0
    talk = talks.read(Path(re.findall(r"--open (\S+)", terminal.text)[-1]))
    assert [turn.text for turn in talk.turns.values()][:3] == ["Hello", "Again", "Hello"]
    assert {r.finish for (t, _), r in talk.replies.items() if talk.turns[t].text == "Again"} == {"stopped"}


def test_a_narrow_terminal_shows_one_below_the_other(store: Store) -> None:
    terminal = Terminal("chat", "pip@1.0.0", BARE, "--store", str(store.root), columns=50)
    terminal.until("> ")
    terminal.type("Hello\n")
    shown = terminal.until("> ")
    assert "I would start" in shown and not re.search(r"I would start .*It is important", shown)
    terminal.type("/quit\n")
    assert terminal.end() == 0


def test_a_kill_loses_nothing_that_was_said(store: Store) -> None:
    """kill -9 while a reply is being said: what was finished is in the file, the engines are gone, and the talk goes on."""
    command = [str(Path(sys.executable).parent / "charforge"), "chat", "pip@1.0.0", BARE, "--store", str(store.root)]
    before = set(store.root.glob("talks/*.jsonl"))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "CHARFORGE_SCRIPTED_DELAY": "0.05"}
    )
    assert process.stdin and process.stdout
    process.stdin.write(b"Hello\nAgain\n")
    process.stdin.flush()
    said = [process.stdout.readline().decode() for _ in range(2)]
    time.sleep(0.3)
    # Whichever of its threads started it.
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    children = [pid for thread in threads for pid in (thread / "children").read_text().split()]
    assert children
    process.kill()
    process.wait()
    (path,) = set(store.root.glob("talks/*.jsonl")) - before
    talk = talks.read(path)
    assert [turn.text for turn in talk.turns.values()] == ["Hello", "Again"]
    assert [f"{talk.name(who)}: {reply.text}\n" for (_, who), reply in talk.replies.items()] == sorted(
        said, key=lambda line: [f"{talk.name(w)}: {r.text}\n" for (_, w), r in talk.replies.items()].index(line)
    )
    deadline = time.monotonic() + 10
    while children and time.monotonic() < deadline:
        children = [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not children, "the engines die with the one who asked"
    more = chat(store, "--open", str(path), lines="/retry\n")
    assert more.returncode == 0 and [turn.draw for turn in talks.read(path).turns.values()] == [0, 0, 1]


def test_an_interrupted_script_keeps_what_was_said(store: Store) -> None:
    command = [str(Path(sys.executable).parent / "charforge"), "chat", "pip@1.0.0", "--store", str(store.root)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "CHARFORGE_SCRIPTED_DELAY": "0.2"},
    )  # fmt: skip
    assert process.stdin and process.stderr
    before = set(store.root.glob("talks/*.jsonl"))
    process.stdin.write(b"Hello\nAgain\n")
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not (new := set(store.root.glob("talks/*.jsonl")) - before) or len(talks.read(next(iter(new))).turns) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130 and "Traceback" not in error and "to go on: " in error
    (reply,) = talks.read(next(iter(new))).replies.values()
    assert reply.finish == "stopped" and reply.text.startswith("I would")


# --- with real models ---------------------------------------------------------------------------------------------------


def trained(store: Store, text: str, base: Path, rank: int, seed: int) -> Entry:
    """A registered character with a real adapter on a model that vLLM can run."""
    entry = character(store, text, seed=seed, weights=str(seed))
    recipe = json.loads((entry.folder / "recipe.json").read_text())
    recipe["model"] = {"name": str(base), "chat_template": "chatml"}
    (entry.folder / "recipe.json").write_text(json.dumps(recipe))
    (entry.folder / "adapter" / "adapter_model.safetensors").unlink()
    adapter(base, entry.folder / "adapter", rank, seed)
    return entry


@pytest.mark.slow
@pytest.mark.xdist_group("real")
def test_two_versions_talk_with_the_real_engine(tmp_path: Path, tiny_model: Path) -> None:
    """vLLM in the child: two trained versions and their base, streamed, stopped, and the same again from the same seed."""
    base = widened(tiny_model, tmp_path / "base")
    store = Store(tmp_path / "store")
    trained(store, SMALL, base, 4, 1)
    trained(store, version("1.1.0"), base, 8, 2)
    with parties.party(store, ["pip@1.0.0", "pip@1.1.0", f"model:{base}"], {"max_tokens": 24}) as party:
        notes: list[str] = []
        party.start(notes.append)
        assert "starting the engine" in notes and "merging the adapter" in notes
        said = []
        for _ in range(2):
            talk = party.begin(seed=5)
            turn = say(party, talk, "What is rain?")
            pieces, replies = answered(party, talk, turn, seconds=60)
            said.append([reply.text for reply in replies])
            assert {reply.finish for reply in replies} <= {"stop", "length"} and len(pieces) > 3
            assert all("What is rain?<|im_end|>" in str(reply.read) for reply in replies)
        assert said[0] == said[1] and said[0][0] != said[0][1]
        _, replies = answered(party, talk, say(party, talk, "The rain fell", kind="base"), seconds=60)
        assert all(str(reply.read).endswith("The rain fell") and reply.finish != "failed" for reply in replies)
        # What does not fit fails alone.
        _, replies = answered(party, talk, say(party, talk, "word " * 4000), seconds=60)
        assert {reply.finish for reply in replies} == {"failed"} and "does not fit" in str(replies[0].why)
        long = say(party, talk, "Tell me all.")
        long = long.model_copy(update={"sampling": Sampling(temperature=2, min_p=0, max_tokens=1500)})
        finishes = set()
        for each in party.ask(talk, long, seconds=60):
            # At the first word: a model this small may end by itself at any moment.
            if isinstance(each, Piece):
                party.stop(long.id)
            else:
                finishes.add(each.finish)
        assert "stopped" in finishes
