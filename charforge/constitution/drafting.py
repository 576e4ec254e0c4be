"""A new constitution from a template: a small character that already works, for its author to replace piece by piece."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

from charforge.constitution.model import slugify
from charforge.constitution.parsing import load
from charforge.errors import UserError


def new(name: str, template: Path, folder: Path) -> str:
    """The text of a constitution called `name`, after a template whose own name is replaced throughout.

    What the template includes, its voices and its corpus are named as they are found from `folder`.

    Raises:
        UserError: if the name can not be a speaker's name, or the template is not a constitution.
    """
    if not re.fullmatch(r"[^\W\d_][^*:\n\[\]{}#>]{0,59}", name):
        raise UserError(
            f"{name!r} can not be a character's name",
            hint="begin with a letter, at most 60 characters, none of * : [ ] { } # >",
        )
    if name.lower() in ("user", "not this", "why", "sides with", "thought"):
        raise UserError(f"{name!r} has a meaning of its own in dialogues", hint="choose another name")
    known = load(template)
    text = template.read_text(encoding="utf-8")
    text = re.sub(rf"\b{re.escape(known.name)}\b", lambda _: name, text)
    # In capitals where the template shouts it, such as in a comment.
    text = re.sub(rf"\b{re.escape(known.name.upper())}\b", lambda _: name.upper(), text)
    if not isinstance(yaml.safe_load(name), str):  # such as Yes, which YAML takes for true
        text = text.replace(f"\nname: {name}\n", f'\nname: "{name}"\n', 1)
    text = re.sub(r"(?m)\A(---\n(?:.*\n)*?version: ).*$", r"\g<1>0.1.0", text, count=1)
    front, separator, body = text.removeprefix("---\n").partition("\n---\n")
    for relative in (*known.front.include, *(v.voice for v in known.front.council), known.front.corpus):
        if relative:
            moved = os.path.relpath((template.parent / relative).resolve(), folder.resolve())
            front = re.sub(rf"(?<![\w/.-]){re.escape(relative)}(?![\w/.-])", moved.replace("\\", r"\\"), front)
    return f"---\n{front}{separator}{body}"


def filename(name: str) -> str:
    return f"{slugify(name)}.md"
