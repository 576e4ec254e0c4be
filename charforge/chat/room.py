"""The talks that are open in a browser: who is asked, what is kept, and what the page is shown.

The page knows speakers by their place in the talk alone. While names are hidden nothing that tells who is who leaves here:
no label, digest, model, prompt or seed, no count of tokens, and no reason why a reply failed.

A turn is answered in a thread of its own and kept as it comes, whoever watches: a page that was closed finds it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from charforge import __version__, talks
from charforge.chat.page import command
from charforge.errors import CharforgeError, UserError
from charforge.recipe import Sampling
from charforge.store import Store
from charforge.talks import Reply, Speaker, Talk, Turn

_TITLE = 90
# How often a page that watches is told what is new, in seconds.
_TICK = 0.04


class Answers(Protocol):
    """Who answers: `charforge.chat.party.Party`, as far as the page needs it."""

    @property
    def speakers(self) -> tuple[Speaker, ...]: ...

    @property
    def sampling(self) -> Sampling: ...

    def begin(self, *, blind: bool = False, seed: int | None = None) -> Talk: ...

    def ask(
        self, talk: Talk, turn: Turn, speakers: Sequence[str] | None = None, *, seconds: float
    ) -> Iterator[Any]: ...

    def stop(self, turn_id: str) -> None: ...


class Nobody:
    """No speakers: talks can be read and shared."""

    speakers: tuple[Speaker, ...] = ()
    sampling = Sampling()

    def begin(self, *, blind: bool = False, seed: int | None = None) -> Talk:
        raise Refused(409, "nobody is here to talk with", "name them: charforge chat SPEAKER... --web")

    def ask(self, talk: Talk, turn: Turn, speakers: Sequence[str] | None = None, *, seconds: float) -> Iterator[Any]:
        return iter(())

    def stop(self, turn_id: str) -> None:
        return None


class Probes(Protocol):
    """What the traits of the characters are asked, and what is looked for in the replies."""

    @property
    def traits(self) -> Mapping[str, str]:
        """Their titles, by id."""
        ...

    def next(self, talk: Talk, trait: str) -> tuple[str, str | None]:
        """The next probe of a trait, and what there is to know about it."""
        ...

    def shows(self, trait: str, text: str) -> Mapping[str, bool]:
        """Which markers of the trait a reply shows."""
        ...


@dataclass(frozen=True)
class Limits:
    """What one page may ask for."""

    body: int = 512 * 1024
    """Bytes of a request; a talk that is opened may be larger."""
    file: int = 3 * talks.MOST_BYTES
    """Bytes of a request that opens a talk."""
    turns: int = 500
    """Turns of a talk."""
    running: int = 4
    """Turns that are answered at once."""
    tokens: int = 8192
    """Tokens of a reply, as many as ``--max-tokens`` takes."""
    listed: int = 200
    """Talks in the list, the newest first."""
    held: int = 64
    """Talks in memory."""


# --- what the page says -----------------------------------------------------------------------------------------------

Words = Annotated[str, Field(max_length=talks.LONGEST)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewTalk(_Body):
    blind: bool = False


class NewTurn(_Body):
    parent: str | None = None
    text: Words = ""
    trait: Words | None = None
    """Asks the next probe of this trait in place of `text`."""
    kind: Literal["chat", "base"] = "chat"
    system: Words | None = None
    prefill: Words = ""
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)


class NewText(_Body):
    text: Words


class NewVote(_Body):
    best: list[int] = Field(max_length=16)


class TalkFile(_Body):
    text: str


class Refused(Exception):
    """The answer to what can not be done: its HTTP status, what is wrong, and what to do."""

    def __init__(self, status: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


# --- talks that are open ----------------------------------------------------------------------------------------------


@dataclass
class _Coming:
    """Replies under way: what each place has said so far."""

    texts: dict[int, str]
    over: bool = False
    lost: str | None = None
    """Why a reply could not be kept."""
    thread: threading.Thread | None = None


@dataclass
class Session:
    """An open talk. It is kept in the store from its first turn on."""

    talk: Talk
    record: talks.Record | None = None
    coming: dict[str, _Coming] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, kind: Literal["turn", "reply", "vote", "revealed"], data: Turn | Reply | talks.Vote | str) -> None:
        with self.lock:
            assert self.record is not None
            self.record.add(kind, data)


class Room:
    """The talks of a store, those who answer, and the rules."""

    def __init__(
        self,
        party: Answers,
        store: Store,
        *,
        seconds: float,
        system: str | None,
        seed: int | None,
        probes: Probes | None,
        limits: Limits,
    ) -> None:
        self.party, self.store, self.probes, self.limits = party, store, probes, limits
        self.seconds, self.system, self.seed = seconds, system, seed
        self._sessions: dict[str, Session] = {}
        # Those that somebody still uses, held or not: one talk must never be open twice.
        self._used: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()

    # --- finding ---

    def begin(self, blind: bool) -> Session:
        if blind and len(self.party.speakers) < 2:
            raise Refused(409, "there is only one speaker, so there is nothing to hide")
        return self._hold(Session(self.party.begin(blind=blind, seed=self.seed)))

    def hold(self, talk: Talk) -> Session:
        """Go on with a talk: it is kept in this store from now on, under its own id if that is free."""
        self._all_here(talk)
        with self._lock:
            record = talks.adopted(self.store, talk)
            return self._hold(Session(record.talk, record))

    def find(self, id_: str) -> Session:
        with self._lock:
            if session := self._used.get(id_):
                if session.record is not None:
                    session.record.refresh()
                return self._hold(session)
            path = talks.place(self.store, id_)
            if not path.is_file():
                raise Refused(404, "there is no such talk")
            talk = talks.read(path, self.store)
            if talk.header.id != id_:
                raise Refused(404, "that file holds another talk")
            return self._hold(Session(talk, talks.Record(self.store, talk)))

    def _hold(self, session: Session) -> Session:
        with self._lock:
            id_ = session.talk.header.id
            session = self._used.setdefault(id_, session)
            # The one used last is the last to go.
            self._sessions.pop(id_, None)
            self._sessions[id_] = session
            for id_ in list(self._sessions)[: max(0, len(self._sessions) - self.limits.held)]:
                if not self._sessions[id_].coming:
                    del self._sessions[id_]
        return session

    def can_answer(self, talk: Talk) -> bool:
        """Whether all of its speakers are here, and are told what the talk says."""
        return {(s.id, s.told) for s in talk.speakers} <= {(s.id, s.told) for s in self.party.speakers}

    def _all_here(self, talk: Talk) -> None:
        if not self.can_answer(talk):
            hint = None if talk.hidden else f"start them with: {command(talk)}"
            raise Refused(409, "not all of its speakers are here", hint)

    def kept(self) -> list[Talk]:
        return list(talks.kept(self.store))

    # --- answering ---

    def turn(self, session: Session, asked: NewTurn) -> tuple[Turn, str | None]:
        """Say something: the turn is kept, and its replies are on their way when this returns.

        With it comes what there is to know about the probe that was asked.
        """
        text, trait, system, note = asked.text, asked.trait, asked.system or None, None
        if trait is not None:
            if self.probes is None or trait not in self.probes.traits:
                raise Refused(422, f"no trait {trait!r}")
            # To find what was held out takes long: meanwhile the talk can be read, and goes on.
            with session.lock:
                talk = replace(session.talk, turns=dict(session.talk.turns))
            text, note = self.probes.next(talk, trait)
        if not text.strip() and asked.kind == "chat":
            raise Refused(422, "there is nothing to answer to", "write a message first")
        sampling = self.party.sampling
        if asked.temperature is not None:
            sampling = sampling.model_copy(update={"temperature": asked.temperature})
        if asked.max_tokens is not None:
            sampling = sampling.model_copy(update={"max_tokens": asked.max_tokens})
        with session.lock:
            if asked.parent is not None and asked.parent not in session.talk.turns:
                raise Refused(404, "the turn that this goes on from is not there")
            said = Turn(
                id=talks.new_id(),
                parent=asked.parent,
                kind=asked.kind,
                text=text,
                system=system,
                prefill=asked.prefill,
                sampling=sampling,
                trait=trait,
                made=talks.now(),
            )
            return self._ask(session, _next_draw(session.talk, said)), note

    def again(self, session: Session, id_: str) -> Turn:
        """Other replies to the same words."""
        with session.lock:
            turn = turn_of(session.talk, id_)
            fresh = turn.model_copy(update={"id": talks.new_id(), "made": talks.now()})
            return self._ask(session, _next_draw(session.talk, fresh))

    def rewrite(self, session: Session, id_: str, place: int, text: str) -> Turn:
        """A branch on which this speaker has said something else."""
        with session.lock:
            turn, changed = turn_of(session.talk, id_), self._speaker(session.talk, place)
            self._ready(session)
            if id_ in session.coming:
                raise Refused(409, "the replies are still coming", "stop them first")
            fresh = turn.model_copy(update={"id": talks.new_id(), "made": talks.now()})
            self._keep(session)
            session.add("turn", fresh)
            for speaker in session.talk.speakers:
                reply = session.talk.replies.get((id_, speaker.id))
                if speaker.id == changed:
                    reply = Reply(turn=fresh.id, speaker=speaker.id, text=text, tokens=0, finish="stop")
                if reply is not None:
                    session.add("reply", reply.model_copy(update={"turn": fresh.id}))
            return fresh

    def _ready(self, session: Session) -> None:
        self._all_here(session.talk)
        if len(session.talk.turns) >= self.limits.turns:
            raise Refused(409, f"this talk has {self.limits.turns} turns, and that is all", "begin a new one")

    def _keep(self, session: Session) -> None:
        if session.record is None:
            session.record = talks.Record(self.store, session.talk)

    def _ask(self, session: Session, turn: Turn) -> Turn:
        self._ready(session)
        if turn.sampling.max_tokens > self.limits.tokens:
            raise Refused(422, f"a reply can have at most {self.limits.tokens} tokens here")
        coming = _Coming(dict.fromkeys(range(len(session.talk.speakers)), ""))
        with self._lock:
            running = sum(len(each.coming) for each in self._sessions.values())
            if running >= self.limits.running:
                raise Refused(429, f"{running} messages are being answered", "wait for one of them, or stop it")
            session.coming[turn.id] = coming
        try:
            self._keep(session)
            session.add("turn", turn)
        except BaseException:
            del session.coming[turn.id]
            raise
        coming.thread = threading.Thread(target=self._answer, args=(session, turn, coming), daemon=True)
        coming.thread.start()
        return turn

    def _answer(self, session: Session, turn: Turn, coming: _Coming) -> None:
        ids = [speaker.id for speaker in session.talk.speakers]
        why = "no reply came"
        try:
            for found in self.party.ask(session.talk, turn, ids, seconds=self.seconds):
                if isinstance(found, Reply):
                    session.add("reply", found)
                else:
                    coming.texts[ids.index(found.speaker)] += found.text
        except CharforgeError as problem:
            why = str(problem)
        except Exception as problem:
            # What goes wrong in one turn must not end the talk; the cause is shown and kept.
            why = f"{type(problem).__name__}: {problem}"
        finally:
            with session.lock:
                for id_ in ids:
                    if (turn.id, id_) not in session.talk.replies:
                        text = coming.texts[ids.index(id_)]
                        try:
                            session.add(
                                "reply",
                                Reply(
                                    turn=turn.id,
                                    speaker=id_,
                                    text=text[: talks.LONGEST],
                                    tokens=0,
                                    finish="failed",
                                    why=why[: talks.LONGEST],
                                ),
                            )
                        except CharforgeError as problem:
                            coming.lost = problem.message
                coming.over = True
                session.coming.pop(turn.id, None)

    def stop(self, session: Session, id_: str) -> None:
        if id_ in session.coming:
            self.party.stop(id_)

    def close(self) -> None:
        """Stop what is under way; what came so far is kept."""
        with self._lock:
            found = [(id_, each) for session in self._sessions.values() for id_, each in session.coming.items()]
        for id_, _ in found:
            with contextlib.suppress(Exception):
                self.party.stop(id_)
        for _, coming in found:
            if coming.thread is not None:
                coming.thread.join(timeout=3)

    async def follow(self, session: Session, id_: str) -> AsyncIterator[str]:
        """What is said, as lines of JSON: from the beginning, and then as it comes. The last line is the turn."""
        sent: dict[int, int] = {}
        quiet = 0.0
        coming = session.coming.get(id_)
        while coming is not None:
            over = coming.over
            quiet += _TICK
            for place, text in list(coming.texts.items()):
                if len(text) > sent.get(place, 0):
                    yield _line({"place": place, "text": text[sent.get(place, 0) :]})
                    sent[place], quiet = len(text), 0.0
            if over:
                break
            if quiet > 10:
                # So that a connection whose page is gone is found out.
                yield "\n"
                quiet = 0.0
            await asyncio.sleep(_TICK)
        with session.lock:
            lost = coming.lost if coming is not None else None
            line = _line({"turn": self.turn_view(session, session.talk.turns[id_]), "lost": lost})
        yield line

    # --- voting ---

    def vote(self, session: Session, id_: str, best: Sequence[int]) -> None:
        with session.lock:
            talk, turn = session.talk, turn_of(session.talk, id_)
            if talk.settled(id_):
                raise Refused(409, "a blind vote was given here: now that the names are known, it stays")
            if not _votable(session, turn):
                raise Refused(409, "there is nothing to choose between here")
            chosen = tuple(dict.fromkeys(self._speaker(talk, place) for place in best))
            shown = tuple(speaker.id for speaker in talk.speakers)
            session.add("vote", talks.Vote(turn=id_, shown=shown, best=chosen, blind=talk.hidden, made=talks.now()))

    def _speaker(self, talk: Talk, place: int) -> str:
        if not 0 <= place < len(talk.speakers):
            raise Refused(422, "there is no such speaker")
        return talk.speakers[place].id

    def reveal(self, session: Session) -> None:
        with session.lock:
            if session.talk.hidden:
                self._keep(session)
                session.add("revealed", talks.now())

    # --- what the page is shown ---

    def about(self, first: str | None, blind: bool) -> dict[str, Any]:
        return {
            "version": __version__,
            "speakers": len(self.party.speakers),
            "first": first,
            "blind": blind and len(self.party.speakers) > 1,
            "seconds": self.seconds,
            "temperature": self.party.sampling.temperature,
            "max_tokens": self.party.sampling.max_tokens,
            "system": self.system,
            "most_tokens": self.limits.tokens,
            "longest": talks.LONGEST,
            "traits": [{"id": id_, "title": title} for id_, title in self.probes.traits.items()] if self.probes else [],
        }

    def view(self, session: Session) -> dict[str, Any]:
        with session.lock:
            talk = session.talk
            here = self.can_answer(talk)
            return {
                "id": talk.header.id,
                "made": talk.header.made,
                "title": _title(talk),
                "blind": talk.header.blind,
                "hidden": talk.hidden,
                "kept": session.record is not None,
                "here": here,
                "command": None if talk.hidden else command(talk),
                "speakers": [_speaker_view(talk, place) for place in range(len(talk.speakers))],
                "turns": [self.turn_view(session, turn) for turn in talk.turns.values()],
                "tally": None if talk.hidden else _tallied([talk]),
            }

    def turn_view(self, session: Session, turn: Turn) -> dict[str, Any]:
        talk = session.talk
        vote = talk.votes.get(turn.id)
        ids = [speaker.id for speaker in talk.speakers]
        return {
            **turn.model_dump(
                mode="json", include={"id", "parent", "kind", "text", "system", "prefill", "draw", "made"}
            ),
            "trait": turn.trait,
            "temperature": turn.sampling.temperature,
            "max_tokens": turn.sampling.max_tokens,
            "coming": turn.id in session.coming,
            "votable": _votable(session, turn),
            "vote": [ids.index(id_) for id_ in vote.best] if vote else None,
            "blind": vote.blind if vote else None,
            "replies": [self._reply_view(talk, turn, talk.replies.get((turn.id, id_))) for id_ in ids],
        }

    def _reply_view(self, talk: Talk, turn: Turn, reply: Reply | None) -> dict[str, Any] | None:
        if reply is None:
            return None
        written = reply.seed is None and reply.finish != "failed"
        known = self.probes is not None and turn.trait in self.probes.traits
        return {
            "text": reply.text,
            "finish": reply.finish,
            "written": written,
            "tokens": None if talk.hidden or written else reply.tokens,
            "seed": None if talk.hidden else reply.seed,
            "why": None if talk.hidden else reply.why,
            "markers": self.probes.shows(turn.trait, turn.prefill + reply.text)
            if self.probes and known and turn.trait and reply.text.strip()
            else {},
        }

    def listing(self) -> list[dict[str, Any]]:
        found = self.kept()[::-1][: self.limits.listed]
        return [
            {
                "id": talk.header.id,
                "made": talk.header.made,
                "title": _title(talk),
                "speakers": [talk.name(speaker.id) for speaker in talk.speakers],
                "hidden": talk.hidden,
                "turns": len(talk.turns),
                "votes": len(talk.votes),
            }
            for talk in found
            if talk.turns
        ]

    def votes(self) -> dict[str, Any]:
        """All votes of the store, but for talks whose names are hidden: their votes would tell."""
        everything = self.kept()
        shown = [talk for talk in everything if not talk.hidden]
        return {
            **_tallied(shown),
            "hidden": sum(1 for talk in everything if talk.hidden and talk.votes),
            "talks": sum(1 for talk in shown if talk.votes),
        }

    def import_view(self, talk: Talk) -> dict[str, Any]:
        return self.view(Session(talk))


def turn_of(talk: Talk, id_: str) -> Turn:
    if id_ not in talk.turns:
        raise Refused(404, "there is no such turn")
    return talk.turns[id_]


def _next_draw(talk: Talk, turn: Turn) -> Turn:
    """The turn as the next draw of replies to its words: the same words beside it are earlier draws."""
    words = ("kind", "text", "system", "prefill", "sampling")
    same = [t.draw for t in talk.children(turn.parent) if all(getattr(t, w) == getattr(turn, w) for w in words)]
    return turn.model_copy(update={"draw": max(same, default=-1) + 1})


def _votable(session: Session, turn: Turn) -> bool:
    """Whether there is something to choose between: what a vote says must be about replies that were drawn."""
    try:
        return turn.id not in session.coming and len(session.talk.votable(turn)) == len(session.talk.speakers)
    except UserError:
        return False


def _title(talk: Talk) -> str:
    first = next(iter(talk.turns.values()), None)
    text = " ".join(first.text.split()) if first else ""
    return text if len(text) <= _TITLE else text[: _TITLE - 1].rstrip() + "…"


def _speaker_view(talk: Talk, place: int) -> dict[str, Any]:
    speaker = talk.speakers[place]
    letter = "ABCDEFGHIJKLMNOP"[place]
    if talk.hidden:
        return {"letter": letter, "name": letter}
    return {"letter": letter, "name": speaker.label, **speaker.model_dump(mode="json")}


def _tallied(found: Sequence[Talk]) -> dict[str, Any]:
    """The preferences, blind votes apart from others."""
    names = {speaker.id: speaker.label for talk in found for speaker in talk.speakers}
    everything = talks.judgements(found, said=False)
    result: dict[str, Any] = {}
    for name, blind in (("unseen", True), ("open", False)):
        result[name] = [
            {
                "first": names[each.first],
                "second": names[each.second],
                "wins": each.wins,
                "losses": each.losses,
                "ties": each.ties,
                "talks": each.talks,
                "share": each.share,
                "low": each.low,
                "high": each.high,
                "why": each.why,
            }
            for each in talks.tally(vote for vote in everything if vote.blind is blind)
        ]
    return result


def _line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"
