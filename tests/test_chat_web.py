"""The server of a talk in the browser: what it keeps, what it hides, and whom it lets in."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from charforge import talks
from charforge.chat.page import shared_page
from charforge.chat.party import Piece
from charforge.errors import UserError
from charforge.recipe import Sampling
from charforge.store import Store
from charforge.talks import Reply, Speaker, Talk, Turn

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

from charforge.chat import room, web

HOME = "http://127.0.0.1:8420"
NASTY = (
    "<script>document.title='hacked'</script></script><img src=x onerror=alert(1)> \x1b[31mred\x1b[0m a\u202eb \u200bz"
)
WHO = (
    ("c0ffee000001", "character", "wren@1.1.0", "wren@1.1.0/1eac5e9e78d7", "Base-One", None),
    ("c0ffee000002", "model", "model:plainmodel", "model:plainmodel", "Base-Two", None),
    ("c0ffee000003", "prompt", "prompt:oak@2.0.0", "prompt:oak@2.0.0/77", "Base-Three", "You are an oak of old."),
)


def speakers(count: int) -> tuple[Speaker, ...]:
    return tuple(
        Speaker(id=id_, kind=kind, label=label, reference=ref, model=model, revision="5e" * 20, told=told)  # type: ignore[arg-type]
        for id_, kind, label, ref, model, told in WHO[:count]
    )


class Scripted:
    """A party that says what it is told to say, word by word."""

    sampling = Sampling(max_tokens=64)

    def __init__(self, count: int = 2, delay: float = 0.0) -> None:
        self.speakers = speakers(count)
        self.delay = delay
        self.stopped: set[str] = set()
        self.says: Callable[[Turn, str], str] = lambda turn, speaker: (
            f"Reply {turn.draw} to {turn.text} by {speaker[-1]}"
        )
        self.fails: set[str] = set()

    def begin(self, *, blind: bool = False, seed: int | None = None) -> Talk:
        return Talk.begin(self.speakers, blind=blind, seed=seed, versions={"charforge": "9.9"})

    def ask(
        self, talk: Talk, turn: Turn, speakers: Sequence[str] | None = None, *, seconds: float
    ) -> Iterator[Piece | Reply]:
        for speaker in speakers or [each.id for each in talk.speakers]:
            whole, said, finish = self.says(turn, speaker), "", "stop"
            for word in whole.split(" "):
                if turn.id in self.stopped:
                    finish = "stopped"
                    break
                piece = word if not said else f" {word}"
                said += piece
                yield Piece(speaker, piece)
                time.sleep(self.delay)
            if speaker in self.fails:
                read = "secretly told: You are an oak of old."
                about = {"tokens": 0, "finish": "failed", "seed": 1, "read": read, "why": "Base-One broke"}
                yield Reply(turn=turn.id, speaker=speaker, text="", **about)  # type: ignore[arg-type]
            else:
                tokens = 1000 + int(speaker[-1])
                yield Reply(
                    turn=turn.id, speaker=speaker, text=said, tokens=tokens, finish=finish, seed=7, read=f"<s>{speaker}"
                )  # type: ignore[arg-type]

    def stop(self, turn_id: str) -> None:
        self.stopped.add(turn_id)


class Probing:
    traits = {"asks-back": "Asks back"}  # noqa: RUF012

    def next(self, talk: Talk, trait: str) -> tuple[str, str | None]:
        return "What is a hedge?", "it was trained on this one"

    def shows(self, trait: str, text: str) -> dict[str, bool]:
        return {"ends with a question": text.endswith("?"), "speaks of a hedge": "hedge" in text}


class Page:
    """What the page does, without a browser."""

    def __init__(self, party: Scripted, store: Store, **options: Any) -> None:
        self.party = party
        self.app = web.application(party, store, probes=Probing(), **options)
        self.client = TestClient(self.app, base_url=HOME, headers={"origin": HOME}, raise_server_exceptions=False)
        self.seen: list[str] = []

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        self.seen.append(answer.text)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.client.post(path, json=body if body is not None else {})
        self.seen.append(answer.text)
        assert answer.status_code == status, answer.text
        return answer.json()

    def begin(self, blind: bool = False) -> str:
        return str(self.post("/api/talks", {"blind": blind})["id"])

    def say(self, talk: str, text: str, parent: str | None = None, **more: Any) -> dict[str, Any]:
        """Say something and wait for the replies."""
        turn = self.post(f"/api/talks/{talk}/turns", {"text": text, "parent": parent, **more})
        return self.heard(talk, turn["id"])[-1]["turn"]  # type: ignore[no-any-return]

    def heard(self, talk: str, turn: str) -> list[dict[str, Any]]:
        answer = self.client.get(f"/api/talks/{talk}/turns/{turn}/stream")
        self.seen.append(answer.text)
        return [json.loads(line) for line in answer.text.splitlines() if line]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def page(store: Store) -> Page:
    return Page(Scripted(), store)


# --- talking ----------------------------------------------------------------------------------------------------------


def test_a_message_is_answered_by_all_and_kept(page: Page, store: Store) -> None:
    id_ = page.begin()
    assert not (store.root / "talks").exists(), "a talk in which nothing was said is not kept"
    turn = page.say(id_, "Hello", system="Be brief.", temperature=0.3, max_tokens=9)
    assert [reply["text"] for reply in turn["replies"]] == ["Reply 0 to Hello by 1", "Reply 0 to Hello by 2"]
    kept = talks.read(talks.place(store, id_))
    assert kept.turns[turn["id"]].system == "Be brief."
    assert kept.turns[turn["id"]].sampling == Sampling(temperature=0.3, max_tokens=9)
    assert kept.replies[turn["id"], "c0ffee000002"].tokens == 1002
    assert kept.replies[turn["id"], "c0ffee000002"].read == "<s>c0ffee000002"
    assert [each["id"] for each in page.get("/api/talks")] == [id_]


def test_replies_are_streamed_and_can_be_watched_again(store: Store) -> None:
    page = Page(Scripted(delay=0.03), store)
    id_ = page.begin()
    turn = page.post(f"/api/talks/{id_}/turns", {"text": "one two three four five six"})
    assert turn["coming"]
    lines = page.heard(id_, turn["id"])
    for place in (0, 1):
        pieces = [line["text"] for line in lines if line.get("place") == place]
        assert len(pieces) > 2
        assert "".join(pieces) == lines[-1]["turn"]["replies"][place]["text"]
    assert [line for line in page.heard(id_, turn["id"]) if "turn" in line] == lines[-1:]


def test_stopped_replies_are_kept_as_they_are(store: Store) -> None:
    page = Page(Scripted(delay=0.05), store)
    id_ = page.begin()
    turn = page.post(f"/api/talks/{id_}/turns", {"text": "word " * 100})
    time.sleep(0.3)
    page.post(f"/api/talks/{id_}/turns/{turn['id']}/stop")
    done = page.heard(id_, turn["id"])[-1]["turn"]
    assert done["replies"][0]["finish"] == "stopped"
    assert 0 < len(done["replies"][0]["text"]) < 200
    assert talks.read(talks.place(store, id_)).replies[turn["id"], "c0ffee000001"].text == done["replies"][0]["text"]


def test_branches(page: Page, store: Store) -> None:
    id_ = page.begin()
    first = page.say(id_, "Hello")
    again = page.post(f"/api/talks/{id_}/turns/{first['id']}/again")
    page.heard(id_, again["id"])
    other = page.say(id_, "Good evening")
    edited = page.post(f"/api/talks/{id_}/turns/{first['id']}/replies/1", {"text": "My own words."})
    assert again["draw"] == 1 and other["draw"] == 0
    view = page.get(f"/api/talks/{id_}")
    assert [turn["parent"] for turn in view["turns"]] == [None] * 4
    assert not edited["coming"]
    assert edited["replies"][0]["text"] == first["replies"][0]["text"]
    assert edited["replies"][1] | {"text": "My own words.", "written": True, "tokens": None} == edited["replies"][1]
    # What comes after goes on from the changed words, for that speaker alone.
    after = page.say(id_, "And then?", edited["id"])
    kept = talks.read(talks.place(store, id_))
    assert kept.messages(after["id"], "c0ffee000002")[1]["content"] == "My own words."
    assert kept.messages(after["id"], "c0ffee000001")[1]["content"] == "Reply 0 to Hello by 1"


def test_nothing_is_voted_on_what_a_person_wrote(page: Page, store: Store) -> None:
    id_ = page.begin()
    first = page.say(id_, "Hello")
    edited = page.post(f"/api/talks/{id_}/turns/{first['id']}/replies/1", {"text": "My own words."})
    assert first["votable"] and not edited["votable"]
    page.post(f"/api/talks/{id_}/turns/{edited['id']}/vote", {"best": [1]}, status=409)
    kept = talks.read(talks.place(store, id_))
    vote = talks.Vote(turn=edited["id"], shown=("c0ffee000001", "c0ffee000002"), best=(), blind=False, made=talks.now())
    kept.add({"vote": vote.model_dump(mode="json")})
    assert talks.judgements([kept]) == []


def test_a_text_is_gone_on_with_and_not_voted_on(page: Page) -> None:
    turn = page.say(page.begin(), "Once upon a time", kind="base")
    assert turn["kind"] == "base" and not turn["votable"]


def test_a_probe_says_which_markers_show(page: Page) -> None:
    page.party.says = lambda turn, speaker: "A hedge is green." if speaker[-1] == "1" else "Why?"
    id_ = page.begin()
    asked = page.post(f"/api/talks/{id_}/turns", {"trait": "asks-back"})
    assert (asked["text"], asked["note"]) == ("What is a hedge?", "it was trained on this one")
    turn = page.heard(id_, asked["id"])[-1]["turn"]
    assert [reply["markers"] for reply in turn["replies"]] == [
        {"ends with a question": False, "speaks of a hedge": True},
        {"ends with a question": True, "speaks of a hedge": False},
    ]
    page.post(f"/api/talks/{id_}/turns", {"trait": "no such"}, status=422)


def test_what_fails_is_told_and_the_others_go_on(page: Page) -> None:
    page.party.fails = {"c0ffee000001"}
    turn = page.say(page.begin(), "Hello")
    assert turn["replies"][0]["finish"] == "failed" and turn["replies"][0]["why"] == "Base-One broke"
    assert turn["replies"][1]["finish"] == "stop"
    assert not turn["votable"]


def test_a_party_that_breaks_leaves_failed_replies(page: Page) -> None:
    def breaks(turn: Turn, speaker: str) -> str:
        raise RuntimeError("out of luck")

    page.party.says = breaks
    turn = page.say(page.begin(), "Hello")
    assert [reply["why"] for reply in turn["replies"]] == ["RuntimeError: out of luck"] * 2


def test_a_reply_that_can_not_be_kept_is_told(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = page.begin()
    page.say(id_, "Hello")
    append = talks._append

    def full(file: Any, line: bytes) -> int:
        if line.startswith(b'{"reply"'):
            raise OSError(28, "No space left on device")
        return append(file, line)

    with monkeypatch.context() as patch:
        patch.setattr(talks, "_append", full)
        page.party.delay = 0.1
        turn = page.post(f"/api/talks/{id_}/turns", {"text": "Again"})
        last = page.heard(id_, turn["id"])[-1]
    assert last["turn"]["replies"] == [None, None] and not last["turn"]["coming"]
    assert last["lost"] == "the talk can not be written: No space left on device"
    page.party.delay = 0.0
    assert page.say(id_, "And now?")["replies"][0]["finish"] == "stop"


def test_a_talk_is_there_after_a_restart(page: Page, store: Store) -> None:
    id_ = page.begin()
    turn = page.say(id_, "Hello")
    fresh = Page(Scripted(), store)
    assert fresh.get(f"/api/talks/{id_}")["turns"][0]["replies"] == turn["replies"]
    assert fresh.say(id_, "Again", turn["id"])["parent"] == turn["id"]


def test_who_is_not_here_can_be_read_and_not_asked(store: Store) -> None:
    three = Page(Scripted(3), store)
    id_ = three.begin()
    three.say(id_, "Hello")
    two = Page(Scripted(2), store)
    view = two.get(f"/api/talks/{id_}")
    assert not view["here"] and "charforge chat wren@1.1.0/1eac5e9e78d7" in view["command"]
    two.post(f"/api/talks/{id_}/turns", {"text": "more"}, status=409)
    nobody = web.application(room.Nobody(), store)
    client = TestClient(nobody, base_url=HOME, headers={"origin": HOME})
    assert client.get(f"/api/talks/{id_}").json()["turns"][0]["text"] == "Hello"
    assert client.post("/api/talks", json={}).status_code == 409


def test_a_talk_of_the_command_line_is_gone_on_with_or_shown(store: Store, tmp_path: Path) -> None:
    three = Page(Scripted(3), store)
    id_ = three.begin()
    three.say(id_, "Hello")
    talk = talks.read(talks.place(store, id_))
    about = Page(Scripted(3), Store(tmp_path / "here"), talk=talk).get("/api/about")
    assert about["first"] == id_ and about["opened"] is None
    assert talks.place(Store(tmp_path / "here"), id_).is_file()
    about = Page(Scripted(2), Store(tmp_path / "there"), talk=talk).get("/api/about")
    assert about["first"] is None and not about["opened"]["here"]
    assert about["opened"]["turns"][0]["text"] == "Hello"
    assert not talks.place(Store(tmp_path / "there"), id_).is_file()


# --- blind ------------------------------------------------------------------------------------------------------------


def telling(count: int) -> list[str]:
    """What would tell who is who."""
    found = [part for row in WHO[:count] for part in row if part and part not in ("character", "model", "prompt")]
    return [*found, "5e" * 20, "oak of old", "broke"]


def test_nothing_tells_who_is_who_while_names_are_hidden(store: Store) -> None:
    page = Page(Scripted(3), store, blind=True)
    page.party.says = lambda turn, speaker: f"Some words on {turn.text}."
    page.party.fails = {"c0ffee000001"}
    page.get("/api/about")
    id_ = page.begin(blind=True)
    failed = page.say(id_, "Hello", system="Be kind.")
    page.party.fails = set()
    turn = page.say(id_, "And now?", failed["id"])
    page.post(f"/api/talks/{id_}/turns/{turn['id']}/vote", {"best": [1]})
    again = page.post(f"/api/talks/{id_}/turns/{turn['id']}/again")
    page.heard(id_, again["id"])
    page.post(f"/api/talks/{id_}/turns/{turn['id']}/replies/0", {"text": "changed"})
    page.heard(id_, page.post(f"/api/talks/{id_}/turns", {"trait": "asks-back"})["id"])
    page.get(f"/api/talks/{id_}")
    page.get("/api/talks")
    page.get("/api/votes")
    for path in (f"/api/talks/{id_}/page", f"/api/talks/{id_}/lines"):
        refused = page.client.get(path)
        assert refused.status_code == 409
        page.seen.append(refused.text)
    page.post("/api/files", {"text": talks.place(store, id_).read_text(encoding="utf-8")})
    # Nor where some of them are not here.
    two = Page(Scripted(2), store)
    two.get(f"/api/talks/{id_}")
    two.post(f"/api/talks/{id_}/turns", {"text": "more"}, status=409)
    two.post(f"/api/talks/{id_}/turns/{turn['id']}/again", status=409)
    two.post("/api/files/keep", {"text": talks.place(store, id_).read_text(encoding="utf-8")}, status=409)
    page.seen += two.seen
    page.seen += [page.client.get(path).text for path in ("/", "/chat.js", "/chat.css")]
    leaks = {word for word in telling(3) for text in page.seen[:-3] if word in text}
    assert not leaks
    assert not [text for text in page.seen[:-3] if re.search(r'"(tokens|seed|key|read)": ?["\d]', text)]
    assert not [word for row in WHO for word in row[2:4] if any(word in text for text in page.seen)]
    # And afterwards all of it is there.
    view = page.post(f"/api/talks/{id_}/reveal")
    assert {each["name"] for each in view["speakers"]} == {row[2] for row in WHO}
    assert all(word in json.dumps(view) for row in WHO for word in row[:4] if word)
    assert view["tally"] is not None and view["turns"][-1]["replies"][1]["tokens"] > 1000


def test_places_are_taken_by_chance(page: Page) -> None:
    firsts = set()
    for _ in range(40):
        id_ = page.begin(blind=True)
        firsts.add(page.post(f"/api/talks/{id_}/reveal")["speakers"][0]["name"])
    assert firsts == {"wren@1.1.0", "model:plainmodel"}


def test_votes_count_after_names_are_shown_and_blind_ones_apart(page: Page) -> None:
    id_ = page.begin(blind=True)
    turn = page.say(id_, "Hello")
    other = page.say(id_, "More", turn["id"])
    page.post(f"/api/talks/{id_}/turns/{turn['id']}/vote", {"best": [0]})
    view = page.post(f"/api/talks/{id_}/turns/{turn['id']}/vote", {"best": [1]})
    assert view["tally"] is None and view["turns"][0]["vote"] == [1]
    assert page.get("/api/votes") == {"unseen": [], "open": [], "hidden": 1, "talks": 0}
    view = page.post(f"/api/talks/{id_}/reveal")
    winner = view["speakers"][1]["name"]
    page.post(f"/api/talks/{id_}/turns/{other['id']}/vote", {"best": [0, 1]})
    found = page.get("/api/votes")
    (unseen,), (seen,) = found["unseen"], found["open"]
    assert (unseen["wins"], unseen["losses"], unseen["ties"]) == ((1, 0, 0) if unseen["first"] == winner else (0, 1, 0))
    assert (seen["wins"], seen["losses"], seen["ties"]) == (0, 0, 1)
    assert unseen["low"] is unseen["high"] is None and "1 talk is too few" in unseen["why"]
    page.post(f"/api/talks/{id_}/turns/{other['id']}/vote", {"best": [2]}, status=422)
    page.post(f"/api/talks/{id_}/turns/{other['id']}/vote", {"best": [-1]}, status=422)
    refused = page.post(f"/api/talks/{id_}/turns/{turn['id']}/vote", {"best": [0]}, status=409)
    assert "it stays" in refused["error"]
    after = page.get(f"/api/talks/{id_}")["turns"][0]
    assert (after["vote"], after["blind"], after["votable"]) == ([1], True, False)


def test_one_speaker_can_not_be_hidden(store: Store) -> None:
    Page(Scripted(1), store).post("/api/talks", {"blind": True}, status=409)


# --- sharing ----------------------------------------------------------------------------------------------------------


def shared(page: Page) -> tuple[str, str]:
    """A talk with branches, votes and hostile replies: its id, and its page."""
    page.party.says = lambda turn, speaker: NASTY if speaker[-1] == "1" else f"Plain {turn.draw} {turn.text}"
    id_ = page.begin()
    first = page.say(id_, "Hello & <b>good</b> morning", system="Be brief.")
    again = page.post(f"/api/talks/{id_}/turns/{first['id']}/again")
    page.heard(id_, again["id"])
    page.post(f"/api/talks/{id_}/turns/{first['id']}/vote", {"best": [1]})
    page.say(id_, "</script> and more", first["id"], prefill="I ")
    answer = page.client.get(f"/api/talks/{id_}/page?turn={first['id']}")
    assert answer.status_code == 200
    assert "attachment" in answer.headers["content-disposition"]
    return id_, answer.text


def test_a_shared_page_is_safe_and_whole(page: Page, store: Store) -> None:
    id_, text = shared(page)
    kept = talks.read(talks.place(store, id_))
    assert talks.parse(text, "page").text() == kept.text()
    # Two things begin a tag "script": the data, and nothing else.
    assert re.findall(r"<script[^>]*>", text) == [talks.DATA]
    assert text.count("</script>") == 1
    assert "<img" not in text and "\x1b" not in text and "\u202e" not in text.partition(talks.DATA)[0]
    assert "⟦U+202E⟧" in text and "⟦U+001B⟧" in text
    assert not re.search(r"(?:src|href)=\"(?!#)", text) and "url(" not in text and "@import" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    for words in (
        "Be brief.",
        "wren@1.1.0/1eac5e9e78d7",
        "seed 7",
        "charforge 9.9",
        "Vote: model:plainmodel is better",
    ):
        assert words in text
    assert "Other branches: 1 more turn" in text
    assert f"--open talk-{id_}.html" in text
    assert page.client.get(f"/api/talks/{id_}/lines").text == kept.text()


def test_a_hidden_talk_has_no_page(page: Page) -> None:
    with pytest.raises(UserError, match="names are hidden"):
        shared_page(page.party.begin(blind=True))


def test_what_was_shared_is_read_back_and_gone_on_with(page: Page, store: Store, tmp_path: Path) -> None:
    id_, text = shared(page)
    view = page.post("/api/files", {"text": text})
    assert view["here"] and view["id"] == id_ and not view["kept"]
    assert page.post("/api/files/keep", {"text": text})["id"] == id_, "it is the same talk"
    elsewhere = Page(Scripted(), Store(tmp_path / "elsewhere"))
    assert elsewhere.post("/api/files/keep", {"text": text})["id"] == id_
    page.say(id_, "Later")
    copy = page.post("/api/files/keep", {"text": text})
    assert copy["id"] != id_ and copy["tally"]["open"] == [], "votes count once"
    strangers = Page(Scripted(1), Store(tmp_path / "strangers"))
    assert not strangers.post("/api/files", {"text": text})["here"]
    strangers.post("/api/files/keep", {"text": text}, status=409)


def test_a_speaker_that_is_told_something_else_is_another(page: Page, store: Store) -> None:
    three = Page(Scripted(3), store)
    id_ = three.begin()
    three.say(id_, "Hello")
    lines = three.client.get(f"/api/talks/{id_}/lines").text
    assert three.post("/api/files", {"text": lines})["here"]
    assert not three.post("/api/files", {"text": lines.replace("oak of old", "thief")})["here"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no talk",
        "{}",
        "[]",
        "null\n{}",
        '{"talk": 1}',
        "<html></html>",
        talks.DATA + "</script>",
        "\ud800",
        "[" * 5000,
    ],
    ids=range(10),
)
def test_garbage_is_no_talk(page: Page, text: str) -> None:
    answer = page.client.post(
        "/api/files", content=json.dumps({"text": text}), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert "error" in answer.json() and "Traceback" not in answer.text


def test_a_page_names_the_line_that_is_wrong(page: Page) -> None:
    _, text = shared(page)
    broken = text.replace('{"reply":', '{"replay":', 1)
    line = broken[: broken.index('{"replay":')].count("\n") + 1
    with pytest.raises(UserError, match=f"page.html:{line}: "):
        talks.parse(broken, "page.html")


# --- the door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8420", "", "10.0.0.1", "[::2]", "localhost.evil"]
)
def test_another_name_is_refused(page: Page, host: str) -> None:
    assert page.client.get("/api/about", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8420", "localhost:9999", "localhost", "[::1]:8420"])
def test_its_own_names_are_known(page: Page, host: str) -> None:
    assert page.client.get("/api/about", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "file://127.0.0.1:8420"])
def test_another_origin_changes_nothing(page: Page, store: Store, origin: str | None) -> None:
    client = TestClient(page.app, base_url=HOME, headers={"origin": origin} if origin else {})
    assert client.post("/api/talks", json={}).status_code == 403
    assert not (store.root / "talks").exists()


def test_another_site_reads_nothing(page: Page) -> None:
    for site in ("cross-site", "same-site"):
        assert page.client.get("/api/talks", headers={"sec-fetch-site": site}).status_code == 403
    answer = page.client.get("/api/about")
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    policy = page.client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "inline" not in page.client.get("/").text and "<script>" not in page.client.get("/").text


def test_only_json_of_a_size(page: Page) -> None:
    assert page.client.post("/api/talks", data={"blind": "1"}).status_code == 415
    assert page.client.post("/api/talks", content="{}", headers={"content-type": "text/plain"}).status_code == 415
    headers = {"content-type": "application/json"}
    big = json.dumps({"text": "x" * 600_000})
    assert page.client.post("/api/talks", content=big, headers=headers).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield b"{}"

    assert page.client.post("/api/talks", content=chunks(), headers=headers).status_code == 411
    for body in ("{", "[]", '{"blind": "yes"}', '{"other": 1}', "null", "\xff", "[" * 100_000):
        answer = page.client.post("/api/talks", content=body, headers=headers)
        assert answer.status_code in (400, 422), answer.text
        assert set(answer.json()) == {"error", "hint"}


def test_limits(store: Store) -> None:
    page = Page(Scripted(delay=0.2), store, limits=room.Limits(turns=3, running=2, tokens=100))
    id_ = page.begin()
    page.post(f"/api/talks/{id_}/turns", {"text": "x" * (talks.LONGEST + 1)}, status=422)
    page.post(f"/api/talks/{id_}/turns", {"text": " "}, status=422)
    page.post(f"/api/talks/{id_}/turns", {"text": "a", "max_tokens": 101}, status=422)
    page.post(f"/api/talks/{id_}/turns", {"text": "a", "temperature": 2.5}, status=422)
    page.post(f"/api/talks/{id_}/turns", {"text": "a", "parent": "ffffffff"}, status=404)
    found = [page.post(f"/api/talks/{id_}/turns", {"text": "a b"}) for _ in range(2)]
    page.post(f"/api/talks/{id_}/turns", {"text": "c"}, status=429)
    for turn in found:
        page.heard(id_, turn["id"])
    page.say(id_, "d")
    page.post(f"/api/talks/{id_}/turns", {"text": "e"}, status=409)


def test_as_many_tokens_as_the_command_takes(store: Store) -> None:
    page = Page(Scripted(), store)
    page.party.sampling = Sampling(max_tokens=8192)
    about, id_ = page.get("/api/about"), page.begin()
    assert about["max_tokens"] == about["most_tokens"] == 8192
    assert page.say(id_, "Hello", max_tokens=about["max_tokens"])["max_tokens"] == 8192
    page.post(f"/api/talks/{id_}/turns", {"text": "a", "max_tokens": 8193}, status=422)
    fewer = Page(page.party, store, limits=room.Limits(tokens=100))
    assert "at most 100" in fewer.post(f"/api/talks/{fewer.begin()}/turns", {"text": "a"}, status=422)["error"]


def test_a_talk_in_use_is_open_once(store: Store) -> None:
    page = Page(Scripted(), store, limits=room.Limits(held=1))
    second = page.begin()
    page.say(second, "Hello")
    ids = [second]
    for _ in range(3):
        ids.append(page.begin())
        page.say(ids[-1], "Hello")
    found = page.app.state.room
    used = found.find(second)
    assert found.find(ids[1]) is not used and list(found._sessions) == [ids[1]]
    assert found.find(second) is used, "it went from memory, but not while somebody uses it"
    opened: list[Any] = []
    threads = [threading.Thread(target=lambda: opened.append(found.find(ids[2]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(session) for session in opened}) == 1


def test_a_probe_that_takes_long_holds_nobody_up(page: Page) -> None:
    id_ = page.begin()
    page.say(id_, "Hello")
    found, goes_on, asked = page.app.state.room, threading.Event(), threading.Event()

    class Slow(Probing):
        def next(self, talk: Talk, trait: str) -> tuple[str, str | None]:
            asked.set()
            assert goes_on.wait(10)
            return f"Probe after {len(talk.turns)}", None

    found.probes = Slow()
    turns: list[Turn] = []
    thread = threading.Thread(
        target=lambda: turns.append(found.turn(found.find(id_), room.NewTurn(trait="asks-back"))[0])
    )
    thread.start()
    assert asked.wait(10)
    reading = threading.Thread(target=lambda: found.view(found.find(id_)))
    reading.start()
    reading.join(timeout=5)
    assert not reading.is_alive()
    goes_on.set()
    thread.join(timeout=10)
    assert [turn.text for turn in turns] == ["Probe after 1"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/talks/../../etc/passwd",
        "/api/talks/..%2f..%2fx",
        "/api/talks/ABCDEF12",
        "/api/talks/" + "a" * 65,
        "/static",
        "/docs",
        "/openapi.json",
        "/chat.js/../room.py",
    ],
)
def test_no_path_of_a_request_is_a_path_of_files(page: Page, path: str) -> None:
    answer = page.client.get(path)
    assert answer.status_code in (404, 422) and "error" in answer.json()


def test_a_bug_shows_no_traceback(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.app.state.room, "listing", lambda: 1 / 0)
    answer = page.client.get("/api/talks")
    assert answer.status_code == 500
    assert set(answer.json()) == {"error", "hint"} and "division" not in answer.text


def test_a_token_must_come_once_and_is_kept_as_a_cookie(store: Store) -> None:
    page = Page(Scripted(), store, host="0.0.0.0", token="right-token", cookie="charforge-1")
    home = "http://192.168.1.7:8420"

    def visitor(**headers: str) -> TestClient:
        return TestClient(page.app, base_url=home, headers={"origin": home, **headers})

    for path in ("/", "/chat.js", "/api/about", "/?token=", "/?token=wrong", "/api/about?token=right-token"):
        assert visitor().get(path).status_code == 401
    assert visitor().post("/api/talks", json={}).status_code == 401
    assert visitor(cookie="charforge-1=wrong").get("/api/about").status_code == 401
    guest = visitor()
    came = guest.get("/?token=right-token")
    assert came.status_code == 200
    cookie = came.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert "right-token" not in came.text
    assert guest.get("/api/about").status_code == 200
    assert guest.post("/api/talks", json={}).status_code == 200
    assert guest.get("/api/about", headers={"host": "evil.example"}).status_code == 421


# --- the process ------------------------------------------------------------------------------------------------------

_SERVE = """
import sys
from pathlib import Path
from charforge.chat import web
from charforge.store import Store
from tests.test_chat_web import Scripted
web._Connection.patience = float(sys.argv[3])
try:
    web.serve(Scripted(2, 0.3), Store(Path(sys.argv[1])), listening=web.listen(sys.argv[2], 0), host=sys.argv[2])
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextlib.contextmanager
def served(folder: Path, host: str = "127.0.0.1", patience: float = 60) -> Iterator[subprocess.Popen[str]]:
    """The server in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(folder), host, str(patience)],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()


def test_ctrl_c_ends_it_and_keeps_what_was_said(tmp_path: Path) -> None:
    import httpx

    with served(tmp_path) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with httpx.Client(base_url=url, headers={"origin": url.rstrip("/")}) as client:
            id_ = client.post("/api/talks", json={}).json()["id"]
            turn = client.post(f"/api/talks/{id_}/turns", json={"text": "word " * 50}).json()["id"]
            with client.stream("GET", f"/api/talks/{id_}/turns/{turn}/stream") as lines:
                first = next(line for line in lines.iter_lines() if line)
                server.send_signal(signal.SIGINT)
                begun = time.monotonic()
                assert json.loads(first)["text"].startswith("Reply")
                # The connection may end before the last line does.
                with contextlib.suppress(httpx.HTTPError, httpx.StreamError):
                    list(lines.iter_lines())
        _, errors = server.communicate(timeout=20)
        assert time.monotonic() - begun < 10
    assert (server.returncode, errors) == (130, "Ctrl-C ends it\n")
    kept = talks.read(talks.place(Store(tmp_path), id_))
    assert kept.replies[turn, "c0ffee000001"].finish == "stopped"
    assert kept.replies[turn, "c0ffee000001"].text.startswith("Reply")


@pytest.mark.slow
def test_the_command_answers_in_a_browser(tmp_path: Path) -> None:
    """The whole way: the installed command, its child with the scripted engine, two speakers, a probe."""
    import httpx

    from tests.test_chat import BARE, cast

    command = [str(Path(sys.executable).parent / "charforge"), "chat", "pip@1.0.0", BARE, "--blind", "--web"]
    command += ["--port", "0", "--no-browser", "--store", str(cast(tmp_path).root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with httpx.Client(base_url=url, headers={"origin": url.rstrip("/")}, timeout=60) as client:
            about = client.get("/api/about").json()
            assert about["blind"] and about["speakers"] == 2
            assert {"id": "asks-back", "title": "Asks back"} in about["traits"]
            id_ = client.post("/api/talks", json={"blind": True}).json()["id"]
            turn = client.post(f"/api/talks/{id_}/turns", json={"trait": "asks-back"}).json()["id"]
            last = client.get(f"/api/talks/{id_}/turns/{turn}/stream").text.splitlines()[-1]
            replies = json.loads(last)["turn"]["replies"]
            view = client.post(f"/api/talks/{id_}/reveal", json={}).json()
            # By the fixed rule the trained one asks back, and the bare model does not.
            asks = {
                s["kind"]: reply["markers"]["ends with a question"]
                for s, reply in zip(view["speakers"], replies, strict=True)
            }
            assert asks == {"character": True, "model": False}
            assert talks.parse(client.get(f"/api/talks/{id_}/page").text, "page").replies
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    assert server.returncode == 130


def test_where_it_can_not_listen_is_said_before_an_engine_starts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from charforge.chat import party as parties
    from charforge.cli import chat

    monkeypatch.setattr(parties, "party", lambda *_: pytest.fail("an engine would start"))
    store.prepare()

    def refused(host: str, port: int) -> UserError:
        with pytest.raises(UserError) as found:
            chat.chat(["pip@1.0.0"], web=True, host=host, port=port, browser=False, store=store.root)
        assert found.value.exit_code == 2
        return found.value

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port: port {port} is taken" in str(refused("127.0.0.1", port))
    for host in ("no.such.host.invalid", "a" * 70 + ".b", "1.2.3.4", "x y", "\u2028"):
        error = refused(host, 0)
        assert str(error.place) == "--host" and "can not listen" in error.message and error.hint


@pytest.mark.parametrize("host", ["127.1", "0", ""])
def test_an_address_is_called_as_browsers_call_it(tmp_path: Path, host: str) -> None:
    import httpx

    with served(tmp_path, host) as server:
        assert server.stdout is not None
        url = httpx.URL(server.stdout.readline().strip())
        local = host.startswith("127") or host == "localhost"
        assert bool(url.query) is not local, "without a token on this machine alone"
        with httpx.Client(base_url=f"http://127.0.0.1:{url.port}") as client:
            if not local:
                assert client.get("/api/talks").status_code == 401
                assert client.get(f"/?{url.query.decode()}").status_code == 200
            assert client.get("/api/talks").status_code == 200
            assert client.get("/api/talks", headers={"host": "evil.example"}).status_code == 421


def test_who_is_slow_takes_no_place(tmp_path: Path) -> None:
    import httpx

    with served(tmp_path, patience=4) as server:
        assert server.stdout is not None and server.stderr is not None
        url = httpx.URL(server.stdout.readline().strip())
        here = (url.host, url.port or 0)
        head = f"POST /api/talks HTTP/1.1\r\nHost: {url.netloc.decode()}\r\nOrigin: {str(url)[:-1]}\r\n"
        body = head + "Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        with contextlib.ExitStack() as stack:
            slow: list[socket.socket] = []

            def connect(sent: str) -> None:
                slow.append(stack.enter_context(socket.create_connection(here, timeout=10)))
                slow[-1].sendall(sent.encode())

            for sent in [body, head, "GET / HT", ""] * 24:
                connect(sent)
            # A request that came when there was no place was sent away, and left one: on a busy machine these are many.
            while httpx.get(url).status_code != 503:
                assert len(slow) < 400, "all places are taken by far fewer"
                for _ in range(10):
                    connect("")
            for connection in slow:
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(1000):
                        pass
            assert httpx.get(url).status_code == 200
        # A reply may take longer than that.
        with httpx.Client(base_url=url, headers={"origin": str(url)[:-1]}) as client:
            id_ = client.post("/api/talks", json={}).json()["id"]
            turn = client.post(f"/api/talks/{id_}/turns", json={"text": "a b c d"}).json()["id"]
            lines = client.get(f"/api/talks/{id_}/turns/{turn}/stream").text.splitlines()
            assert "turn" in json.loads(lines[-1])
        server.send_signal(signal.SIGINT)
        assert server.stderr.read() == "Ctrl-C ends it\n"


_ANOTHER = """
import encodings.idna, os, socket, struct, sys
port, path, how = sys.argv[1:]
os.setuid(65534)
found = socket.create_connection(("127.0.0.1", int(port)))
body = b'{"text": "Hello"}'
lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}",
         "Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
found.sendall("\\r\\n".join(lines).encode() + body)
if how == "waits":
    print(found.recv(100).split()[1].decode())
elif how == "resets":
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
found.close()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can be another user")
def test_another_user_of_this_machine_is_sent_away(tmp_path: Path) -> None:
    import httpx

    with served(tmp_path) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with httpx.Client(base_url=url, headers={"origin": url.rstrip("/")}) as client:
            id_ = client.post("/api/talks", json={}).json()["id"]
            path = f"/api/talks/{id_}/turns"
            for how in ("waits", "closes", "resets"):
                if how != "waits":
                    # Who does not wait is gone before the server looks who it was.
                    server.send_signal(signal.SIGSTOP)
                command = [sys.executable, "-c", _ANOTHER, str(httpx.URL(url).port), path, how]
                done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
                server.send_signal(signal.SIGCONT)
                assert done.stdout == ("403\n" if how == "waits" else "")
                time.sleep(0.3)
                assert client.get(f"/api/talks/{id_}").json()["turns"] == [], how
            assert client.post(path, json={"text": "Hello"}).status_code == 200


def test_without_the_extra_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "charforge.chat.web")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"pip install 'charforge\[chat\]'"):
        importlib.import_module("charforge.chat.web")


def test_many_at_once(store: Store) -> None:
    """Turns in several talks at the same time are each answered with their own."""
    page = Page(Scripted(delay=0.01), store)
    ids = [page.begin() for _ in range(4)]
    found: dict[str, dict[str, Any]] = {}

    def talk(id_: str) -> None:
        found[id_] = page.say(id_, f"word {id_} " * 5)

    threads = [threading.Thread(target=talk, args=(id_,)) for id_ in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id_ in ids:
        assert all(reply["text"].count(id_) == 5 for reply in found[id_]["replies"])
