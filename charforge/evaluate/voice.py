"""Voice: does a reply pass the markers of the voice? A measure without a judge, the same for every arm and condition."""

from __future__ import annotations

from typing import Any

from charforge.constitution import Constitution
from charforge.markers import Marker
from charforge.store import Row

# Voice traits at least this strong are heard in every reply of the character.
STRONG = 0.9
_STARTS = ("begins with", "never begins with", "matches /^", "never matches /^")


def markers(constitution: Constitution, context: str | None, *, opening: bool = True) -> list[Marker]:
    """The markers that a reply must pass: of strong voice traits, in their scope. Without `opening`, only those that do
    not look at how a reply begins: the beginning was not the character's."""
    found = {
        marker.text: marker
        for trait in constitution.traits
        if trait.is_voice and trait.intensity >= STRONG and trait.where.holds(context)
        for marker in trait.markers
    }
    if opening:
        return list(found.values())
    return [marker for text, marker in found.items() if not text.lower().startswith(_STARTS)]


def listen(constitution: Constitution, text: str, context: str | None, *, opening: bool = True) -> Row:
    """What was heard: each marker, `held` (1 if all pass, else 0) and `share` (of the markers that pass).

    Both are None where the constitution has no marker to hear by, or the reply is empty.
    """
    checks = markers(constitution, context, opening=opening)
    if not checks or not text.strip():
        return {"markers": {}, "held": None, "share": None}
    passed = {marker.text: marker.shows(text) for marker in checks}
    return {"markers": passed, "held": float(all(passed.values())), "share": sum(passed.values()) / len(passed)}


def heard(constitution: Constitution) -> Any:
    """What of a constitution decides what is heard, for the keys of stages that listen."""
    voices = {t.id: [t.intensity, str(t.where), [m.text for m in t.markers]] for t in constitution.traits if t.is_voice}
    return {"voice": voices, "strong": STRONG}
