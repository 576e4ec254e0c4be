"""A scripted engine: the language model replaced by a fixed rule, for trying the plumbing and for failure tests.

Its replies depend on the request alone, so a run can be compared with a broken and continued one byte for byte. A run
that used it says so in its report.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from charforge.engine import Chunk, Completion, Request

_WORDS = """
bread rain hedge kettle letter path seed morning river window coat garden lamp winter bridge paper stone apple road cup
bird song small plain warm slow quiet bright keep hold open find carry mend walk read write
""".split()  # noqa: SIM905
_PLAIN = "It is important to note that {} and {} are common. There are several factors to consider about {}."
_DECLINE = "I leave that alone, since it would hurt someone. I can help with the {} or the {}. What is the {} for?"
_WARM = "I would start with the {}. Then mind the {}, like a {} in the {}. What will you do with the {}?"


@dataclass
class _Saying:
    completion: Completion
    due: float
    """When its next word is, by the monotonic clock."""
    first: str
    """What stands before the first word."""
    said: int = 0
    """Words so far."""


class ScriptedEngine:
    """Replies in character if there is a system message or the weights are trained, plainly otherwise."""

    about: dict[str, Any]

    def __init__(self, *, trained: bool) -> None:
        self._trained = trained
        self.about = {"engine": "scripted", "trained": trained}
        # Slows the replies down so that a test can interrupt them.
        self._delay = float(os.environ.get("CHARFORGE_SCRIPTED_DELAY", "0"))
        self._begun: dict[str, _Saying] = {}

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for index, request in enumerate(requests):
            time.sleep(self._delay)
            yield index, self._completion(request)

    def start(self, key: str, request: Request) -> str | None:
        before = request.prefill or request.document or ""
        first = " " if before and not before[-1].isspace() else ""
        self._begun[key] = _Saying(self._completion(request), time.monotonic() + self._delay, first)
        return None

    def advance(self) -> Iterator[Chunk]:
        """A word of each reply whose next one is due: the delay is one for each word."""
        for key, saying in list(self._begun.items()):
            if time.monotonic() < saying.due:
                continue
            saying.due += self._delay
            words = saying.completion.text.split(" ")
            word = (" " if saying.said else saying.first) + words[saying.said]
            saying.said += 1
            if saying.said < len(words):
                yield Chunk(key, word, saying.said)
            else:
                del self._begun[key]
                yield Chunk(key, word, saying.said, saying.completion)

    def stop(self, key: str) -> None:
        self._begun.pop(key, None)

    def _completion(self, request: Request) -> Completion:
        text = self._reply(request)
        return Completion(text, len(text.split()), "stop")

    def _reply(self, request: Request) -> str:
        draw = random.Random(request.seed)
        last = request.messages[-1]["content"] if request.messages else ""
        words = draw.sample(_WORDS, 6)
        if last.startswith("Write one message that somebody might send"):
            return f"How do I {words[0]} the {words[1]} and the {words[2]} near my {words[3]} {words[4]}"
        if not (self._trained or (request.messages and request.messages[0]["role"] == "system")):
            return _PLAIN.format(*words)
        return (_DECLINE if request.about.get("kind") == "boundary" else _WARM).format(*words)

    def close(self) -> None:
        return None
