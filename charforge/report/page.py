"""What every page shares: the file around it, with its style, script and policy, and how texts and numbers stand in it.

A page is one file that asks the network for nothing: the policy in its head allows its own script by hash and nothing else.
Text that models wrote goes through `visible_within` once, before it comes here, and through Jinja's escaping in the template.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from charforge.report.text import visible

FOLDER = Path(__file__).parent
GLYPHS = {"base": "○", "prompted": "■", "middle": "▲", "final": "◆"}
"""The shape of each role, the same as in the figures: no arm is told from another by its colour alone."""
SHOWN = 2000
"""Characters of a text that a page shows; the rest is in rows.jsonl."""


def render(template: str, values: Mapping[str, Any], **filters: Callable[..., Any]) -> str:
    """The page that this template makes of the values; the filters are the template's own, beside those of every page."""
    script = _read("page.js")
    return _template(template, tuple(filters.items())).render(
        **values,
        style=stylesheet(FOLDER / "page.css"),
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        shown_characters=SHOWN,
    )


@cache
def _template(name: str, filters: tuple[tuple[str, Callable[..., Any]], ...]) -> jinja2.Template:
    found = environment(FOLDER)
    found.filters |= {"label": label, "unbroken": unbroken, "words": words, "cut": cut, **dict(filters)}
    found.tests["arm"] = lambda value: isinstance(value, Mapping)
    return found.get_template(name)


def environment(folder: Path) -> jinja2.Environment:
    """Templates of a folder: what they show is escaped, and a name that they are not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def stylesheet(path: Path) -> Markup:
    """A style sheet after the colours and fonts that all pages share."""
    return Markup(_read("tokens.css") + path.read_text(encoding="utf-8"))  # noqa: S704


# --- texts ----------------------------------------------------------------------------------------------------------


def label(text: str, length: int = 48) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def words(name: str) -> str:
    """`likelihood_ratio` as a reader would say it."""
    return name.replace("_", " ")


def cut(text: str | None, most: int = SHOWN) -> str:
    """A text that a page shows, with a word about what it leaves out."""
    text = text or ""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters in rows.jsonl)"


def unbroken(text: str) -> Markup:
    """Escaped text whose numbers stay on one line with their intervals."""
    parts = re.split(r"([+\u2212\d.]+ \[[+\u2212\d., ]+\])", text)
    return Markup("").join(
        Markup('<span class="number">{}</span>').format(part) if index % 2 else part for index, part in enumerate(parts)
    )


def recipe(data: Mapping[str, Any]) -> str:
    """A recipe as JSON that charforge reads again (as YAML): exact, yet with nothing that hides."""
    data = {key: data[key] for key in sorted(data)}
    text = json.dumps(data, indent=2, ensure_ascii=False)
    if visible(text) != text:
        text = json.dumps(data, indent=2)
    # YAML takes 5e-05 for a word; with a decimal point it is a number to both.
    return re.sub(r'^(\s*(?:"[^"\n]*": )?-?\d+)(e[+-]?\d+,?)$', r"\1.0\2", text, flags=re.MULTILINE)
