"""The process that answers: the engines of a party, and the replies under way in them.

Started by `charforge.chat.party` as ``python -m charforge.chat.serving JOB.json``. Commands come as JSON lines on standard
input, events go as JSON lines to the events pipe. Replies of all talks are drawn side by side; a new one joins those that
are under way. If the parent dies, it dies.

    {"start": "7", "speaker": "1eac5e9e78d7", "messages": [...], ...}    begin a reply
    {"stop": "7"}                                                      no more of it
"""

from __future__ import annotations

import json
import os
import queue
import sys
import traceback
from pathlib import Path
from typing import Any

from charforge.child import die_with_parent
from charforge.compare import Contestant
from charforge.engine import Request
from charforge.errors import CharforgeError, StageError
from charforge.recipe import Runtime, Sampling
from charforge.stage import Progress
from charforge.store import Store
from charforge.worker import Held

_IDLE = 0.01
"""Seconds between two looks at engines that had nothing to say."""


def main(job_file: Path, commands: queue.SimpleQueue[bytes], progress: Progress) -> None:
    job: dict[str, Any] = json.loads(job_file.read_text(encoding="utf-8"))
    found = [Contestant.read(data) for data in job["speakers"]]
    for contestant, known in zip(found, job["ids"], strict=True):
        if contestant.digest != known:
            raise StageError(f"{contestant.label} changed while it was being loaded", hint="start the chat again")
    weights = [contestant.weights for contestant in found]
    runtime = Runtime.model_validate(job["runtime"])
    held = Held(job["engine"], runtime, Store(Path(job["store"])), progress, expected=weights)
    engines = dict(zip(job["ids"], held.engines(*weights), strict=True))
    each = list({id(engine): engine for engine in engines.values()}.values())
    progress.event("ready", engines={speaker: engine.about for speaker, engine in engines.items()})
    speaking: dict[str, str] = {}
    said = True
    while True:
        try:
            while True:
                wait = None if not speaking else 0 if said else _IDLE
                command = json.loads(commands.get(timeout=wait) if wait != 0 else commands.get_nowait())
                said = True
                key = command.get("stop")
                if key in speaking:
                    engines[speaking.pop(key)].stop(key)
                elif "start" in command:
                    key = command["start"]
                    try:
                        read = engines[command["speaker"]].start(key, _request(command))
                    # Whatever a template or an engine makes of one reply is no other's business.
                    except Exception as error:
                        traceback.print_exc()
                        progress.event("failed", key=key, why=_why(error))
                    else:
                        speaking[key] = command["speaker"]
                        progress.event("begun", key=key, read=read)
        except queue.Empty:
            pass
        said = False
        for engine in each:
            for chunk in engine.advance():
                said = True
                if chunk.failed is not None:
                    progress.event("failed", key=chunk.key, why=chunk.failed)
                else:
                    finish = chunk.completion.finish if chunk.completion else None
                    progress.event("piece", key=chunk.key, text=chunk.text, tokens=chunk.tokens, finish=finish)
                if chunk.failed is not None or chunk.completion is not None:
                    speaking.pop(chunk.key, None)


def _request(command: dict[str, Any]) -> Request:
    return Request(
        tuple(command["messages"]),
        Sampling.model_validate(command["sampling"]),
        command["seed"],
        prefill=command["prefill"],
        document=command["document"],
    )


def _why(error: Exception) -> str:
    if isinstance(error, CharforgeError):
        return str(error)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    given: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    die_with_parent(given.put)
    events = Progress(int(os.environ["CHARFORGE_EVENTS"]) if "CHARFORGE_EVENTS" in os.environ else None)
    try:
        main(Path(sys.argv[1]), given, events)
    except CharforgeError as problem:
        traceback.print_exc()
        events.event(
            "error", message=problem.message, place=str(problem.place) if problem.place else None, hint=problem.hint,
            exit_code=problem.exit_code,
        )  # fmt: skip
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of an engine that is already gone must not keep this process alive.
    os._exit(1)
