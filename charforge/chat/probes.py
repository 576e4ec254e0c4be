"""Probes in a talk: what gives a trait the chance to show, and whether its markers then do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from charforge import compare
from charforge.compare import Contestant
from charforge.constitution import Trait
from charforge.data import scenarios
from charforge.errors import UserError, did_you_mean
from charforge.store import Store
from charforge.talks import Talk

TRAINED_ON = "no probe of this trait is held out: it was trained on this one"


class Probes:
    """The probes of those who take part in a talk. Traits are defined by the last of them that has one of that id."""

    def __init__(self, store: Store, contestants: Sequence[Contestant]) -> None:
        self._store = store
        self._contestants = contestants
        self._known: dict[str, Trait] = {}
        for each in contestants:
            if each.character:
                self._known.update({trait.id: trait for trait in each.character.constitution.traits})

    @property
    def traits(self) -> Mapping[str, str]:
        """Their titles, by id."""
        return {id_: trait.title for id_, trait in self._known.items()}

    def trait(self, id_: str) -> Trait:
        """Raises:
        UserError: nobody here has such a trait.
        """
        if id_ not in self._known:
            if not self._known:
                raise UserError("bare models have no traits", hint="take a character into the talk")
            raise UserError(f"no trait {id_!r}{did_you_mean(id_, self._known)}")
        return self._known[id_]

    @cached_property
    def _heldout(self) -> list[tuple[str, str]]:
        """(trait, prompt) of what is held out from all who take part, the trait's own probes first."""
        sources = [(c.character.constitution, c.character.recipe) for c in reversed(self._contestants) if c.character]
        learned = compare.learned(self._contestants)
        rows, _ = compare.asked(sources, learned)
        seen = set(compare.seen(self._store, self._contestants, rows))
        kept = [row for row in rows if row["prompt"] not in seen and row["kind"] != "look-alike"]
        kept.sort(key=lambda row: row["kind"] == "general")
        return [(row["trait"], row["prompt"]) for row in kept]

    def next(self, talk: Talk, trait: str) -> tuple[str, str | None]:
        """The trait's next held-out probe that was not asked in this talk yet, and what there is to know about it.

        After the last one the first comes again. Where none is held out, it is one that was trained on.

        Raises:
            UserError: no such trait, or it has no probe.
        """
        found, note = [text for id_, text in self._heldout if id_ == self.trait(trait).id], None
        if not found:
            found, note = list(self.trait(trait).probes), TRAINED_ON
        if not found:
            raise UserError(f"the trait {trait!r} has no probe", hint="write some under its Probes heading")
        asked = [scenarios.normal(turn.text) for turn in talk.turns.values() if turn.trait == trait]
        least = min(asked.count(scenarios.normal(text)) for text in found)
        if least and note is None:
            note = f"all {len(found)} held-out probes were asked in this talk; here they are again"
        return next(text for text in found if asked.count(scenarios.normal(text)) == least), note

    def shows(self, trait: str, text: str) -> dict[str, bool]:
        """Which markers of the trait show in a reply; nothing for an empty one, which shows nothing."""
        return {marker.text: marker.shows(text) for marker in self.trait(trait).markers} if text.strip() else {}
