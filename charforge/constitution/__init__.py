"""The constitution: a Markdown document that defines one character.

`model` holds what a constitution is, `parsing` reads one from Markdown, and the other modules work on what was read:
`formatting` (canonical form), `checking` (warnings), `void` (what is left unsaid), `difference` (what changed between
two), `drawing` (a graph), `drafting` (a new one), `corpus` (one from everything that somebody wrote).
"""

from charforge.constitution.model import (
    SEMVER,
    Constitution,
    Example,
    FrontMatter,
    Message,
    Role,
    Scope,
    Temptation,
    Trait,
    Voice,
    digest,
    slugify,
)
from charforge.constitution.parsing import load, parse

__all__ = [
    "SEMVER",
    "Constitution",
    "Example",
    "FrontMatter",
    "Message",
    "Role",
    "Scope",
    "Temptation",
    "Trait",
    "Voice",
    "digest",
    "load",
    "parse",
    "slugify",
]
