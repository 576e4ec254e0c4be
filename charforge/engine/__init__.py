"""Text in, text out: requests, completions, and the engines that serve them.

An engine turns chat messages into replies as they finish. `complete` runs a stage's requests through one, keeps each row
as soon as it exists, and asks only for what is not there yet.
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
            }
        )


class Engine(Protocol):
    """Draws replies. Results come in any order, each with the index of its request."""

    about: dict[str, Any]
    """What is recorded in the manifest: kind, versions, device."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]: ...

    def close(self) -> None: ...


def seed_for(*parts: Any) -> int:
    """A seed (31 bits) from what identifies a draw, so that no draw depends on the order or number of others."""
    return int.from_bytes(hashlib.sha256(digest(list(parts)).encode()).digest()[:4], "big") >> 1


def complete(work: Work, requests: Sequence[Request]) -> tuple[list[Row], Row]:
    """All rows for the requests, in their order: those that exist are kept, the rest is drawn.

    Returns the rows (`about` plus key, text, tokens, finish) and counts for the manifest.
    """
    assert work.stage.weights is not None
    weights = weight_identity(work, work.stage.weights)
    keys = [request.key(weights) for request in requests]
    journal = work.artifact.journal()
    kept = sum(key in journal for key in keys)
    copied = 0 if work.fresh else work.store.reuse_rows(work.artifact, journal, keys)
    missing = [i for i, key in enumerate(keys) if key not in journal]
    done = len(keys) - len(missing)
    engine = work.engine if missing else None
    work.progress.total(len(keys), "replies", done)
    about: Row = {"rows": len(keys), "kept": kept, "copied": copied, "drawn": len(missing), "tokens": 0}
    if engine is not None:
        about["engine"] = engine.about
        for index, completion in engine.generate([requests[i] for i in missing]):
            request = requests[missing[index]]
            row = {
                **request.about,
                "key": keys[missing[index]],
                "text": completion.text,
                "tokens": completion.tokens,
                "finish": completion.finish,
            }
            journal.add(row)
            done += 1
            about["tokens"] += completion.tokens
            work.progress.advance(done, tokens=completion.tokens)
    journal.close()
    return [journal.row(key) for key in keys], about


def weight_identity(work: Work, weights: Weights) -> dict[str, Any]:
    """What pins the weights in a row's key: the model, and the key of the training on top of it."""
    trained = None
    if weights.trained_by is not None:
        trained = work.stage.inputs["trained"].key
    return {**weights.identity, "engine": work.recipe.engine, "trained": trained}
