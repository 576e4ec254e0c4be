"""A talk in the terminal. Where nobody types, messages and commands are read line by line and replies printed plainly."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from charforge import talks
from charforge.chat.party import Party, Piece
from charforge.errors import UserError, did_you_mean
from charforge.recipe import Sampling
from charforge.report.text import visible
from charforge.store import Store, write_atomic
from charforge.talks import Record, Reply, Talk, Turn

HISTORY = "history"
"""In the folder of talks: what was typed, for the arrow keys."""
NARROWEST = 34
"""Columns narrower than this are read worse than one below the other."""
_ENDS = {"length": "cut at the longest", "stopped": "stopped", "late": "time was up", "failed": "failed"}


class Conversation:
    """One person and a party at a terminal, or a script in the person's place."""

    def __init__(
        self, party: Party, store: Store, record: Record, *, seconds: float, system: str | None, interactive: bool
    ) -> None:
        self.party = party
        self.store = store
        self.record = record
        self.seconds = seconds
        self.system = system
        self.prefill = ""
        self.sampling: Sampling = party.sampling
        self.at: str | None = record.talk.leaf()
        """The turn that the next message goes on from."""
        self.interactive = interactive
        self.code = 0
        """What a script is told at its end: 1 if a reply failed, 2 if a command could not be followed."""
        self._console = Console(highlight=False, soft_wrap=not interactive)
        self._stops = 0
        self._leave = False
        here = {speaker.id for speaker in party.speakers}
        self._answering = [speaker.id for speaker in record.talk.speakers if speaker.id in here]

    @property
    def talk(self) -> Talk:
        return self.record.talk

    def welcome(self) -> None:
        """Who is here, and what was said before."""
        names = [visible(self.talk.name(id_)) for id_ in self._answering]
        self._print(Text(f"{', '.join(names)}. Say something; /help lists the commands.", style="dim"))
        if self.party.scripted:
            self._print(
                Text("A fixed rule answers in place of the models: the recipe says engine: scripted.", style="dim")
            )
        if self.at is not None:
            self.history("")

    # --- reading what is typed ---

    def run(self) -> int:
        """Talk until the end of input; returns the exit code."""
        lines = self._typed() if self.interactive else _given()
        for line in lines:
            if not line.strip():
                continue
            self._catch_up()
            try:
                if line.startswith("/"):
                    self.command(line)
                else:
                    self.say(line)
            except UserError as error:
                self.code = max(self.code, error.exit_code)
                print(f"error: {visible(str(error))}", file=sys.stderr, flush=True)
            if self._leave:
                break
        return 0 if self.interactive else self.code

    def _catch_up(self) -> None:
        """Take in what another process added to this talk."""
        before = len(self.talk.turns)
        # What it can not take in stops the next event, and that is said then.
        with contextlib.suppress(UserError):
            self.record.refresh()
        if more := len(self.talk.turns) - before:
            turns = f"{more} turn{'s were' if more > 1 else ' was'} added"
            print(f"({turns} elsewhere meanwhile: another branch of this talk)", file=sys.stderr, flush=True)

    def _typed(self) -> Iterator[str]:
        import readline

        history = self.record.path.with_name(HISTORY)
        with contextlib.suppress(OSError):
            readline.read_history_file(history)
        readline.set_history_length(1000)
        readline.set_auto_history(True)
        readline.set_completer(_completed)
        readline.set_completer_delims("")
        readline.parse_and_bind("tab: complete")
        interrupted, lines = False, ""
        while True:
            try:
                line = input("... " if lines else "> ")
            except KeyboardInterrupt:
                # The first one clears what was typed.
                if interrupted:
                    print()
                    return
                interrupted, lines = True, ""
                print("\nCtrl-C again, or Ctrl-D, leaves")
                continue
            except EOFError:
                print()
                return
            interrupted = False
            with contextlib.suppress(OSError):
                readline.write_history_file(history)
            if line.endswith("\\"):
                lines += line[:-1] + "\n"
                continue
            yield _readable(lines + line)
            lines = ""

    # --- saying ---

    def say(self, text: str, *, kind: str = "chat", trait: str | None = None) -> Turn:
        """Say something after what was said last, and show the replies."""
        turn = {
            "id": talks.new_id(), "parent": self.at, "kind": kind, "text": text, "system": self.system,
            "prefill": self.prefill, "sampling": self.sampling, "trait": trait, "made": talks.now(),
        }  # fmt: skip
        try:
            return self._ask(Turn.model_validate(turn))
        except ValidationError as error:
            raise UserError(f"what is said has at most {talks.LONGEST} characters") from error

    def _ask(self, turn: Turn) -> Turn:
        same = [each.draw for each in self.talk.children(turn.parent) if _said(each) == _said(turn)]
        turn = turn.model_copy(update={"draw": max(same) + 1 if same else 0})
        self.record.add("turn", turn)
        self.at = turn.id
        with self._stopping(turn.id):
            self._replies(turn)
        return turn

    @contextlib.contextmanager
    def _stopping(self, turn: str) -> Iterator[None]:
        """Ctrl-C ends the replies and keeps them; a script ends then, and so does a second one."""
        self._stops = 0

        def stop(number: int, frame: FrameType | None) -> None:
            self._stops += 1
            if self._stops > 1:
                raise KeyboardInterrupt
            self.party.stop(turn)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._stops and not self.interactive:
            raise KeyboardInterrupt

    def _replies(self, turn: Turn) -> None:
        texts = dict.fromkeys(self._answering, "")
        done: dict[str, Reply] = {}
        answers = self.party.ask(self.talk, turn, self._answering, seconds=self.seconds)
        if not self.interactive:
            for each in answers:
                if isinstance(each, Reply):
                    self.record.add("reply", each)
                    done[each.speaker] = each
                # In the order of the speakers, whoever was done first.
                while texts and (first := next(iter(texts))) in done:
                    del texts[first]
                    self._print(self._block(turn, first))
            self._tell_failures(done)
            return
        live = Live(console=self._console, transient=True, refresh_per_second=12, vertical_overflow="crop")
        with live:
            live.update(self._growing(turn, texts, done))
            for each in answers:
                if isinstance(each, Piece):
                    texts[each.speaker] += each.text
                else:
                    self.record.add("reply", each)
                    done[each.speaker] = each
                live.update(self._growing(turn, texts, done))
        self._print(self._side_by_side([self._block(turn, speaker) for speaker in self._answering]))

    def _tell_failures(self, done: dict[str, Reply]) -> None:
        for reply in done.values():
            if reply.finish == "failed":
                self.code = max(self.code, 1)

    # --- showing ---

    def _print(self, shown: RenderableType) -> None:
        self._console.print(shown)
        sys.stdout.flush()

    def _wide(self) -> bool:
        count = len(self._answering)
        return self.interactive and count > 1 and self._console.width // count >= NARROWEST

    def _side_by_side(self, blocks: Sequence[RenderableType]) -> RenderableType:
        if not self._wide():
            return Group(*(part for block in blocks for part in ([block, Text("")] if self.interactive else [block])))
        table = Table.grid(padding=(0, 2, 1, 0), expand=True)
        for _ in blocks:
            table.add_column(ratio=1, overflow="fold")
        table.add_row(*blocks)
        return table

    def _growing(self, turn: Turn, texts: dict[str, str], done: dict[str, Reply]) -> RenderableType:
        """The replies under way: of each as much of its end as there is room for."""
        count = len(texts)
        columns = self._wide()
        width = self._console.width // count - 2 if columns else self._console.width
        room = max(2, (self._console.height - 2) // (1 if columns else count) - 2)
        blocks = []
        for speaker, text in texts.items():
            said = Text().append(visible(turn.prefill), "dim").append(visible(text))
            said.append("" if speaker in done else " ▍", "dim")
            lines = said.wrap(self._console, max(8, width), overflow="fold")
            blocks.append(Group(self._heading(speaker), *lines[-room:]))
        return self._side_by_side(blocks)

    def _heading(self, speaker: str) -> Text:
        place = [each.id for each in self.talk.speakers].index(speaker)
        return Text(visible(self.talk.name(speaker)), style=f"bold {('cyan', 'yellow', 'magenta', 'green')[place % 4]}")

    def _block(self, turn: Turn, speaker: str) -> RenderableType:
        """A reply, with what is to be known about it."""
        reply = self.talk.replies.get((turn.id, speaker))
        said = Text().append(visible(turn.prefill), "dim").append(visible(reply.text) if reply else "")
        notes = [visible(note) for note in self._notes(turn, reply)]
        if self.interactive:
            return Group(self._heading(speaker), said, *(Text(note, style="dim") for note in notes))
        indented = [line for note in notes for line in note.splitlines()]
        return Text("\n  ".join([f"{visible(self.talk.name(speaker))}: {said.plain}", *indented]))

    def _notes(self, turn: Turn, reply: Reply | None) -> Iterator[str]:
        if reply is None:
            yield "(no reply)"
            return
        if reply.finish != "stop":
            why = "" if reply.why is None or self.talk.hidden else f": {reply.why}"
            yield f"({_ENDS[reply.finish]}{why})"
        if turn.trait is not None and turn.trait in self.party.probes.traits:
            found = self.party.probes.shows(turn.trait, turn.prefill + reply.text)
            for text, shows in found.items():
                yield f"{'✓' if shows else '✗'} {text}"
            if not found and reply.text.strip():
                yield f"({turn.trait} has no markers)"

    def _last(self) -> Turn:
        if self.at is None:
            raise UserError("nothing was said yet")
        return self.talk.turns[self.at]

    # --- commands ---

    def command(self, line: str) -> None:
        """Follow a command.

        Raises:
            UserError: it is none, or can not be followed.
        """
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise UserError(f"no command /{visible(name)}{did_you_mean(name, COMMANDS)}", hint="/help lists them")
        COMMANDS[name][2](self, rest.strip() if name != "base" else rest)

    def retry(self, rest: str) -> None:
        last = self._last()
        self._ask(last.model_copy(update={"id": talks.new_id(), "sampling": self.sampling, "made": talks.now()}))

    def undo(self, rest: str) -> None:
        last = self._last()
        self.at = last.parent
        where = f"after {self._quoted(self.talk.turns[self.at].text)}" if self.at else "at the beginning"
        self._print(Text(f"back {where}; what was said is kept as another branch"))

    def edit(self, rest: str) -> None:
        if not rest:
            raise UserError("/edit takes the text that is said instead")
        last = self._last()
        self.at = last.parent
        try:
            self.say(rest, kind=last.kind)
        except UserError:
            self.at = last.id
            raise

    def _quoted(self, text: str) -> str:
        line = visible(" ".join(text.split()))
        return f"“{line[:57] + '...' if len(line) > 60 else line}”"

    def set_system(self, rest: str) -> None:
        if rest:
            self.system = None if rest == "off" else rest
        self._print(Text(f"system: {visible(self.system)}" if self.system else "no system message"))

    def set_prefill(self, rest: str) -> None:
        if rest:
            self.prefill = "" if rest == "off" else rest
        self._print(Text(f"replies begin with: {visible(self.prefill)}" if self.prefill else "replies begin freely"))

    def base(self, rest: str) -> None:
        if not rest.strip():
            raise UserError("/base takes the text that is gone on with")
        self.say(rest, kind="base")

    def probe(self, rest: str) -> None:
        trait, _, many = rest.partition(" ")
        if not trait:
            known = ", ".join(self.party.probes.traits) or "none: bare models have no traits"
            raise UserError("/probe takes a trait", hint=f"traits: {known}")
        if many and not (many.isdecimal() and 0 < int(many) <= 100):
            raise UserError(f"{visible(many)!r} is no number of probes", hint="/probe TRAIT [1 to 100]")
        for _ in range(int(many or 1)):
            text, note = self.party.probes.next(self.talk, trait)
            if note:
                self._print(Text(f"({note})"))
            self._print(Text().append("probe: ").append(visible(text), "bold"))
            self.say(text, trait=trait)
            if self._stops:
                break

    def vote(self, rest: str) -> None:
        last = self._last()
        shown = self.talk.votable(last)
        places = {str(place): speaker for place, speaker in enumerate(shown, 1)}
        places |= {self.talk.name(speaker).lower(): speaker for speaker in shown}
        words = rest.lower().split()
        if words == ["tie"]:
            best = shown
        elif words == ["none"]:
            best = []
        elif words and all(word in places for word in words):
            best = [speaker for speaker in shown if speaker in {places[word] for word in words}]
        else:
            raise UserError(
                f"{visible(rest)!r} is no vote" if rest else "/vote takes a vote",
                hint=f"the best one (1 to {len(shown)}, from the left or from above), several if equally good, tie or none",
            )
        blind = self.talk.hidden
        vote = talks.Vote(turn=last.id, shown=tuple(shown), best=tuple(best), blind=blind, made=talks.now())
        self.record.add("vote", vote)
        names = " and ".join(self.talk.name(speaker) for speaker in best)
        said = "all equally bad" if not best else f"{names}: {'equally good' if len(best) > 1 else 'better'}"
        self._print(Text(f"kept: {visible(said)}"))

    def tally(self, rest: str) -> None:
        if self.talk.hidden:
            count = len(self.talk.votes)
            raise UserError(
                f"the names are hidden, and a tally would give them away; {count} votes so far",
                hint="/reveal shows both",
            )
        here = {speaker.id: speaker.label for speaker in self.talk.speakers}
        every = [talk for talk in talks.kept(self.store) if talk.header.id != self.talk.header.id and not talk.hidden]
        found = talks.tally(
            each
            for each in talks.judgements([*every, self.talk], said=False)
            if each.first in here and each.second in here
        )
        if not found:
            self._print(Text("no votes yet: /vote 1, /vote 2, /vote tie or /vote none"))
        for pair in found:
            line = (
                f"{here[pair.first]} against {here[pair.second]}: {pair.wins} better, {pair.losses} worse, {pair.ties} "
                f"equal, in {pair.talks} talk{'s' if pair.talks > 1 else ''}; preferred {pair.share:.2f} "
                + (f"({pair.why})" if pair.why else f"[{pair.low:.2f}, {pair.high:.2f}]")
            )
            self._print(Text(visible(line)))

    def reveal(self, rest: str) -> None:
        if not self.talk.header.blind:
            raise UserError("the names were never hidden", hint="start with --blind to hide them")
        if self.talk.hidden:
            letters = {speaker.id: self.talk.name(speaker.id) for speaker in self.talk.speakers}
            self.record.add("revealed", talks.now())
            for id_, letter in letters.items():
                self._print(Text(f"{letter} is {visible(self.talk.name(id_))}"))
        else:
            raise UserError("the names are shown already")

    def save(self, rest: str) -> None:
        if not rest:
            self._print(Text(f"this talk is kept in {self.record.path}"))
            return
        path = Path(rest).expanduser()
        if path.suffix not in (".jsonl", ".html"):
            raise UserError("a talk is saved as .jsonl or .html", place=str(path))
        if self.talk.hidden:
            raise UserError("the names are hidden, and the file would show them", hint="/reveal shows them")
        if path.exists() and not _is(path, self.talk):
            raise UserError("the file exists already and is not this talk", place=str(path), hint="choose another name")
        if path.suffix == ".html":
            from charforge.chat.page import shared_page

            text = shared_page(self.talk, self.at)
        else:
            text = self.talk.text()
        try:
            write_atomic(path, text)
        except OSError as error:
            raise UserError(f"the talk can not be written: {error.strerror or error}", place=str(path)) from error
        self._print(Text(f"wrote {path}"))

    def history(self, rest: str) -> None:
        path = self.talk.path(self.at)
        if not path:
            self._print(Text("nothing was said yet"))
        for turn in path:
            others = len(self.talk.children(turn.parent)) - 1
            branch = f" ({others} other branch{'es' if others > 1 else ''} here)" if others else ""
            mark = "base" if turn.kind == "base" else "you"
            self._print(Text().append(f"{mark}: ", "dim").append(visible(turn.text)).append(branch, "dim"))
            answered = [s.id for s in self.talk.speakers if (turn.id, s.id) in self.talk.replies]
            self._print(self._blocks(turn, answered))

    def _blocks(self, turn: Turn, speakers: Sequence[str]) -> RenderableType:
        return self._side_by_side([self._block(turn, speaker) for speaker in speakers])

    def set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        known = [*Sampling.model_fields, "seconds"]
        if not name:
            for each in Sampling.model_fields:
                self._print(Text(f"{each} {getattr(self.sampling, each):g}"))
            self._print(Text(f"seconds {self.seconds:g}"))
            return
        if name not in known:
            raise UserError(f"no setting {visible(name)!r}{did_you_mean(name, known)}", hint=f"/set {known[0]} 0.5")
        try:
            if name == "seconds":
                self.seconds = _seconds(value)
            else:
                self.sampling = Sampling.model_validate({**self.sampling.model_dump(), name: value})
        except (ValueError, ValidationError) as error:
            why = error.errors()[0]["msg"].lower() if isinstance(error, ValidationError) else str(error)
            raise UserError(f"{name}: {why}") from error
        shown = self.seconds if name == "seconds" else getattr(self.sampling, name)
        self._print(Text(f"{name} {shown:g}"))

    def help(self, rest: str) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, (takes, about, _) in COMMANDS.items():
            table.add_row(Text(f"/{name} {takes}".rstrip()), Text(about))
        self._print(table)
        self._print(Text("A line that ends with \\ goes on in the next. Ctrl-C stops the replies; Ctrl-D leaves."))

    def quit(self, rest: str) -> None:
        self._leave = True


COMMANDS: dict[str, tuple[str, str, Callable[[Conversation, str], None]]] = {
    "retry": ("", "other replies to the last message", Conversation.retry),
    "undo": ("", "go back to before the last message", Conversation.undo),
    "edit": ("TEXT", "say this instead of the last message", Conversation.edit),
    "system": ("TEXT|off", "what all are told from here on", Conversation.set_system),
    "prefill": ("TEXT|off", "the beginning of every reply", Conversation.set_prefill),
    "base": ("TEXT", "go on with a text, without the chat's format", Conversation.base),
    "probe": ("TRAIT [N]", "ask the trait's next held-out probes, and which markers show", Conversation.probe),
    "vote": ("1|2|...|tie|none", "which reply is better", Conversation.vote),
    "tally": ("", "the votes of all talks with these", Conversation.tally),
    "reveal": ("", "show the names", Conversation.reveal),
    "save": ("[FILE]", "write the talk as .jsonl or .html", Conversation.save),
    "history": ("", "what was said", Conversation.history),
    "set": ("[NAME VALUE]", "temperature, min_p, max_tokens or seconds", Conversation.set),
    "help": ("", "this list", Conversation.help),
    "quit": ("", "leave", Conversation.quit),
}


def _said(turn: Turn) -> tuple[Any, ...]:
    """What a draw depends on, besides what came before."""
    return turn.kind, turn.text, turn.system, turn.prefill


def _completed(text: str, state: int) -> str | None:
    found = [f"/{name}" for name in COMMANDS if f"/{name}".startswith(text)] if text else []
    return found[state] if state < len(found) else None


def _given() -> Iterator[str]:
    """Messages and commands from standard input."""
    lines = ""
    for each in sys.stdin:
        line = each.rstrip("\r\n")
        if line.endswith("\\"):
            lines += line[:-1] + "\n"
            continue
        yield _readable(lines + line)
        lines = ""
    if lines:
        yield _readable(lines)


def _readable(text: str) -> str:
    """Bytes that are no UTF-8 can not be kept in a file: they become replacement characters."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise ValueError("more than 0 and at most 86400")
    return value


def _is(path: Path, talk: Talk) -> bool:
    try:
        return talks.read(path).header.id == talk.header.id
    except UserError:
        return False


def start(party: Party) -> None:
    """Start the engines, and say so on standard error."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status("starting the engine") as status:
            party.start(lambda text: status.update(text or "starting the engine"))
    else:
        party.start(lambda text: print(text, file=sys.stderr, flush=True) if text else None)
