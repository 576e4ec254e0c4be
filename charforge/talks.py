"""Talks: what a person and one or more speakers said to each other, and which replies the person liked better.

A talk is a tree of turns. A turn is what the person said and what every speaker answered, side by side; saying something
else, or asking for other replies, begins another branch beside it. Each speaker knows only the replies of its own.

A talk is kept as JSON Lines, one event a line and each on disk before the next: who speaks, a turn, a reply, a vote, that
names were shown. The file is the talk: `STORE/talks/ID.jsonl` and what is shared are the same.

    {"talk": {"id": "9f0c3a52b1d4", "speakers": [...], ...}}
    {"turn": {"id": "1b8d2e90", "parent": null, "text": "Hello", ...}}
    {"reply": {"turn": "1b8d2e90", "speaker": "1eac5e9e78d7", "text": "Hello. What brings you here?", ...}}
    {"vote": {"turn": "1b8d2e90", "best": ["1eac5e9e78d7"], "shown": [...], "blind": true, ...}}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import FileIO
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from charforge.constitution import Message
from charforge.errors import Place, UserError
from charforge.recipe import Sampling
from charforge.statistics import proportion
from charforge.store import Store, to_line, write_atomic

FOLDER = "talks"
MOST_BYTES = 8 * 1024 * 1024
"""A larger talk is not read, unless it is the store's own."""
LONGEST = 32_000
"""The longest message, in characters."""
FEWEST_TALKS = 8
"""With votes in fewer talks there is no interval."""
LONGEST_READ = 8_000
"""Of what a model read, more characters than these are not kept: they follow from the talk and the template."""
DATA = '<script type="application/jsonl" id="talk">'
"""What the talk's lines stand behind in a page that holds them."""

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
Text = Annotated[str, StringConstraints(max_length=LONGEST)]
Finish = Literal["stop", "length", "stopped", "late", "failed"]
"""Why a reply ended: the model was done, as many tokens as asked for, the person stopped it, time was up, an error."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Speaker(_Event):
    """Who answers: a trained character, a bare model, or a model under a character's constitution."""

    id: Id
    """What it is: the digest of its weights and of what they are told."""
    kind: Literal["character", "model", "prompt"]
    label: Text
    """What it is called."""
    reference: Text
    """What names it on the command line, in full."""
    model: Text
    """Its base model."""
    revision: Text | None = None
    """What pins the base model: its digest or commit."""
    key: Id | None = None
    """The key of the character that it is."""
    told: Text | None = None
    """What it is told before anything else."""


class Turn(_Event):
    """What the person said, and how replies to it were drawn."""

    id: Id
    parent: Id | None = None
    """The turn that it goes on from; None at the beginning."""
    kind: Literal["chat", "base"] = "chat"
    """``base``: `text` is a document to go on with, without the chat template and without what was said before."""
    text: Text
    system: Text | None = None
    """The system message from here on: what the person told all speakers."""
    prefill: Text = ""
    """The beginning of every reply, put into the speakers' mouths."""
    sampling: Sampling
    draw: int = Field(0, ge=0)
    """Which draw of replies to the same words this is, from 0."""
    trait: Text | None = None
    """The trait of which the message is a probe."""
    made: Text
    """When, in UTC."""


class Reply(_Event):
    """What a speaker answered."""

    turn: Id
    speaker: Id
    text: Text
    """Without the prefill."""
    tokens: int = Field(ge=0)
    finish: Finish
    seed: int | None = None
    """The seed of the draw; None where a person wrote or changed the reply."""
    read: Annotated[str, StringConstraints(max_length=40 * LONGEST)] | None = None
    """What the model read, word for word; None where it was longer than `LONGEST_READ`, or is not known."""
    why: Text | None = None
    """Why it failed."""


class Vote(_Event):
    """Which replies to a turn the person liked best. A later vote on the same turn takes the place of an earlier one,
    but for an open one after a blind one."""

    turn: Id
    shown: tuple[Id, ...] = Field(min_length=2)
    """The speakers, in the order in which their replies stood."""
    best: tuple[Id, ...] = ()
    """One: it is better than the others. Several: equally good. None: all equally bad."""
    blind: bool
    """Whether the person did not know whose replies they were."""
    made: Text


class Header(_Event):
    """Who takes part in a talk."""

    schema_: Literal[1] = Field(1, alias="schema")
    id: Id
    speakers: tuple[Speaker, ...] = Field(min_length=1, max_length=16)
    """In the order in which their replies are shown."""
    blind: bool = False
    """Whether names were hidden when it began."""
    seed: int = 0
    made: Text
    versions: Mapping[str, Text] = Field(default_factory=dict)
    """Which versions of charforge and the libraries drew the replies."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(digits: int = 8) -> str:
    return secrets.token_hex(digits // 2)


@dataclass
class Talk:
    """A talk as it stands. `add` takes the next event; nothing is ever taken back."""

    header: Header
    turns: dict[str, Turn] = field(default_factory=dict)
    replies: dict[tuple[str, str], Reply] = field(default_factory=dict)
    """By turn and speaker."""
    votes: dict[str, Vote] = field(default_factory=dict)
    """The last one on each turn; the last blind one, if there is one."""
    revealed: str | None = None
    """When names were shown."""
    _after: dict[str | None, list[Turn]] = field(init=False, repr=False, compare=False)
    """The turns that go on from each."""

    def __post_init__(self) -> None:
        self._after = {}
        for turn in self.turns.values():
            self._after.setdefault(turn.parent, []).append(turn)

    @classmethod
    def begin(cls, speakers: Sequence[Speaker], *, blind: bool = False, seed: int | None = None, **about: Any) -> Talk:
        """A new talk, with a seed by chance unless one is given. Blind, the speakers take their places by chance.

        With one seed for all, the same words would draw the same replies in every talk: several would be no more evidence
        than one, and an open talk would tell whose replies a blind one shows.
        """
        seed = secrets.randbelow(2**31) if seed is None else seed
        places = list(speakers)
        if blind:
            secrets.SystemRandom().shuffle(places)
        return cls(Header(id=new_id(12), speakers=tuple(places), blind=blind, seed=seed, made=now(), **about))

    @property
    def speakers(self) -> tuple[Speaker, ...]:
        return self.header.speakers

    @property
    def hidden(self) -> bool:
        """Whether names must not be shown yet."""
        return self.header.blind and self.revealed is None

    def speaker(self, id_: str) -> Speaker:
        return next(speaker for speaker in self.speakers if speaker.id == id_)

    def name(self, id_: str) -> str:
        """What a speaker may be called: its label, or a letter by its place while names are hidden."""
        if not self.hidden:
            return self.speaker(id_).label
        return "ABCDEFGHIJKLMNOP"[[speaker.id for speaker in self.speakers].index(id_)]

    def path(self, turn: str | None) -> list[Turn]:
        """The turns from the beginning to this one."""
        found: list[Turn] = []
        while turn is not None:
            found.append(self.turns[turn])
            turn = found[-1].parent
        return found[::-1]

    def children(self, turn: str | None) -> list[Turn]:
        """The turns that go on from this one (None: that begin the talk), in the order in which they were made."""
        return list(self._after.get(turn, ()))

    def leaf(self, turn: str | None = None) -> str | None:
        """The end of the branch through this turn that was gone on with last."""
        while found := self.children(turn):
            turn = found[-1].id
        return turn

    def messages(self, turn: str, speaker: str) -> tuple[Message, ...]:
        """What a speaker reads before it answers a turn of chat."""
        last = self.turns[turn]
        told = [text for text in (self.speaker(speaker).told, last.system) if text]
        found: list[Message] = [{"role": "system", "content": "\n\n".join(told)}] if told else []
        for each in self.path(last.parent):
            reply = self.replies.get((each.id, speaker))
            # A reply that never came, or was never begun, leaves nothing to answer to.
            if each.kind == "chat" and reply is not None and (each.prefill + reply.text).strip():
                found.append({"role": "user", "content": each.text})
                found.append({"role": "assistant", "content": each.prefill + reply.text})
        return (*found, {"role": "user", "content": last.text})

    def settled(self, turn: str) -> bool:
        """Whether a blind vote was given on this turn, and names are known now: it stays."""
        return not self.hidden and turn in self.votes and self.votes[turn].blind

    def votable(self, turn: Turn) -> list[str]:
        """The speakers whose replies to a turn can be voted on: those that a model drew, in the order of their places.

        Raises:
            UserError: there is nothing to choose between.
        """
        if turn.kind != "chat":
            raise UserError("a text that was gone on with is not voted on")
        if self.settled(turn.id):
            raise UserError("a blind vote was given here: now that the names are known, it stays")
        replies = ((speaker.id, self.replies.get((turn.id, speaker.id))) for speaker in self.speakers)
        drawn = [id_ for id_, reply in replies if reply and reply.finish != "failed" and reply.seed is not None]
        if len(drawn) < 2:
            raise UserError("a vote needs two replies that models wrote to the message")
        return drawn

    def add(self, event: Mapping[str, Any]) -> None:
        """Take one event of the file.

        Raises:
            ValueError: it does not fit what is there.
        """
        self.take(self.checked(event))

    def checked(self, event: Mapping[str, Any]) -> Turn | Reply | Vote | str:
        """What an event of the file says; nothing changes.

        Raises:
            ValueError: it does not fit what is there.
        """
        ((kind, data),) = event.items() if len(event) == 1 else (("", None),)
        known = {speaker.id for speaker in self.speakers}
        if kind == "turn":
            turn = Turn.model_validate(data)
            if turn.id in self.turns:
                raise ValueError(f"turn {turn.id} is there already")
            if turn.parent is not None and turn.parent not in self.turns:
                raise ValueError(f"turn {turn.id} goes on from {turn.parent}, which is not there")
            return turn
        if kind == "reply":
            reply = Reply.model_validate(data)
            self._check(reply.turn, {reply.speaker}, known)
            return reply
        if kind == "vote":
            vote = Vote.model_validate(data)
            self._check(vote.turn, {*vote.shown, *vote.best}, known)
            if len(set(vote.shown)) < len(vote.shown) or not set(vote.best) <= set(vote.shown):
                raise ValueError("a vote is for speakers that were shown, each once")
            return vote
        if kind == "revealed":
            return str(data)[:40]
        raise ValueError(f"unknown event {kind!r}")

    def take(self, found: Turn | Reply | Vote | str) -> None:
        """Take what `checked` found."""
        if isinstance(found, Turn):
            self.turns[found.id] = found
            self._after.setdefault(found.parent, []).append(found)
        elif isinstance(found, Reply):
            self.replies[found.turn, found.speaker] = found
        elif isinstance(found, Vote):
            if not self.settled(found.turn) or found.blind:
                self.votes[found.turn] = found
        else:
            self.revealed = self.revealed or found

    def update(self, other: Talk) -> None:
        """Become what another state of this talk is. Who reads the old one meanwhile reads all of it."""
        self.turns, self.replies, self.votes = other.turns, other.replies, other.votes
        self._after, self.revealed = other._after, other.revealed

    def _check(self, turn: str, speakers: set[str], known: set[str]) -> None:
        if turn not in self.turns:
            raise ValueError(f"there is no turn {turn}")
        if not speakers <= known:
            raise ValueError(f"there is no speaker {min(speakers - known)}")

    def events(self) -> Iterator[dict[str, Any]]:
        """The talk as the lines of its file, with every turn before its replies."""
        yield {"talk": self.header.model_dump(mode="json", by_alias=True)}
        for turn in self.turns.values():
            yield {"turn": turn.model_dump(mode="json")}
            for speaker in self.speakers:
                if reply := self.replies.get((turn.id, speaker.id)):
                    yield {"reply": reply.model_dump(mode="json")}
            if vote := self.votes.get(turn.id):
                yield {"vote": vote.model_dump(mode="json")}
        if self.revealed:
            yield {"revealed": self.revealed}

    def text(self) -> str:
        """The file."""
        return "".join(to_line(event) for event in self.events())


def parse(text: str, place: str, *, limited: bool = True) -> Talk:
    """The talk of a file, or of a page that holds one. A last line that was cut short, as by a kill, is left out.

    One from elsewhere has at most `MOST_BYTES`; `limited` is False for a store's own.

    Raises:
        UserError: naming the line that is wrong.
    """
    before, found, data = text.partition(DATA)
    text, first = (data.partition("</script>")[0], before.count("\n") + 1) if found else (text, 1)
    if limited and (len(text) > MOST_BYTES or len(text.encode(errors="replace")) > MOST_BYTES):
        raise _too_large(place)
    lines = text.split("\n")
    talk: Talk | None = None
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            if not isinstance(event, dict):
                raise ValueError("not an event")
            if talk is None:
                talk = Talk(Header.model_validate(event.get("talk")))
            else:
                talk.add(event)
        except (ValueError, RecursionError) as error:
            if talk is not None and number == first + len(lines) - 1 and isinstance(error, json.JSONDecodeError):
                break
            raise UserError(
                f"this is no talk: {_first(error)}",
                place=Place(place, number),
                hint="a talk is a file that `charforge chat` wrote: /save in the terminal, or Share in the browser",
            ) from error
    if talk is None:
        raise UserError("this is no talk: the file is empty", place=place)
    return talk


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        return f"{where}: {found['msg'].lower()}" if where else str(found["msg"]).lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class Record:
    """A talk that is kept in a store while it goes on. Several threads may add to it, and several processes.

    Each takes in what another has written before it adds something: two terminals in one talk are two branches of it.
    """

    def __init__(self, store: Store, talk: Talk) -> None:
        self.talk = talk
        self.path = place(store, talk.header.id)
        self._store = store
        self._lock = threading.Lock()
        self._size: int | None = None
        """Of the file, when it was last known to say what the talk says."""
        if not self.path.is_file():
            self._write()

    def add(self, kind: Literal["turn", "reply", "vote", "revealed"], data: _Event | str) -> None:
        """Add an event: it is on disk when this returns.

        Raises:
            ValueError: it does not fit what is there.
            UserError: it can not be written. The talk and its file are what they were.
        """
        event: dict[str, Any] = {kind: data if isinstance(data, str) else data.model_dump(mode="json")}
        with self._lock:
            try:
                with self._held() as file:
                    self._take_in(os.fstat(file.fileno()).st_size)
                    found = self.talk.checked(event)
                    self._size = _append(file, to_line(event).encode())
            except OSError as error:
                raise self._unwritten(error) from error
            self.talk.take(found)

    def refresh(self) -> None:
        """Take in what another process has written.

        Raises:
            UserError: the file does not hold what it held.
        """
        with self._lock, contextlib.suppress(FileNotFoundError):
            self._take_in(self.path.stat().st_size)

    def _take_in(self, size: int) -> None:
        if size == self._size:
            return
        found, known = read(self.path, self._store), self.talk
        if found.header.id != known.header.id or not (known.turns.keys() <= found.turns.keys()):
            raise UserError(
                "the file of this talk was changed, and turns of it are gone",
                place=str(self.path),
                hint="what is known here can still be saved to another file",
            )
        known.update(found)
        self._size = size

    @contextlib.contextmanager
    def _held(self) -> Iterator[FileIO]:
        """The file, which no other process writes to meanwhile. One that was removed is written again."""
        while True:
            if not self.path.is_file():
                self._write()
            # Without a buffer: what could not be written must not be written again when the file is closed.
            with self.path.open("a+b", buffering=0) as file:
                # Some file systems know no locks.
                with contextlib.suppress(OSError):
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                try:
                    same = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
                except FileNotFoundError:
                    same = False
                if same:
                    yield file
                    return

    def _write(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, self.talk.text())
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> UserError:
        return UserError(f"the talk can not be written: {error.strerror or error}", place=str(self.path))


def _append(file: FileIO, line: bytes) -> int:
    """Write a line at the end, on disk when this returns: how long the file is then. Where that fails it is what it was."""
    # What a kill cut short is closed off, so that this line stands alone.
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            _drop_last_line(file)
    size = file.seek(0, os.SEEK_END)
    try:
        while line:
            line = line[file.write(line) :]
        os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            file.truncate(size)
        raise
    return file.tell()


def _drop_last_line(file: FileIO) -> None:
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def place(store: Store, id_: str) -> Path:
    """Where a store keeps the talk of this id."""
    if not re.fullmatch(r"[0-9a-f]{8,64}", id_):
        raise UserError(f"{id_!r} is no talk's id")
    return store.root / FOLDER / f"{id_}.jsonl"


def read(path: Path, store: Store | None = None) -> Talk:
    """The talk in a file that charforge wrote: JSON Lines, or the page that holds them.

    The files of `store` may have any size: what was kept must never be refused.

    Raises:
        UserError: it can not be read, is too large, or is no talk.
    """
    own = store is not None and _own(store, path)
    try:
        with path.open("rb") as file:
            # Of what has no end, or no known size, no more is read than could be a talk.
            data = file.read(-1 if own else 2 * MOST_BYTES + 1)
        if not own and len(data) > 2 * MOST_BYTES:
            raise _too_large(str(path))
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the talk can not be read: {_first(error)}", place=str(path)) from error
    return parse(text, str(path), limited=not own)


def _own(store: Store, path: Path) -> bool:
    """Whether a file is one of the store's own."""
    return path.resolve().parent == (store.root / FOLDER).resolve()


def _too_large(place: str) -> UserError:
    return UserError(f"the talk is larger than {MOST_BYTES / 2**20:g} MiB", place=place)


def opened(store: Store, path: Path) -> Record:
    """Go on with the talk in a file, in this store, as `adopted` does.

    Raises:
        UserError: it can not be read, or is no talk.
    """
    talk = read(path, store)
    if _own(store, path) and path.name == place(store, talk.header.id).name:
        # What others add to it meanwhile makes no other talk of it.
        return Record(store, talk)
    return adopted(store, talk)


def adopted(store: Store, talk: Talk) -> Record:
    """Go on with a talk in this store. Where the store keeps another state of it, this one is a new talk.

    The new one has no votes: they count once, where they were given.
    """
    known = place(store, talk.header.id)
    if known.is_file() and read(known, store).text() != talk.text():
        header = talk.header.model_copy(update={"id": new_id(12)})
        talk = Talk(header, talk.turns, talk.replies, {}, talk.revealed)
    return Record(store, talk)


def kept(store: Store) -> Iterator[Talk]:
    """Every talk of a store, the oldest first. A file that can not be read is passed over: it is no reason to stop."""
    found = []
    for path in (store.root / FOLDER).glob("*.jsonl"):
        try:
            found.append(read(path, store))
        except UserError:
            continue
    yield from sorted(found, key=lambda talk: (talk.header.made, talk.header.id))


# --- votes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """What a person said of two replies to the same turn: `value` is 1 if the first is better, 0 the second, 0.5 neither."""

    talk: str
    first: str
    second: str
    """The speakers."""
    value: float
    blind: bool
    said: tuple[Message, ...]
    """What both had read, without system messages; where their talks had parted before, the second's is in `said_second`."""
    said_second: tuple[Message, ...]
    replies: tuple[str, str]


def judgements(talks: Iterable[Talk], *, said: bool = True) -> list[Judgement]:
    """Every pair of replies that a vote says something of, the speakers of each in the order of their ids.

    `said` is left empty where nobody asks for it: a count does not need it, and over a talk it grows with its square.

    Base-format turns have no messages and are left out; so is a pair of which one failed, is empty or was written by a
    person, and replies that are the same.
    """
    found = []
    for talk in talks:
        for vote in talk.votes.values():
            turn = talk.turns[vote.turn]
            if turn.kind != "chat":
                continue
            for one, other in combinations(sorted(vote.shown), 2):
                both = [talk.replies.get((turn.id, speaker)) for speaker in (one, other)]
                drawn = [reply for reply in both if reply and reply.finish != "failed" and reply.seed is not None]
                texts = [turn.prefill + reply.text for reply in drawn]
                if len(texts) < 2 or not all(text.strip() for text in texts) or texts[0] == texts[1]:
                    continue
                if (one in vote.best) != (other in vote.best):
                    value = 1.0 if one in vote.best else 0.0
                elif one in vote.best or not vote.best:
                    value = 0.5
                else:
                    # Both lost to a third: nothing was said of the two.
                    continue
                read: list[tuple[Message, ...]] = [
                    tuple(m for m in talk.messages(turn.id, speaker) if m["role"] != "system") if said else ()
                    for speaker in (one, other)
                ]
                pair = (texts[0], texts[1])
                found.append(Judgement(talk.header.id, one, other, value, vote.blind, read[0], read[1], pair))
    return found


@dataclass(frozen=True)
class Preference:
    """How often people preferred one speaker to another."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    talks: int
    share: float
    """Of wins, a tie counting half."""
    low: float | None
    high: float | None
    """Its 95% interval, which clusters by talk: who talks to a speaker for long votes often."""
    why: str | None
    """Why there is no interval."""


def tally(found: Iterable[Judgement]) -> list[Preference]:
    """The preferences between all pairs of speakers, in the order of their ids."""
    pairs: dict[tuple[str, str], list[Judgement]] = {}
    for each in found:
        pairs.setdefault((each.first, each.second), []).append(each)
    result = []
    for (one, other), votes in sorted(pairs.items()):
        values = [vote.value for vote in votes]
        share = proportion(values, [vote.talk for vote in votes])
        assert share is not None
        wins, losses, ties = (values.count(value) for value in (1.0, 0.0, 0.5))
        why = few(share.clusters)
        low, high = (None, None) if why else (share.low, share.high)
        result.append(Preference(one, other, wins, losses, ties, share.clusters, share.value, low, high, why))
    return result


def few(talks: int) -> str | None:
    """Why so many talks have no interval, or None."""
    if talks >= FEWEST_TALKS:
        return None
    return f"{talks} {'talk is' if talks == 1 else 'talks are'} too few for an interval: {FEWEST_TALKS} are the least"
