"""The talk in a browser: a small server for one person, and who may come in.

Whoever can reach the server can talk and read the talks of the store, so it listens on this machine alone unless told
otherwise. Against other pages in the same browser: the Host header must be a name of this server (DNS rebinding), what
changes something must come from its own page (Origin) as JSON, and answers can be read by no other origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import parse_qs, urlsplit

from charforge import talks
from charforge.chat.page import shared_page
from charforge.chat.room import (
    Answers,
    Limits,
    NewTalk,
    NewText,
    NewTurn,
    NewVote,
    Probes,
    Refused,
    Room,
    TalkFile,
    turn_of,
)
from charforge.errors import CharforgeError, UserError, missing_extra
from charforge.report.page import stylesheet
from charforge.store import Store
from charforge.talks import Talk

try:
    import h11
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi import Path as InPath
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol
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

_ESTABLISHED = "01"

TalkId = Annotated[str, InPath(pattern=r"^[0-9a-f]{8,64}$")]


# --- the door ---------------------------------------------------------------------------------------------------------


class _Door:
    """Who may come in: the right names, the token where there is one, the server's own page, and bodies of a size."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        known: Callable[[str], bool],
        token: str | None,
        cookie: str,
        limits: Limits,
        private: bool,
    ) -> None:
        self._app, self._known, self._token, self._cookie, self._limits = app, known, token, cookie, limits
        self._private = private

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

    def _refusal(self, scope: Scope, headers: Headers, came: bool) -> Refused | None:
        if self._private and not _is_ours(scope["client"], scope["server"]):
            return Refused(
                403,
                "this server is another user's",
                "whoever started it can give it an address with a token, for others too: --host 0.0.0.0",
            )
        host = headers.getlist("host")
        if len(host) != 1 or not self._known(host[0]):
            return Refused(421, "this server has another name", "use the address that charforge chat printed")
        if self._token is not None and not came and not self._has_cookie(headers):
            return Refused(401, "the token is missing", "use the address that charforge chat printed")
        api = scope["path"].startswith("/api/")
        if api and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return Refused(403, "another page asked for this")
        if scope["method"] in ("GET", "HEAD"):
            return None
        origin = urlsplit(headers.get("origin", ""))
        if origin.scheme not in ("http", "https") or origin.netloc.lower() != host[0].lower():
            return Refused(403, "another page asked for this", "the Origin header must name this server")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return Refused(415, "this must be JSON")
        length = headers.get("content-length", "")
        if not length.isdigit() or "transfer-encoding" in headers:
            return Refused(411, "the length of this must be given")
        most = self._limits.file if scope["path"].startswith("/api/files") else self._limits.body
        if int(length) > most:
            return Refused(413, f"this is larger than {most // 1024} KiB")
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


def _refuse(problem: Refused) -> Response:
    return JSONResponse({"error": problem.message, "hint": problem.hint}, status_code=problem.status)


def _names(host: str) -> Callable[[str], bool]:
    """Which Host headers name a server that is bound to `host`. The port is not looked at: it may be forwarded."""
    bound = host.strip("[]").lower()
    names = {bound, "localhost"} if _is_loopback(bound) else {bound}
    everywhere = bound in ("0.0.0.0", "::")  # noqa: S104
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


def _socket(local: tuple[str, int], remote: tuple[str, int]) -> list[str] | None:
    """A TCP socket of this machine as its system lists it: on Linux, a line of /proc/net/tcp as words."""

    def written(address: tuple[str, int]) -> str:
        packed = ipaddress.ip_address(address[0]).packed
        words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
        return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"

    pair = [written(local[:2]), written(remote[:2])]
    try:
        lines = Path("/proc/net/tcp6" if ":" in local[0] else "/proc/net/tcp").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((words for line in lines if (words := line.split())[1:3] == pair), None)


def _is_ours(client: tuple[str, int] | None, server: tuple[str, int]) -> bool:
    """Whether who is connected to a server of this machine is its own user, or root.

    A socket that was closed already is listed as root's, or not at all: that says nothing of who it was.
    """
    found = None if client is None else _socket(client, server)
    if found is None:
        return False
    state, user = found[3], int(found[7])
    return user in (os.getuid(), os.geteuid()) or (user == 0 and state == _ESTABLISHED)


# --- the server -------------------------------------------------------------------------------------------------------


def application(
    party: Answers,
    store: Store,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    private: bool = False,
    cookie: str = "charforge",
    seconds: float = 120.0,
    system: str | None = None,
    seed: int | None = None,
    blind: bool = False,
    talk: Talk | None = None,
    probes: Probes | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The server as an ASGI application; `serve` says what the arguments mean.

    Args:
        private: other users of this machine are sent away.
    """
    limits = limits or Limits()
    room = Room(
        party,
        store,
        seconds=seconds,
        system=system,
        seed=seed,
        probes=probes,
        limits=limits,
    )
    first = room.hold(talk).talk.header.id if talk is not None and room.can_answer(talk) else None
    opened = talk if first is None else None
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.room = room

    @app.exception_handler(Refused)
    def _on_refused(_: Request, problem: Exception) -> Response:
        return _refuse(cast(Refused, problem))

    @app.exception_handler(CharforgeError)
    def _on_error(_: Request, problem: Exception) -> Response:
        found = cast(CharforgeError, problem)
        place = f"line {found.place.line}: " if found.place and found.place.line else ""
        return _refuse(Refused(422, place + found.message, found.hint))

    @app.exception_handler(RequestValidationError)
    def _on_invalid(_: Request, problem: Exception) -> Response:
        found = cast(RequestValidationError, problem).errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:])
        return _refuse(Refused(422, f"{where}: {found['msg']}" if where else str(found["msg"])))

    @app.exception_handler(HTTPException)
    def _on_http(_: Request, problem: Exception) -> Response:
        return _refuse(Refused(cast(HTTPException, problem).status_code, "there is nothing here"))

    @app.exception_handler(Exception)
    def _on_bug(_: Request, problem: Exception) -> Response:
        return _refuse(Refused(500, "this is a bug in charforge; its log is in the terminal"))

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
        return {**room.about(first, blind), "opened": room.import_view(opened) if opened else None}

    @app.get("/api/talks")
    def _list() -> list[dict[str, Any]]:
        return room.listing()

    @app.post("/api/talks")
    def _begin(body: NewTalk) -> dict[str, Any]:
        return room.view(room.begin(body.blind))

    @app.get("/api/talks/{id_}")
    def _view(id_: TalkId) -> dict[str, Any]:
        return room.view(room.find(id_))

    @app.post("/api/talks/{id_}/turns")
    def _say(id_: TalkId, body: NewTurn) -> dict[str, Any]:
        session = room.find(id_)
        turn, note = room.turn(session, body)
        with session.lock:
            return {**room.turn_view(session, turn), "note": note}

    @app.post("/api/talks/{id_}/turns/{turn}/again")
    def _again(id_: TalkId, turn: TalkId) -> dict[str, Any]:
        session = room.find(id_)
        fresh = room.again(session, turn)
        with session.lock:
            return room.turn_view(session, fresh)

    @app.post("/api/talks/{id_}/turns/{turn}/replies/{place}")
    def _rewrite(id_: TalkId, turn: TalkId, place: int, body: NewText) -> dict[str, Any]:
        session = room.find(id_)
        fresh = room.rewrite(session, turn, place, body.text)
        with session.lock:
            return room.turn_view(session, fresh)

    @app.get("/api/talks/{id_}/turns/{turn}/stream")
    async def _stream(id_: TalkId, turn: TalkId) -> Response:
        session = await asyncio.to_thread(room.find, id_)
        turn_of(session.talk, turn)
        return StreamingResponse(room.follow(session, turn), media_type="application/x-ndjson")

    @app.post("/api/talks/{id_}/turns/{turn}/stop")
    def _stop(id_: TalkId, turn: TalkId) -> dict[str, Any]:
        room.stop(room.find(id_), turn)
        return {}

    @app.post("/api/talks/{id_}/turns/{turn}/vote")
    def _vote(id_: TalkId, turn: TalkId, body: NewVote) -> dict[str, Any]:
        session = room.find(id_)
        room.vote(session, turn, body.best)
        return room.view(session)

    @app.post("/api/talks/{id_}/reveal")
    def _reveal(id_: TalkId) -> dict[str, Any]:
        session = room.find(id_)
        room.reveal(session)
        return room.view(session)

    def _shareable(id_: str) -> Talk:
        session = room.find(id_)
        if session.talk.hidden:
            raise Refused(409, "the names are hidden, and what is shared shows them", "show the names first")
        if session.coming:
            raise Refused(409, "replies are still coming", "wait for them, or stop them")
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
        return room.import_view(talks.parse(body.text, "the file"))

    @app.post("/api/files/keep")
    def _take(body: TalkFile) -> dict[str, Any]:
        return room.view(room.hold(talks.parse(body.text, "the file")))

    @app.get("/api/votes")
    def _votes() -> dict[str, Any]:
        return room.votes()

    app.add_middleware(_Door, known=_names(host), token=token, cookie=cookie, limits=limits, private=private)
    return app


class _Connection(H11Protocol):
    """A connection on which a request comes in time: who is slow takes a place from others."""

    patience = 60.0
    """Seconds for a request, from when the connection is made or the answer before was given."""
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self.loop.call_later(self.patience, self._late)

    def _late(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self.transport.close()


class _Server(uvicorn.Server):
    """Ends the replies under way before it ends."""

    def __init__(self, config: uvicorn.Config, room: Room) -> None:
        super().__init__(config)
        self._room = room

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._room.close)
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 picks a free one. What connects waits until `serve` answers.

    Raises:
        UserError: the port is taken, or the host is no address of this machine.
    """
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
    except (OSError, OverflowError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is taken", place="--port", hint="take another one; --port 0 finds one"
            ) from error
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            raise UserError(f"port {port} needs more rights", place="--port", hint="take one above 1023") from error
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"can not listen on {host!r}: {why}", place="--host", hint="127.0.0.1 is this machine, 0.0.0.0 all it has"
        ) from error
    return listening


def serve(
    party: Answers,
    store: Store,
    *,
    listening: socket.socket,
    host: str = "127.0.0.1",
    seconds: float = 120.0,
    open_browser: bool = False,
    system: str | None = None,
    seed: int | None = None,
    blind: bool = False,
    talk: Talk | None = None,
    probes: Probes | None = None,
) -> None:
    """Serve the page until Ctrl-C. The address is printed on stdout once it can be opened.

    Args:
        listening: where, from `listen`. Anything but this machine alone makes a token that must be in the address; on this
            machine alone, other users of it are sent away where its system says whose a connection is.
        host: how it is called.
        seconds: the time limit of a turn.
        system: the system message that the page begins with.
        seed: the seed of new talks; None takes another one for each.
        blind: whether names of a new talk are hidden unless the person says otherwise.
        talk: the talk to go on with, or to show where not all of its speakers are here.

    Raises:
        KeyboardInterrupt: it was ended with Ctrl-C.
    """
    address, port = listening.getsockname()[:2]
    name = host.strip("[]").lower()
    with contextlib.suppress(socket.gaierror):
        socket.getaddrinfo(name or None, port, flags=socket.AI_NUMERICHOST)
        # There are several ways to write an address; browsers know one.
        name = address
    here = _is_loopback(address)
    token = None if here else secrets.token_urlsafe(24)
    nowhere = ("::" if ":" in address else "0.0.0.0", 0)  # noqa: S104
    app = application(
        party,
        store,
        host=name,
        token=token,
        private=here and _socket((address, port), nowhere) is not None,
        # Cookies know no ports.
        cookie=f"charforge-{port}",
        seconds=seconds,
        system=system,
        seed=seed,
        blind=blind,
        talk=talk,
        probes=probes,
    )
    if name in ("0.0.0.0", "::"):  # noqa: S104
        name = socket.gethostname()
    shown = f"[{name}]" if ":" in name else name
    url = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    config = uvicorn.Config(
        app,
        http=_Connection,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=100,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = _Server(config, app.state.room)
    print(url, flush=True)
    if token:
        print(
            "anyone with this address can talk and read the talks of this store; it is not encrypted", file=sys.stderr
        )
    print("Ctrl-C ends it", file=sys.stderr, flush=True)
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    with listening:
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            # Without what it interrupted in the event loop.
            raise KeyboardInterrupt from None
