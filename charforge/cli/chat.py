"""The command that talks with characters, one or several side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charforge.cli.characters import StoreOption, _store
from charforge.errors import UserError

if TYPE_CHECKING:
    from charforge.chat.party import Party
    from charforge.store import Store
    from charforge.talks import Record, Talk

HOST, PORT = "127.0.0.1", 8420


def chat(
    speakers: Annotated[
        list[str],
        typer.Argument(
            help="Who answers: a trained character (name@version, name@version/build, name:tag), model:NAME for a bare "
            "model, prompt:CHARACTER for its base model told its constitution in brief. With --open: who of the talk "
            "goes on; default: all.",
            metavar="SPEAKER...",
        ),
    ] = [],  # noqa: B006
    system: Annotated[str | None, typer.Option("--system", help="What all are told first.", metavar="TEXT")] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Default: the last character's, as it is measured.", min=0, max=2),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="The longest reply. Default: 256.", min=1, max=8192)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="The same number draws the same replies to the same words. Default: by chance.", min=0
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="The time for all replies to a message.", min=0.1, max=86400)
    ] = 120.0,
    blind: Annotated[
        bool, typer.Option("--blind", help="Call them A, B, ... in an order of chance until their names are shown.")
    ] = False,
    open_: Annotated[
        Path | None, typer.Option("--open", help="Go on with a talk that was kept or shared.", metavar="FILE")
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Talk in the browser.")] = False,
    host: Annotated[
        str | None, typer.Option("--host", help="With --web: where to listen. Default: 127.0.0.1, this machine alone.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="With --web: the port; 0 takes a free one. Default: 8420.", min=0, max=65535),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="With --web: open the page.")] = True,
    store: StoreOption = None,
) -> None:
    """Talk with characters, one or several side by side. /help lists the commands.

    Every talk is kept in the store. Without a terminal, messages and commands are read line by line from standard input.
    """
    from charforge.chat import party as parties

    place = _store(store)
    for name, value in () if web else (("--host", host), ("--port", port)):
        if value is not None:
            raise UserError("it says where a browser finds the talk", place=name, hint="add --web")
    if open_ is None and not speakers:
        raise UserError(
            "nobody to talk with", hint="for example: charforge chat wren@1.0.0 wren@1.1.0; see charforge list"
        )
    if blind and open_ is None and len(speakers) < 2:
        raise UserError("there is only one speaker, so there is nothing to hide", place="--blind", hint="name another")
    chosen = {"temperature": temperature, "max_tokens": max_tokens}
    sampling = {name: value for name, value in chosen.items() if value is not None}
    if web:
        host, port = HOST if host is None else host, PORT if port is None else port
        _serve(place, open_, speakers, sampling, host, port, seconds, browser, system, seed, blind)
        return
    record = None
    if open_ is not None:
        if blind or seed is not None:
            raise UserError("a talk that was kept has its own --blind and --seed", hint="leave them out")
        record, speakers = _opened(place, open_, speakers)
    with parties.party(place, speakers, sampling) as party:
        _talk(party, place, record, system, seconds, seed, blind, store)


def _opened(store: Store, path: Path, speakers: list[str]) -> tuple[Record, list[str]]:
    """The talk in a file, and the references of those who go on with it.

    Raises:
        UserError: not all of them are here, or one takes no part in it.
    """
    from charforge import compare, talks

    talk = talks.read(path, store)
    texts = speakers or [speaker.reference for speaker in talk.speakers]
    hint = "name those who go on with it: charforge chat --open FILE SPEAKER..."
    try:
        if not speakers:
            _trusted(talk)
        found = compare.named(store, texts)
    except UserError as error:
        raise UserError(f"not all who take part in this talk are here: {error}", place=str(path), hint=hint) from error
    known = {speaker.id: speaker for speaker in talk.speakers}
    for contestant in found:
        if contestant.digest not in known:
            # In the order of the talk they would tell who is who.
            names = ", ".join(sorted(speaker.reference for speaker in talk.speakers))
            raise UserError(
                f"{contestant.id} takes no part in this talk, or is not what it was then",
                place=str(path),
                hint=f"who takes part: {names}",
            )
    if talk.hidden and len(found) < len(talk.speakers):
        raise UserError(
            "its names are hidden, and who goes on without the others would be known",
            place=str(path),
            hint="name all of them, or go on with all and /reveal first",
        )
    return talks.opened(store, path), texts


def _trusted(talk: Talk) -> None:
    """A file must not choose what is fetched from a hub, or which folder is read: only who is in this store is resolved.

    Raises:
        UserError: the talk names a model of a hub or a folder.
    """
    if names := _outside(talk):
        raise UserError(f"a model of a hub or a folder is only loaded if you name it yourself: {', '.join(names)}")


def _outside(talk: Talk) -> list[str]:
    """Which speakers are models of a hub or a folder, in an order that tells nothing."""
    references = (speaker.reference for speaker in talk.speakers)
    return sorted(each for each in references if each.startswith("model:") and not each.startswith("model:builtin:"))


def _talk(
    party: Party,
    store: Store,
    record: Record | None,
    system: str | None,
    seconds: float,
    seed: int | None,
    blind: bool,
    store_option: Path | None,
) -> None:
    """Talk until the person or the script leaves."""
    import shlex

    from charforge import talks
    from charforge.chat import terminal
    from charforge.report.text import visible

    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    terminal.start(party)
    fresh = record is None
    if record is None:
        record = talks.Record(store, party.begin(blind=blind, seed=seed))
    try:
        conversation = terminal.Conversation(
            party, store, record, seconds=seconds, system=system, interactive=interactive
        )
        if interactive:
            conversation.welcome()
        code = conversation.run()
    finally:
        if fresh and not record.talk.turns:
            record.path.unlink(missing_ok=True)
        else:
            more = f" --store {shlex.quote(str(store_option))}" if store_option else ""
            if _outside(record.talk):
                more = "".join(f" {shlex.quote(speaker.reference)}" for speaker in party.speakers) + more
            print(visible(f"to go on: charforge chat --open {shlex.quote(str(record.path))}{more}"), file=sys.stderr)
    if code:
        raise typer.Exit(code)


def _serve(
    store: Store,
    path: Path | None,
    speakers: list[str],
    sampling: dict[str, float],
    host: str,
    port: int,
    seconds: float,
    browser: bool,
    system: str | None,
    seed: int | None,
    blind: bool,
) -> None:
    """Talk in the browser. A talk whose speakers are not all here is shown there without them.

    Raises:
        UserError: it can not listen there. The engines are not started then.
    """
    from charforge import compare, talks
    from charforge.chat import party as parties
    from charforge.chat import room, terminal, web
    from charforge.report.text import visible

    talk = talks.read(path, store) if path is not None else None
    with web.listen(host, port) as listening:
        if talk is not None and not speakers:
            speakers = [speaker.reference for speaker in talk.speakers]
            try:
                _trusted(talk)
                compare.named(store, speakers)
            except UserError as error:
                print(f"to be read only: {visible(str(error))}", file=sys.stderr)
                web.serve(room.Nobody(), store, listening=listening, host=host, open_browser=browser, talk=talk)
                return
        with parties.party(store, speakers, sampling) as party:
            terminal.start(party)
            web.serve(
                party, store, listening=listening, host=host, seconds=seconds, open_browser=browser, system=system,
                seed=seed, blind=blind, talk=talk, probes=party.probes,
            )  # fmt: skip
