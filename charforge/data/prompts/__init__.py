"""The words we say to models: text files, reviewed as prose, filled in strictly.

A variable that a template needs and does not get is an error; so is one that it gets and does not use.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from charforge.constitution import digest as _digest

_FOLDER = Path(__file__).parent
# Plain text for a model, not markup: escaping would put entities in front of it.
_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701


@cache
def _template(name: str) -> tuple[jinja2.Template, frozenset[str]]:
    source = (_FOLDER / f"{name}.md").read_text(encoding="utf-8").strip()
    variables = meta.find_undeclared_variables(_ENVIRONMENT.parse(source))
    return _ENVIRONMENT.from_string(source), frozenset(variables)


def render(name: str, /, **variables: Any) -> str:
    """Fill in a template.

    Raises:
        KeyError: if a variable is missing or unused.
    """
    template, needed = _template(name)
    if needed != set(variables):
        missing, unused = sorted(needed - set(variables)), sorted(set(variables) - needed)
        raise KeyError(f"prompt {name!r}: missing variables {missing}, unused variables {unused}")
    return template.render(**variables).strip()


@cache
def digest(*names: str) -> str:
    """The digest of the texts of these templates, for the keys of the stages that use them."""
    return _digest({name: (_FOLDER / f"{name}.md").read_text(encoding="utf-8") for name in names})
