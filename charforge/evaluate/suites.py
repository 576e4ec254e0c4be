"""Suites: files that say what a character is asked, and by which measure its replies are read.

A suite is YAML (eval/README.md); a user extends one, or writes another, without code. The measures are one module each;
this one finds and reads the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from charforge import shipped
from charforge.errors import Place, UserError, did_you_mean, raise_problems
from charforge.evaluate.coherence import CoherenceSuite
from charforge.evaluate.measure import Suite
from charforge.evaluate.preferences import PreferenceSuite
from charforge.evaluate.refusals import RefusalSuite
from charforge.evaluate.retention import RetentionSuite
from charforge.evaluate.robustness import RobustnessSuite
from charforge.evaluate.scaffolds import ScaffoldSuite
from charforge.evaluate.self_prediction import SelfPredictionSuite
from charforge.evaluate.selftalk import SelftalkSuite
from charforge.evaluate.sycophancy import SycophancySuite
from charforge.evaluate.symmetry import SymmetrySuite

MEASURES: dict[str, type[Suite]] = {
    "coherence": CoherenceSuite,
    "preferences": PreferenceSuite,
    "refusals": RefusalSuite,
    "retention": RetentionSuite,
    "robustness": RobustnessSuite,
    "scaffolds": ScaffoldSuite,
    "self-prediction": SelfPredictionSuite,
    "selftalk": SelftalkSuite,
    "sycophancy": SycophancySuite,
    "symmetry": SymmetrySuite,
}
SHIPPED = tuple(MEASURES)


class SuiteSettings(BaseModel):
    """How much of a suite a preset asks."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    limit: int | None = Field(None, ge=2)
    samples: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=16)


def load(name: str) -> Suite:
    """A suite by the name of a shipped one, or from a file.

    Raises:
        UserError: if there is none, or with everything that is wrong in it.
    """
    path = Path(name)
    if not path.suffix and not path.exists():
        if name in presets():
            raise UserError(f"{name!r} is a preset and no suite", hint=f"give it as --preset {name}")
        if name not in SHIPPED:
            raise UserError(f"no suite {name!r}{did_you_mean(name, SHIPPED)}", hint="or name a YAML file")
        path = shipped.find("eval", name, ".yaml")
    data = _read(path)
    kind = data.get("measure") if isinstance(data, dict) else None
    if kind not in MEASURES:
        raise UserError(f"measure: {kind!r} is none{did_you_mean(str(kind), MEASURES)}", place=str(path))
    try:
        suite = MEASURES[kind].model_validate(data)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            known = list(MEASURES[kind].model_fields) if len(item["loc"]) == 1 else []
            unknown = item["type"] == "extra_forbidden"
            message = f"unknown key{did_you_mean(str(item['loc'][-1]), known)}" if unknown else item["msg"]
            problems.append(UserError(f"{where}: {message[0].lower()}{message[1:]}", place=str(path)))
        raise_problems(problems)
        raise
    raise_problems([UserError(problem, place=str(path)) for problem in suite.problems()])
    return suite


def presets() -> dict[str, dict[str, SuiteSettings]]:
    """How much `--preset` asks of each shipped suite, by the name of the preset (eval/presets.yaml)."""
    path = shipped.find("eval", "presets", ".yaml")
    return {
        preset: {suite: SuiteSettings(**settings) for suite, settings in suites.items()}
        for preset, suites in _read(path).items()
    }


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such suite", place=str(path), hint=f"shipped are: {', '.join(SHIPPED)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can not be read as UTF-8 text: {error}", place=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Place(str(path), mark.line + 1, mark.column + 1) if mark else Place(str(path))
        raise UserError(f"not valid YAML: {getattr(error, 'problem', error)}", place=place) from error
