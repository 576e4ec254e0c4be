"""What every measure is: a suite's schema, what it asks of an arm, and how the rows are read into numbers."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from charforge import shipped
from charforge.constitution import Constitution, load
from charforge.engine.bench import Bench
from charforge.evaluate.asking import Ask, Setting
from charforge.evaluate.findings import Findings
from charforge.evaluate.judging import Judging
from charforge.recipe import Recipe
from charforge.store import Row

_NAME = re.compile(r"[a-z][a-z0-9-]*")


@cache
def shipped_constitutions() -> tuple[Constitution, ...]:
    """Every shipped constitution: characters, voices of councils and single traits, to hold a character against others."""
    folder = shipped.folder("constitutions")
    paths = sorted([*folder.glob("*.md"), *folder.glob("*/*.md")])
    return tuple(load(path) for path in paths if path.stem != "TEMPLATE")


class Part(BaseModel):
    """A part of a suite's file: unknown keys are errors, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Desk:
    """What a measure may use to read rows: the character, and models that weigh text."""

    constitution: Constitution
    recipe: Recipe
    bench: Bench
    judging: Judging


class Suite(Part):
    """A suite of one measure. Each measure is a module with one subclass."""

    units: ClassVar[tuple[str, ...]] = ()
    """The fields that hold independent units; a limit keeps the first so many of each."""
    reading: ClassVar[int] = 1
    """Raised when the code reads the same rows differently."""
    judged: ClassVar[bool] = False
    """Whether reading needs the judges."""

    name: str
    version: int
    measure: str
    description: str = ""

    def problems(self) -> list[str]:
        """What is wrong with the file beyond its schema, in words."""
        if _NAME.fullmatch(self.name):
            return []
        return [f"name: {self.name!r} must be lower-case letters, digits and hyphens"]

    def limited(self, limit: int | None) -> Self:
        """The suite with at most so many of its independent units."""
        if limit is None:
            return self
        cut: dict[str, Any] = {}
        for name in self.units:
            value = getattr(self, name)
            cut[name] = dict(list(value.items())[:limit]) if isinstance(value, dict) else value[:limit]
        return self.model_copy(update=cut)

    @abstractmethod
    def asks(self, setting: Setting) -> Sequence[Ask]:
        """Everything that is asked of one arm."""

    @abstractmethod
    def read(self, rows: list[Row], desk: Desk) -> Findings:
        """Add to each row what was read in it, and say what all of them show."""

    def heard(self, constitution: Constitution) -> Any:
        """What of the constitution the reading depends on beyond what was asked: a change of it reads the rows again."""
        return None
