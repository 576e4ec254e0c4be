"""Text that models wrote, made safe to show on a page and in a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Where a zero-width joiner belongs: between two parts of one emoji, such as a family or a profession.
_EMOJI = "\u2190-\u21ff\u2300-\u27bf\u2b00-\u2bff\U0001f000-\U0001fbff"
_JOINS = f"(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}])"
_HIDDEN = (
    "\x00-\x09\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls but the newline: escape sequences begin here
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of the writing direction
    "\u00ad\u180e\u200b-\u200d\u2060-\u2065\ufeff"  # zero width
    "\u2028\u2029\u206a-\u206f\ufff9-\ufffb"  # separators and obsolete formatting
    "\U000e0000-\U000e007f"  # tags, which spell hidden text
    "\ud800-\udfff"  # lone surrogates, which no file can hold
)
_UNSAFE = re.compile(f"(?!{_JOINS})[{_HIDDEN}]")


def visible(text: str) -> str:
    """Show what hides in a text: control, bidirectional and zero-width characters become ⟦U+XXXX⟧.

    A newline stays and a tab becomes a space. This is no HTML escaping; a template does that as well.
    """
    return _UNSAFE.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", text.replace("\t", " "))


def visible_within(value: Any) -> Any:
    """Plain data with `visible` done to every text in it, the keys of mappings too."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible_within(key): visible_within(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [visible_within(inner) for inner in value]
    return value
