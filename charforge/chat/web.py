"""The talk in a browser: a small server for one person, and what its page may ask of it.

The page knows speakers by their place in the talk alone. While names are hidden nothing that tells who is who leaves this
process: no label, digest, model, prompt or seed, no count of tokens, and no reason why a reply failed.

A turn is answered in a thread of its own and kept as it comes, whoever watches: a page that was closed finds it again.

Whoever can reach the server can talk and read the talks of the store, so it listens on this machine alone unless told
otherwise. Against other pages in the same browser: the Host header must be a name of this server (DNS rebinding), what
changes something must come from its own page (Origin) as JSON, and answers can be read by no other origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, cast
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from charforge import __version__, talks
from charforge.chat.page import command, shared_page
from charforge.errors import CharforgeError, UserError, missing_extra
from charforge.recipe import Sampling
from charforge.report.html import stylesheet
from charforge.store import Store
from charforge.talks import Reply, Speaker, Talk, Turn

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi import Path as InPath
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as error:
    raise missing_extra("chat", error) from error

_FOLDER = Path(__file__).parent / "pages"
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_TITLE = 90
# How often a page that watches is told what is new, in seconds.
_TICK = 0.04


class Answers(Protocol):
    """Who answers: `charforge.chat.party.Party`, as far as the page needs it."""

    @property
    def speakers(self) -> tuple[Speaker, ...]: ...

    @property
    def sampling(self) -> Sampling: ...

    def begin(self, *, blind: bool = False, seed: int = 0) -> Talk: ...

    def ask(
        self, talk: Talk, turn: Turn, speakers: Sequence[str] | None = None, *, seconds: float
    ) -> Iterator[Any]: ...

    def stop(self, turn_id: str) -> None: ...


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
    tokens: int = 4096
    """Tokens of a reply."""
    listed: int = 200
    """Talks in the list, the newest first."""
    held: int = 64
    """Talks in memory."""


# --- what the page says -----------------------------------------------------------------------------------------------

Words = Annotated[str, Field(max_length=talks.LONGEST)]
TalkId = Annotated[str, InPath(pattern=r"\A[0-9a-f]{8,64}\Z")]


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


class _Refused(Exception):
    """The answer to what can not be done: its status, what is wrong, and what to do."""

    def __init__(self, status: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


# --- talks that are open ----------------------------------------------------------------------------------------------


@dataclass
class _Coming:
    """Replies under way: what each place has said so far."""

    texts: dict[int, str]
    over: bool = False
    thread: threading.Thread | None = None


@dataclass
class _Session:
    """An open talk. It is kept in the store from its first turn on."""

    talk: Talk
    record: talks.Record | None = None
    coming: dict[str, _Coming] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, kind: Literal["turn", "reply", "vote", "revealed"], data: Turn | Reply | talks.Vote | str) -> None:
        with self.lock:
            assert self.record is not None
            self.record.add(kind, data)


class _House:
    """The talks of a store, those who answer, and the rules."""

    def __init__(
        self,
        party: Answers,
        store: Store,
        *,
        seconds: float,
        system: str | None,
        seed: int,
        probes: Probes | None,
        limits: Limits,
    ) -> None:
        self.party, self.store, self.probes, self.limits = party, store, probes, limits
        self.seconds, self.system, self.seed = seconds, system, seed
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    # --- finding ---

    def begin(self, blind: bool) -> _Session:
        if blind and len(self.party.speakers) < 2:
            raise _Refused(409, "there is only one speaker, so there is nothing to hide")
        return self._hold(_Session(self.party.begin(blind=blind, seed=self.seed)))

    def hold(self, talk: Talk) -> _Session:
        """Go on with a talk: it is kept in this store from now on, under its own id if that is free."""
        if not self.can_answer(talk):
            raise _Refused(409, "not all of its speakers are here", f"start them with: {command(talk)}")
        path = talks.place(self.store, talk.header.id)
        if path.is_file():
            there = self.find(talk.header.id)
            with there.lock:
                if there.talk.text() == talk.text():
                    return there
            # Votes count once: where they were given.
            header = talk.header.model_copy(update={"id": talks.new_id(12)})
            talk = Talk(header, talk.turns, talk.replies, {}, talk.revealed)
        return self._hold(_Session(talk, talks.Record(self.store, talk)))

    def find(self, id_: str) -> _Session:
        with self._lock:
            if session := self._sessions.get(id_):
                # The one used last is the last to go.
                self._sessions[id_] = self._sessions.pop(id_)
                return session
        path = talks.place(self.store, id_)
        if not path.is_file():
            raise _Refused(404, "there is no such talk")
        talk = talks.read(path)
        if talk.header.id != id_:
            raise _Refused(404, "that file holds another talk")
        return self._hold(_Session(talk, talks.Record(self.store, talk)))

    def _hold(self, session: _Session) -> _Session:
        with self._lock:
            session = self._sessions.setdefault(session.talk.header.id, session)
            for id_ in list(self._sessions)[: max(0, len(self._sessions) - self.limits.held)]:
                if not self._sessions[id_].coming:
                    del self._sessions[id_]
        return session

    def can_answer(self, talk: Talk) -> bool:
        return {speaker.id for speaker in talk.speakers} <= {speaker.id for speaker in self.party.speakers}

    def kept(self) -> list[Talk]:
        return list(talks.kept(self.store))

    # --- answering ---

    def turn(self, session: _Session, asked: NewTurn) -> Turn:
        """Say something: the turn is kept, and its replies are on their way when this returns."""
        text, trait, system = asked.text, asked.trait, asked.system or None
        if trait is not None:
            if self.probes is None or trait not in self.probes.traits:
                raise _Refused(422, f"no trait {trait!r}")
            text = self.probes.next(session.talk, trait)[0]
        if not text.strip() and asked.kind == "chat":
            raise _Refused(422, "there is nothing to answer to", "write a message first")
        sampling = self.party.sampling
        if asked.temperature is not None:
            sampling = sampling.model_copy(update={"temperature": asked.temperature})
        if asked.max_tokens is not None:
            if asked.max_tokens > self.limits.tokens:
                raise _Refused(422, f"a reply can have at most {self.limits.tokens} tokens here")
            sampling = sampling.model_copy(update={"max_tokens": asked.max_tokens})
        with session.lock:
            if asked.parent is not None and asked.parent not in session.talk.turns:
                raise _Refused(404, "the turn that this goes on from is not there")
            said = Turn(
                id=talks.new_id(),
                parent=asked.parent,
                kind=asked.kind,
                text=text,
                system=system,
                prefill=asked.prefill,
                trait=trait,
                made=talks.now(),
            )
            return self._ask(session, _next_draw(session.talk, said))

    def again(self, session: _Session, id_: str) -> Turn:
        """Other replies to the same words."""
        with session.lock:
            turn = _turn(session.talk, id_)
            fresh = turn.model_copy(update={"id": talks.new_id(), "made": talks.now()})
            return self._ask(session, _next_draw(session.talk, fresh))

    def rewrite(self, session: _Session, id_: str, place: int, text: str) -> Turn:
        """A branch on which this speaker has said something else."""
        with session.lock:
            turn, changed = _turn(session.talk, id_), self._speaker(session.talk, place)
            self._ready(session)
            if id_ in session.coming:
                raise _Refused(409, "the replies are still coming", "stop them first")
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

    def _ready(self, session: _Session) -> None:
        if not self.can_answer(session.talk):
            raise _Refused(409, "not all of its speakers are here", f"start them with: {command(session.talk)}")
        if len(session.talk.turns) >= self.limits.turns:
            raise _Refused(409, f"this talk has {self.limits.turns} turns, and that is all", "begin a new one")

    def _keep(self, session: _Session) -> None:
        if session.record is None:
            session.record = talks.Record(self.store, session.talk)

    def _ask(self, session: _Session, turn: Turn) -> Turn:
        self._ready(session)
        coming = _Coming(dict.fromkeys(range(len(session.talk.speakers)), ""))
        with self._lock:
            running = sum(len(each.coming) for each in self._sessions.values())
            if running >= self.limits.running:
                raise _Refused(429, f"{running} messages are being answered", "wait for one of them, or stop it")
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

    def _answer(self, session: _Session, turn: Turn, coming: _Coming) -> None:
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
                        with contextlib.suppress(OSError):
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
                coming.over = True
                session.coming.pop(turn.id, None)

    def stop(self, session: _Session, id_: str) -> None:
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

    async def follow(self, session: _Session, id_: str) -> AsyncIterator[str]:
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
            line = _line({"turn": self.turn_view(session, session.talk.turns[id_])})
        yield line

    # --- voting ---

    def vote(self, session: _Session, id_: str, best: Sequence[int]) -> None:
        with session.lock:
            talk, turn = session.talk, _turn(session.talk, id_)
            if not _votable(session, turn):
                raise _Refused(409, "there is nothing to choose between here")
            chosen = tuple(dict.fromkeys(self._speaker(talk, place) for place in best))
            shown = tuple(speaker.id for speaker in talk.speakers)
            session.add("vote", talks.Vote(turn=id_, shown=shown, best=chosen, blind=talk.hidden, made=talks.now()))

    def _speaker(self, talk: Talk, place: int) -> str:
        if not 0 <= place < len(talk.speakers):
            raise _Refused(422, "there is no such speaker")
        return talk.speakers[place].id

    def reveal(self, session: _Session) -> None:
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
            "blind": blind,
            "seconds": self.seconds,
            "temperature": self.party.sampling.temperature,
            "max_tokens": self.party.sampling.max_tokens,
            "system": self.system,
            "most_tokens": self.limits.tokens,
            "longest": talks.LONGEST,
            "traits": [{"id": id_, "title": title} for id_, title in self.probes.traits.items()] if self.probes else [],
        }

    def view(self, session: _Session) -> dict[str, Any]:
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

    def turn_view(self, session: _Session, turn: Turn) -> dict[str, Any]:
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
        return self.view(_Session(talk))


def _turn(talk: Talk, id_: str) -> Turn:
    if id_ not in talk.turns:
        raise _Refused(404, "there is no such turn")
    return talk.turns[id_]


def _next_draw(talk: Talk, turn: Turn) -> Turn:
    """The turn as the next draw of replies to its words: the same words beside it are earlier draws."""
    words = ("kind", "text", "system", "prefill", "sampling")
    same = [t.draw for t in talk.children(turn.parent) if all(getattr(t, w) == getattr(turn, w) for w in words)]
    return turn.model_copy(update={"draw": max(same, default=-1) + 1})


def _votable(session: _Session, turn: Turn) -> bool:
    """Whether there is something to choose between: what a vote says must be about replies that were drawn."""
    if turn.kind != "chat" or turn.id in session.coming or len(session.talk.speakers) < 2:
        return False
    replies = [session.talk.replies.get((turn.id, speaker.id)) for speaker in session.talk.speakers]
    return all(r is not None and r.finish != "failed" and r.seed is not None for r in replies)


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
    everything = talks.judgements(found)
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
                "share": each.share.value,
                "low": each.share.low,
                "high": each.share.high,
            }
            for each in talks.tally(vote for vote in everything if vote.blind is blind)
        ]
    return result


def _line(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"


# --- the door ---------------------------------------------------------------------------------------------------------


class _Door:
    """Who may come in: the right names, the token where there is one, the server's own page, and bodies of a size."""

    def __init__(
        self, app: ASGIApp, *, known: Callable[[str], bool], token: str | None, cookie: str, limits: Limits
    ) -> None:
        self._app, self._known, self._token, self._cookie, self._limits = app, known, token, cookie, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no web sockets here.
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        came = self._by_address(scope)

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    # A page that is handed out to be kept has rules of its own.
                    out.setdefault(name, value)
                if came:
                    out.append("set-cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        refused = self._refusal(scope, headers, came)
        answer: ASGIApp = self._app
        if refused is not None:
            answer = _refuse(refused)
        await answer(scope, receive, dressed)

    def _by_address(self, scope: Scope) -> bool:
        """Whether this asks for the page with the token in its address."""
        if self._token is None or scope["path"] != "/" or scope["method"] != "GET":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return secrets.compare_digest(given[0].encode(), self._token.encode())

    def _refusal(self, scope: Scope, headers: Headers, came: bool) -> _Refused | None:
        host = headers.getlist("host")
        if len(host) != 1 or not self._known(host[0]):
            return _Refused(421, "this server has another name", "use the address that charforge chat printed")
        if self._token is not None and not came and not self._has_cookie(headers):
            return _Refused(401, "the token is missing", "use the address that charforge chat printed")
        api = scope["path"].startswith("/api/")
        if api and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _Refused(403, "another page asked for this")
        if scope["method"] in ("GET", "HEAD"):
            return None
        origin = urlsplit(headers.get("origin", ""))
        if origin.scheme not in ("http", "https") or origin.netloc.lower() != host[0].lower():
            return _Refused(403, "another page asked for this", "the Origin header must name this server")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _Refused(415, "this must be JSON")
        length = headers.get("content-length", "")
        if not length.isdigit() or "transfer-encoding" in headers:
            return _Refused(411, "the length of this must be given")
        most = self._limits.file if scope["path"].startswith("/api/files") else self._limits.body
        if int(length) > most:
            return _Refused(413, f"this is larger than {most // 1024} KiB")
        return None

    def _has_cookie(self, headers: Headers) -> bool:
        assert self._token is not None
        given = [
            value
            for line in headers.getlist("cookie")
            for name, _, value in (part.strip().partition("=") for part in line.split(";"))
            if name == self._cookie
        ]
        return any(secrets.compare_digest(value.encode(), self._token.encode()) for value in given)


def _refuse(problem: _Refused) -> Response:
    return JSONResponse({"error": problem.message, "hint": problem.hint}, status_code=problem.status)


def _names(host: str) -> Callable[[str], bool]:
    """Which Host headers name a server that is bound to `host`. The port is not looked at: it may be forwarded."""
    bound = host.strip("[]").lower()
    names = {bound, "localhost"} if _is_loopback(bound) else {bound}
    everywhere = bound in ("0.0.0.0", "::", "")  # noqa: S104
    if everywhere:
        names |= {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
    if _is_loopback(bound):
        names |= {"127.0.0.1", "::1"}

    def known(header: str) -> bool:
        try:
            name = (urlsplit(f"//{header}").hostname or "").lower()
        except ValueError:
            return False
        if name in names:
            return True
        # An address can not be made to mean another machine, as a name can.
        return everywhere and _address(name) is not None

    return known


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    found = _address(host)
    return host == "localhost" or (found is not None and found.is_loopback)


# --- the server -------------------------------------------------------------------------------------------------------


def application(
    party: Answers,
    store: Store,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    cookie: str = "charforge",
    seconds: float = 120.0,
    system: str | None = None,
    seed: int = 0,
    blind: bool = False,
    talk: Talk | None = None,
    probes: Probes | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The server as an ASGI application; `serve` says what the arguments mean."""
    limits = limits or Limits()
    house = _House(
        party,
        store,
        seconds=seconds,
        system=system,
        seed=seed,
        probes=probes,
        limits=limits,
    )
    first = house.hold(talk).talk.header.id if talk is not None and house.can_answer(talk) else None
    opened = talk if first is None else None
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.house = house

    @app.exception_handler(_Refused)
    def _on_refused(_: Request, problem: Exception) -> Response:
        return _refuse(cast(_Refused, problem))

    @app.exception_handler(CharforgeError)
    def _on_error(_: Request, problem: Exception) -> Response:
        found = cast(CharforgeError, problem)
        place = f"line {found.place.line}: " if found.place and found.place.line else ""
        return _refuse(_Refused(422, place + found.message, found.hint))

    @app.exception_handler(RequestValidationError)
    def _on_invalid(_: Request, problem: Exception) -> Response:
        found = cast(RequestValidationError, problem).errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:])
        return _refuse(_Refused(422, f"{where}: {found['msg']}" if where else str(found["msg"])))

    @app.exception_handler(HTTPException)
    def _on_http(_: Request, problem: Exception) -> Response:
        return _refuse(_Refused(cast(HTTPException, problem).status_code, "there is nothing here"))

    @app.exception_handler(Exception)
    def _on_bug(_: Request, problem: Exception) -> Response:
        return _refuse(_Refused(500, "this is a bug in charforge; its log is in the terminal"))

    @app.get("/")
    def _page() -> HTMLResponse:
        return HTMLResponse((_FOLDER / "index.html").read_text(encoding="utf-8"))

    @app.get("/chat.css")
    def _style() -> Response:
        return Response(stylesheet(_FOLDER / "chat.css"), media_type="text/css")

    @app.get("/chat.js")
    def _script() -> Response:
        return Response((_FOLDER / "chat.js").read_text(encoding="utf-8"), media_type="text/javascript")

    @app.get("/favicon.svg")
    def _icon() -> Response:
        return Response((_FOLDER / "icon.svg").read_text(encoding="utf-8"), media_type="image/svg+xml")

    @app.get("/api/about")
    def _about() -> dict[str, Any]:
        return {**house.about(first, blind), "opened": house.import_view(opened) if opened else None}

    @app.get("/api/talks")
    def _list() -> list[dict[str, Any]]:
        return house.listing()

    @app.post("/api/talks")
    def _begin(body: NewTalk) -> dict[str, Any]:
        return house.view(house.begin(body.blind))

    @app.get("/api/talks/{id_}")
    def _view(id_: TalkId) -> dict[str, Any]:
        return house.view(house.find(id_))

    @app.post("/api/talks/{id_}/turns")
    def _say(id_: TalkId, body: NewTurn) -> dict[str, Any]:
        session = house.find(id_)
        turn = house.turn(session, body)
        with session.lock:
            return house.turn_view(session, turn)

    @app.post("/api/talks/{id_}/turns/{turn}/again")
    def _again(id_: TalkId, turn: TalkId) -> dict[str, Any]:
        session = house.find(id_)
        fresh = house.again(session, turn)
        with session.lock:
            return house.turn_view(session, fresh)

    @app.post("/api/talks/{id_}/turns/{turn}/replies/{place}")
    def _rewrite(id_: TalkId, turn: TalkId, place: int, body: NewText) -> dict[str, Any]:
        session = house.find(id_)
        fresh = house.rewrite(session, turn, place, body.text)
        with session.lock:
            return house.turn_view(session, fresh)

    @app.get("/api/talks/{id_}/turns/{turn}/stream")
    async def _stream(id_: TalkId, turn: TalkId) -> Response:
        session = await asyncio.to_thread(house.find, id_)
        _turn(session.talk, turn)
        return StreamingResponse(house.follow(session, turn), media_type="application/x-ndjson")

    @app.post("/api/talks/{id_}/turns/{turn}/stop")
    def _stop(id_: TalkId, turn: TalkId) -> dict[str, Any]:
        house.stop(house.find(id_), turn)
        return {}

    @app.post("/api/talks/{id_}/turns/{turn}/vote")
    def _vote(id_: TalkId, turn: TalkId, body: NewVote) -> dict[str, Any]:
        session = house.find(id_)
        house.vote(session, turn, body.best)
        return house.view(session)

    @app.post("/api/talks/{id_}/reveal")
    def _reveal(id_: TalkId) -> dict[str, Any]:
        session = house.find(id_)
        house.reveal(session)
        return house.view(session)

    def _shareable(id_: str) -> Talk:
        session = house.find(id_)
        if session.talk.hidden:
            raise _Refused(409, "the names are hidden, and what is shared shows them", "show the names first")
        if session.coming:
            raise _Refused(409, "replies are still coming", "wait for them, or stop them")
        return session.talk

    @app.get("/api/talks/{id_}/page")
    def _shared(id_: TalkId, turn: str | None = None) -> Response:
        talk = _shareable(id_)
        text = shared_page(talk, turn if turn in talk.turns else None)
        attached = {
            "content-disposition": f'attachment; filename="talk-{id_}.html"',
            "content-security-policy": "sandbox",
        }
        return HTMLResponse(text, headers=attached)

    @app.get("/api/talks/{id_}/lines")
    def _lines(id_: TalkId) -> Response:
        talk = _shareable(id_)
        attached = {"content-disposition": f'attachment; filename="talk-{id_}.jsonl"'}
        return PlainTextResponse(talk.text(), media_type="application/jsonl", headers=attached)

    @app.post("/api/files")
    def _read(body: TalkFile) -> dict[str, Any]:
        return house.import_view(talks.parse(body.text, "the file"))

    @app.post("/api/files/keep")
    def _take(body: TalkFile) -> dict[str, Any]:
        return house.view(house.hold(talks.parse(body.text, "the file")))

    @app.get("/api/votes")
    def _votes() -> dict[str, Any]:
        return house.votes()

    app.add_middleware(_Door, known=_names(host), token=token, cookie=cookie, limits=limits)
    return app


class _Server(uvicorn.Server):
    """Ends the replies under way before it ends."""

    def __init__(self, config: uvicorn.Config, house: _House) -> None:
        super().__init__(config)
        self._house = house

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._house.close)
        await super().shutdown(sockets)


def serve(
    party: Answers,
    store: Store,
    *,
    host: str = "127.0.0.1",
    port: int = 8420,
    seconds: float = 120.0,
    open_browser: bool = False,
    system: str | None = None,
    seed: int = 0,
    blind: bool = False,
    talk: Talk | None = None,
    probes: Probes | None = None,
) -> None:
    """Serve the page until Ctrl-C. The address is printed on stdout once it can be opened.

    Args:
        host: where to listen. Anything but this machine alone makes a token that must be in the address.
        port: 0 picks a free one.
        seconds: the time limit of a turn.
        system: the system message that the page begins with.
        seed: the seed of new talks.
        blind: whether names of a new talk are hidden unless the person says otherwise.
        talk: the talk to go on with, or to show where not all of its speakers are here.

    Raises:
        UserError: the port is taken, or the host is no address of this machine.
        KeyboardInterrupt: it was ended with Ctrl-C.
    """
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    token = None if _is_loopback(host.strip("[]").lower()) else secrets.token_urlsafe(24)
    app = application(
        party,
        store,
        host=host,
        token=token,
        # Cookies know no ports.
        cookie=f"charforge-{port}",
        seconds=seconds,
        sampling=sampling,
        system=system,
        seed=seed,
        blind=blind,
        talk=talk,
        probes=probes,
    )
    name = host.strip("[]")
    if name in ("0.0.0.0", "::", ""):  # noqa: S104
        name = socket.gethostname()
    shown = f"[{name}]" if ":" in name else name
    url = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=100,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = _Server(config, app.state.house)
    print(url, flush=True)
    if token:
        print(
            "anyone with this address can talk and read the talks of this store; it is not encrypted", file=sys.stderr
        )
    print("Ctrl-C ends it", file=sys.stderr, flush=True)
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    with listening:
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        import errno

        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is taken", place="--port", hint="take another one; --port 0 finds one"
            ) from error
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            raise UserError(f"port {port} needs more rights", place="--port", hint="take one above 1023") from error
        raise UserError(f"can not listen on {host!r}: {error}", place="--host") from error
    return listening
