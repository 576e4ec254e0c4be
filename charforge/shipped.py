"""Where the shipped constitutions, recipes and suites are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from charforge.errors import UserError, did_you_mean

_PACKAGE = Path(__file__).parent


def folder(kind: str) -> Path:
    """The folder of the shipped ``constitutions``, ``recipes`` or ``eval``."""
    inside = _PACKAGE / "shipped" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def find(kind: str, name: str, suffix: str) -> Path:
    """The shipped file of that name.

    Raises:
        UserError: if there is none, naming those that there are.
    """
    path = folder(kind) / f"{name}{suffix}"
    if not path.is_file():
        known = [p.stem for p in folder(kind).glob(f"*{suffix}")]
        raise UserError(f"nothing called {name!r} is shipped in {kind}{did_you_mean(name, known)}")
    return path
