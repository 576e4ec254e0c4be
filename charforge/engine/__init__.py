"""Text in, text out: requests, completions, and the engines that serve them.

An engine turns chat messages into replies as they finish, or as they are said. `complete` runs a stage's requests through
one, keeps each row as soon as it exists, and asks only for what is not there yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from charforge.constitution import Message, digest
from charforge.recipe import Sampling
from charforge.stage import Weights, Work
from charforge.store import Row


@dataclass(frozen=True)
class Completion:
    """A finished reply. `finish` is "stop", or "length" where it was cut; `tokens` counts the reply's tokens."""

    text: str
    tokens: int
    finish: str
    prompt: str | None = None
    """What the model read, word for word, with all that its template adds; None where an endpoint does not say."""


@dataclass(frozen=True)
class Chunk:
    """What a reply under way grew by. All `text` of a reply is the text of its completion; where the reply goes on from a
    prefill or a document, white space may stand before it."""

    key: str
    text: str
    tokens: int
    """Of the reply so far."""
    completion: Completion | None = None
    """With the last one."""
    failed: str | None = None
    """Why there will be no more of it."""


@dataclass(frozen=True)
class Request:
    """One reply to draw. `about` goes into the row and does not influence the reply."""

    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    about: Row = field(default_factory=dict)
    prefill: str = ""
    """The beginning of the reply, put into the model's mouth; the reply is what comes after it."""
    prefill_tokens: int = 0
    """Only so many tokens of `prefill` are used."""
    document: str | None = None
    """Text to go on with as it stands, without the chat template; `messages` are empty then."""
    keep_prompt: bool = False
    """Whether the row keeps what the model read, word for word."""

    def key(self, weights: dict[str, Any]) -> str:
        """The row's key: the hash of the row's place and of all that determines the reply."""
        return digest(
            {
                "about": self.about,
                "weights": weights,
                "messages": list(self.messages),
                "sampling": self.sampling.model_dump(),
                "seed": self.seed,
                **({"prefill": [self.prefill, self.prefill_tokens]} if self.prefill else {}),
                **({"document": self.document} if self.document is not None else {}),
            }
        )


class Growing:
    """A reply under way, as its completion will have it: without white space at its ends. What goes on from a prefill or a
    document keeps the white space between the two."""

    def __init__(self, request: Request) -> None:
        self._joined = bool(request.prefill) or request.document is not None
        self._said = ""

    def grow(self, whole: str) -> str:
        """What is new in the whole text so far. White space at its end waits for what comes after it."""
        text = whole.rstrip() if self._joined else whole.strip()
        new, self._said = text[len(self._said) :], text
        return new

    @property
    def text(self) -> str:
        """The text of the completion."""
        return self._said.lstrip()


class Engine(Protocol):
    """Draws replies: all of a list, or each as it is said while others begin and end. Not both at a time."""

    about: dict[str, Any]
    """What is recorded in the manifest: kind, versions, device."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Results in any order, each with the index of its request."""
        ...

    def start(self, key: str, request: Request) -> str | None:
        """Begin a reply; `advance` tells of it. Returns what the model reads, word for word, where that is known.

        Raises:
            StageError: it can not be drawn. Others go on.
        """
        ...

    def advance(self) -> Iterator[Chunk]:
        """What came since; nothing if nothing did. It waits for no more than one step of the model."""
        ...

    def stop(self, key: str) -> None:
        """End a reply: nothing more is said of it. One that is not under way is none."""
        ...

    def close(self) -> None: ...


def seed_for(*parts: Any) -> int:
    """A seed (31 bits) from what identifies a draw, so that no draw depends on the order or number of others."""
    return int.from_bytes(hashlib.sha256(digest(list(parts)).encode()).digest()[:4], "big") >> 1


class Drawing:
    """The rows of one stage: what is in its journal, what other artifacts have, and what is drawn now."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.journal = work.artifact.journal()
        self.about: Row = {"rows": 0, "kept": 0, "copied": 0, "drawn": 0, "tokens": 0}

    def missing(self, asked: Sequence[tuple[Request, Weights]]) -> tuple[list[str], list[int]]:
        """The keys of what is asked, and the places of those that are not there yet."""
        keys = [request.key(weight_identity(self.work, weights)) for request, weights in asked]
        self.about["rows"] += len(keys)
        self.about["kept"] += sum(key in self.journal for key in keys)
        if not self.work.fresh:
            self.about["copied"] += self.work.store.reuse_rows(self.work.artifact, self.journal, keys)
        found = [i for i, key in enumerate(keys) if key not in self.journal]
        self.about["drawn"] += len(found)
        return keys, found

    def add(self, key: str, request: Request, completion: Completion) -> None:
        self.journal.add(
            {
                **request.about,
                "key": key,
                "text": completion.text,
                "tokens": completion.tokens,
                "finish": completion.finish,
                **({"rendered": completion.prompt} if request.keep_prompt else {}),
            }
        )
        self.about["tokens"] += completion.tokens

    def close(self) -> None:
        self.journal.close()


def draw(asked: Sequence[tuple[Drawing, Sequence[tuple[Request, Weights]]]]) -> list[list[Row]]:
    """Draw what is missing of several stages, in one batch for each pair of weights; the rows of each, in its order."""
    keys: list[list[str]] = []
    todo: dict[str, tuple[Weights, list[tuple[int, int]]]] = {}
    total = done = 0
    for place, (drawing, requests) in enumerate(asked):
        own, missing = drawing.missing(requests)
        keys.append(own)
        total, done = total + len(own), done + len(own) - len(missing)
        for index in missing:
            weights = requests[index][1]
            todo.setdefault(weights.label, (weights, []))[1].append((place, index))
    work = asked[0][0].work
    work.progress.total(total, "replies", done)
    if todo:
        engines = dict(zip(todo, work.resources.engines(*(weights for weights, _ in todo.values())), strict=True))
        for label, (_, places) in todo.items():
            engine = engines[label]
            for number, completion in engine.generate([asked[p][1][i][0] for p, i in places]):
                place, index = places[number]
                drawing = asked[place][0]
                drawing.about.setdefault("engine", engine.about)
                drawing.add(keys[place][index], asked[place][1][index][0], completion)
                done += 1
                work.progress.advance(done, tokens=completion.tokens)
    return [[drawing.journal.row(key) for key in own] for (drawing, _), own in zip(asked, keys, strict=True)]


def complete(work: Work, requests: Sequence[Request]) -> tuple[list[Row], Row]:
    """All rows for the requests, in their order: those that exist are kept, the rest is drawn.

    Returns the rows (`about` plus key, text, tokens, finish) and counts for the manifest.
    """
    weights = work.stage.weights
    assert weights is not None
    drawing = Drawing(work)
    (rows,) = draw([(drawing, [(request, weights) for request in requests])])
    drawing.close()
    return rows, drawing.about


def weight_identity(work: Work, weights: Weights) -> dict[str, Any]:
    """What pins the weights in a row's key: the model, and the key of the training on top of it."""
    trained = weights.trained.key if weights.trained else None
    return {**weights.identity, "engine": work.recipe.engine, "trained": trained}
