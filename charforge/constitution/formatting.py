"""The canonical form of a constitution's text: one layout, nothing moved, nothing lost.

The form is made block by block from the text itself, comments included, and is checked: if it would not be read as
the same constitution, the text stays as it was.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from markdown_it.token import Token

from charforge.constitution.model import Constitution, FrontMatter
from charforge.constitution.parsing import (
    DIAL,
    NOTES,
    PARTS,
    SPEAKER,
    blocks,
    bullets,
    dial_lines,
    dial_of,
    parse,
    quoted,
)
from charforge.errors import CharforgeError


def canonical(text: str, path: Path) -> str:
    """The canonical form of a constitution that parses.

    Args:
        text: the constitution.
        path: where it is, for what it includes and for errors.

    Raises:
        UserError: if the text is not a constitution; nothing is formatted then.
    """
    before = parse(text, path)
    result = _layout(text, before)
    try:
        same = parse(result, path) == before and _layout(result, before) == result
    except CharforgeError:
        same = False
    if same:
        return result
    return "\n".join(line.rstrip() for line in _lines(text)).strip("\n") + "\n"


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff").split("\n")


def _layout(text: str, constitution: Constitution) -> str:
    lines = _lines(text)
    parts: list[str] = []
    part: str | None = None
    in_trait = list_open = False
    end = 0
    for token, following in blocks(lines):
        start, stop = token.map or [end, end]
        between = [line.rstrip() for line in lines[end:start]]
        if any(between):  # lines that make no block, such as link definitions
            parts.append("\n".join(between).strip("\n"))
        end = stop
        if token.type == "heading_open":
            level = int(token.tag[1])
            title = " ".join(following.split())
            known = {name.lower(): name for name in PARTS}
            if level == 4:
                part = known.get(title.lower())
                title = part or title
            else:
                part, in_trait = None, level == 3
            parts.append(f"{'#' * level} {title}")
        elif token.type == "front_matter":
            parts.append(_front(token.content))
        else:
            block = _block(lines, token, part, constitution.name, in_trait)
            listed = part is not None and token.type == "bullet_list_open"
            if listed and list_open:
                parts[-1] += "\n" + block  # two lists in a row are one
            else:
                parts.append(block)
            list_open = listed
            continue
        list_open = False
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _block(lines: list[str], token: Token, part: str | None, name: str, in_trait: bool) -> str:
    start, stop = token.map or [0, 0]
    source = "\n".join(line.rstrip() for line in lines[start:stop]).strip("\n")
    if token.type == "html_block":
        return source
    if part in ("Examples", "Temptations") and token.type == "blockquote_open":
        return _dialogue(lines, token, name)
    if part is not None and token.type == "bullet_list_open":
        return "\n".join(f"- {text}" for text, _ in bullets(lines, token))
    if part is None and in_trait and token.type == "paragraph_open" and (dials := dial_lines(source)):
        prose = "\n".join(source.split("\n")[: dials[0][0]])
        found = [dial_of(match) for _, text in dials if (match := DIAL.match(text))]
        told = [f"*{name}: {value}*" for name, value in found]
        return "\n\n".join([prose, *told] if prose else told)
    return source


def _dialogue(lines: list[str], token: Token, name: str) -> str:
    """Speakers with their names as they are known, paragraphs apart by one empty line."""
    known = {word.lower(): word for word in (*NOTES, "User", name)}
    out: list[str] = []
    for _, text in quoted(lines, token):
        if match := SPEAKER.match(text):
            while out and not out[-1]:
                out.pop()
            if out:
                out.append("")
            speaker = match["name"].strip()
            text = f"**{known.get(speaker.lower(), speaker)}:** {match['text'].strip()}".rstrip()
        elif not text and (not out or not out[-1]):
            continue
        out.append(text)
    while out and not out[-1]:
        out.pop()
    return "\n".join(f"> {line}".rstrip() for line in out)


def _front(content: str) -> str:
    if re.search(r"(?:^|\s)#", content):  # a comment in YAML is not in the data: leave it be
        body = "\n".join(line.rstrip() for line in content.strip().split("\n"))
        return f"---\n{body}\n---"
    data: dict[str, Any] = yaml.safe_load(content) or {}
    order = [key for key in dict.fromkeys([*FrontMatter.model_fields, *data]) if key in data]
    lines = []
    for key in order:
        value = data[key]
        nested = isinstance(value, list) and any(isinstance(item, dict) for item in value)
        text = yaml.dump(value, sort_keys=False, allow_unicode=True, width=10**6, default_flow_style=not nested)
        text = text.removesuffix("\n...\n").rstrip()
        lines.append(f"{key}:\n" + "\n".join(f"  {ln}" for ln in text.split("\n")) if nested else f"{key}: {text}")
    return "---\n" + "\n".join(lines) + "\n---"
