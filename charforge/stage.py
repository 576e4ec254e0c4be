"""What a stage is, and what it is given to work with.

A stage is known before it runs: its `identity` holds all that determines its content, and its key is the hash of that
and of its inputs' keys. The work itself happens in a child process that is handed a `Work`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from charforge.constitution import Constitution, digest
from charforge.recipe import Endpoint, Recipe
from charforge.store import Artifact, Row, Store, read_rows

if TYPE_CHECKING:
    from charforge.engine import Engine
    from charforge.engine.scoring import Scorer
    from charforge.models import ResolvedModel


@dataclass(frozen=True)
class Made:
    """An artifact that is there already and is used as it is, whatever made it: a trained character, for one."""

    name: str
    key: str


@dataclass(frozen=True)
class Weights:
    """What an engine serves: a model or an endpoint, with what a training made on top of it."""

    source: ResolvedModel | Endpoint
    trained: Stage | Made | None = None
    """Whose artifact holds the adapter, or all weights."""

    @property
    def identity(self) -> dict[str, Any]:
        if isinstance(self.source, Endpoint):
            # The address is where, the name is what.
            return {"endpoint_model": self.source.model}
        return self.source.identity

    @property
    def label(self) -> str:
        return digest([self.identity, self.trained.key if self.trained else None])[:12]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: named inputs and settings in, one artifact out."""

    name: str
    version: int
    """Raised when the code changes what the stage writes for the same identity."""
    identity: dict[str, Any]
    """Settings, digests of texts and models: everything but the inputs that determines the content."""
    inputs: Mapping[str, Stage | Made]
    """The stages whose artifacts are read, by role."""
    process: str
    """Contiguous stages with the same process run in one child: ``engine:...``, ``score:...``, ``train:NAME``."""
    run: Callable[[Work], Row]
    """Does the work and returns what is worth recording about it: counts, versions."""
    weights: Weights | None = None

    @cached_property
    def preimage(self) -> dict[str, Any]:
        """What the key is the hash of."""
        return {
            "stage": self.name,
            "version": self.version,
            "identity": self.identity,
            "inputs": {role: stage.key for role, stage in self.inputs.items()},
        }

    @cached_property
    def key(self) -> str:
        return digest(self.preimage)


class Resources(Protocol):
    """What a child process holds open for the stages it runs."""

    def engine(self, weights: Weights) -> Engine: ...

    def engines(self, *weights: Weights) -> list[Engine]: ...

    def scorer(self, weights: Weights) -> Scorer: ...

    def folder(self, weights: Weights) -> Path:
        """A folder with the whole model, what was trained merged into it."""
        ...


class Progress:
    """Tells the parent process how far the work is, as JSON lines on a file descriptor (none: nobody listens)."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8") if descriptor is not None else None
        self._last = 0.0

    def event(self, kind: str, **fields: Any) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps({"event": kind, **fields}) + "\n")
            except BrokenPipeError:
                self._file = None

    def total(self, count: float, unit: str, done: float = 0) -> None:
        self.event("total", total=count, unit=unit, done=done)

    def advance(self, done: float, *, tokens: int = 0, note: str = "") -> None:
        """Report the absolute amount done and the tokens since the last report; thinned to ten a second."""
        self._tokens = getattr(self, "_tokens", 0) + tokens
        now = time.monotonic()
        if now - self._last >= 0.1:
            self._last = now
            self.event("advance", done=done, tokens=self._tokens, note=note)
            self._tokens = 0

    def note(self, text: str) -> None:
        self.event("note", text=text)


@dataclass
class Work:
    """One stage at work: where its inputs are, where its output goes, and what it may use."""

    stage: Stage
    artifact: Artifact
    recipe: Recipe
    constitution: Constitution
    store: Store
    resources: Resources
    progress: Progress
    inputs: dict[str, Path] = field(default_factory=dict)
    ahead: tuple[Stage, ...] = ()
    """The stages that this child runs after this one."""
    fresh: bool = False
    """Made again on purpose: no row of another artifact is taken over."""

    @property
    def directory(self) -> Path:
        return self.artifact.directory

    def rows(self, role: str, name: str = "rows.jsonl") -> list[Row]:
        return read_rows(self.inputs[role] / name)
