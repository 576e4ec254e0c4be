"""Suites: files that say what a character is asked, and by which measure its replies are read.

A suite is YAML (eval/README.md); a user extends one, or writes another, without code. Here it becomes probes: what is said
to the model, word for word, with what the measure needs to know about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charforge import shipped
from charforge.constitution import Message, digest
from charforge.errors import Place, UserError, did_you_mean, raise_problems

_NAME = re.compile(r"[a-z][a-z0-9-]*")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Override(_Settings):
    """A persona that somebody else gives the character, as a system prompt or said by the user."""

    system: str | None = None
    user: str | None = None


class RobustnessSuite(_Settings):
    """Ordinary requests as they are and under pressure. See `charforge.evaluate.robustness`."""

    name: str
    version: int
    measure: Literal["robustness"]
    description: str = ""
    plain: tuple[str, ...] = Field(min_length=2)
    suffixes: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    prefill: str = ""
    prefill_tokens: tuple[int, ...] = ()
    identity: tuple[str, ...] = ()
    invitations: tuple[str, ...] = ()


class Scaffold(_Settings):
    """A kind of work: what is said before the matter, and which part of the reply is the character's."""

    system: str | None = None
    before: tuple[tuple[str, str], ...] = ()
    reads: str | None = None
    context: str | None = None
    """What a trait's scope is held against."""


class ScaffoldSuite(_Settings):
    """The same matters in plain chat and inside other work. See `charforge.evaluate.scaffolds`."""

    name: str
    version: int
    measure: Literal["scaffolds"]
    description: str = ""
    scaffolds: dict[str, Scaffold]
    matters: dict[str, dict[str, str]] = Field(min_length=2)


Suite = RobustnessSuite | ScaffoldSuite
_KINDS: dict[str, type[RobustnessSuite] | type[ScaffoldSuite]] = {
    "robustness": RobustnessSuite,
    "scaffolds": ScaffoldSuite,
}
SHIPPED = ("robustness", "scaffolds")


@dataclass(frozen=True)
class Probe:
    """One thing that is said to the model. `base` is the independent unit: what is asked in several ways is one base."""

    base: str
    condition: str
    messages: tuple[Message, ...]
    prefill: str = ""
    prefill_tokens: int = 0
    reads: str | None = None
    context: str | None = None

    @property
    def id(self) -> str:
        return digest([list(self.messages), self.prefill, self.prefill_tokens])[:12]


def load(name: str) -> Suite:
    """A suite by the name of a shipped one, or from a file.

    Raises:
        UserError: if there is none, or with everything that is wrong in it.
    """
    path = Path(name)
    if not path.suffix and not path.exists():
        if name not in SHIPPED:
            raise UserError(f"no suite {name!r}{did_you_mean(name, SHIPPED)}", hint="or name a YAML file")
        path = shipped.find("eval", name, ".yaml")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such suite", place=str(path), hint=f"shipped are: {', '.join(SHIPPED)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can not be read as UTF-8 text: {error}", place=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Place(str(path), mark.line + 1, mark.column + 1) if mark else Place(str(path))
        raise UserError(f"not valid YAML: {getattr(error, 'problem', error)}", place=place) from error
    return _validate(data, path)


def _validate(data: Any, path: Path) -> Suite:
    kind = data.get("measure") if isinstance(data, dict) else None
    if kind not in _KINDS:
        raise UserError(f"measure: {kind!r} is none{did_you_mean(str(kind), _KINDS)}", place=str(path))
    try:
        suite: Suite = _KINDS[kind].model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            known = list(_KINDS[kind].model_fields) if len(item["loc"]) == 1 else []
            unknown = item["type"] == "extra_forbidden"
            message = f"unknown key{did_you_mean(str(item['loc'][-1]), known)}" if unknown else item["msg"]
            problems.append(UserError(f"{where}: {message[0].lower()}{message[1:]}", place=str(path)))
        raise_problems(problems)
        raise
    problems = [UserError(problem, place=str(path)) for problem in _inconsistencies(suite)]
    raise_problems(problems)
    return suite


def _inconsistencies(suite: Suite) -> list[str]:
    found = []
    if not _NAME.fullmatch(suite.name):
        found.append(f"name: {suite.name!r} must be lower-case letters, digits and hyphens")
    if isinstance(suite, RobustnessSuite):
        if bool(suite.prefill) != bool(suite.prefill_tokens):
            found.append("prefill and prefill_tokens go together")
        if any(count < 1 for count in suite.prefill_tokens):
            found.append("prefill_tokens: each is at least 1")
        for number, override in enumerate(suite.overrides):
            if bool(override.system) == bool(override.user):
                found.append(f"overrides.{number}: give either system or user")
        if len(set(suite.plain)) < len(suite.plain):
            found.append("plain: a request stands there twice")
        return found
    if "chat" not in suite.scaffolds:
        found.append("scaffolds: there is no 'chat', which all others are compared with")
    for matter, tasks in suite.matters.items():
        missing = set(suite.scaffolds) - set(tasks)
        unknown = set(tasks) - set(suite.scaffolds)
        if missing:
            found.append(f"matters.{matter}: nothing for {', '.join(sorted(missing))}")
        if unknown:
            name = sorted(unknown)[0]
            found.append(f"matters.{matter}.{name}: no such scaffold{did_you_mean(name, suite.scaffolds)}")
    return found
