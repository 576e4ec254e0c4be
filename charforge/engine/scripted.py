"""A scripted engine: the language model replaced by a fixed rule, for trying the plumbing and for failure tests.

Its replies depend on the request alone, so a run can be compared with a broken and continued one byte for byte. A run
that used it says so in its report.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from charforge.engine import Completion, Request

_WORDS = """
bread rain hedge kettle letter path seed morning river window coat garden lamp winter bridge paper stone apple road cup
bird song small plain warm slow quiet bright keep hold open find carry mend walk read write
""".split()  # noqa: SIM905
_PLAIN = "It is important to note that {} and {} are common. There are several factors to consider about {}."
_DECLINE = "I leave that alone, since it would hurt someone. I can help with the {} or the {}. What is the {} for?"
_WARM = "I would start with the {}. Then mind the {}, like a {} in the {}. What will you do with the {}?"


class ScriptedEngine:
    """Replies in character if there is a system message or the weights are trained, plainly otherwise."""

    about: dict[str, Any]

    def __init__(self, *, trained: bool) -> None:
        self._trained = trained
        self.about = {"engine": "scripted", "trained": trained}
        # Slows the replies down so that a test can interrupt them.
        self._delay = float(os.environ.get("CHARFORGE_SCRIPTED_DELAY", "0"))

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for index, request in enumerate(requests):
            time.sleep(self._delay)
            text = self._reply(request)
            yield index, Completion(text, len(text.split()), "stop")

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
