"""Who is compared: trained characters, bare models, and models under a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from charforge import characters, registry
from charforge.characters import Character
from charforge.constitution import digest
from charforge.data import contexts
from charforge.errors import UserError
from charforge.models import resolve
from charforge.recipe import ModelReference
from charforge.stage import Made, Weights
from charforge.store import Row, Store

Kind = Literal["character", "model", "prompt"]


@dataclass(frozen=True)
class Contestant:
    """Who is compared: a trained character, a bare model, or a character's base model under its constitution in brief."""

    kind: Kind
    label: str
    """What it is called in tables: as short as is clear among the others."""
    id: str
    """What it is called on the command line, in full."""
    model: ModelReference
    entry: tuple[str, str, str] | None = None
    """The reference, build and folder of the character that it is, or whose constitution it is told."""
    key: str | None = None
    """The key of the character that it is."""

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Contestant:
        """The contestant that `as_dict` wrote."""
        entry = tuple(data["entry"]) if data["entry"] else None
        return cls(**{**data, "model": ModelReference.model_validate(data["model"]), "entry": entry})

    def as_dict(self) -> Row:
        return {
            "kind": self.kind,
            "label": self.label,
            "id": self.id,
            "model": self.model.model_dump(mode="json"),
            "entry": list(self.entry) if self.entry else None,
            "key": self.key,
        }

    @cached_property
    def character(self) -> Character | None:
        """The character with its constitution and recipe; None for a bare model."""
        if self.entry is None:
            return None
        return _recall(*self.entry)

    @property
    def weights(self) -> Weights:
        return Weights(resolve(self.model), Made(characters.NAME, self.key) if self.key else None)

    @property
    def system(self) -> str | None:
        """What it is told before each prompt."""
        return contexts.sheet(self.character.constitution) if self.kind == "prompt" and self.character else None

    @cached_property
    def digest(self) -> str:
        """What it is, whoever it is compared with: its weights, and what they are told."""
        return digest([self.weights.label, self.system])[:12]


@lru_cache(maxsize=64)
def _recall(reference: str, build: str, folder: str) -> Character:
    # What makes a character never changes once it is made, and to read a constitution takes long.
    return characters.recall(registry.Entry(reference, build, Path(folder), None))


def contestants(store: Store, texts: Sequence[str], by: str | None = None) -> tuple[list[Contestant], Character]:
    """Who is meant, and the character by whose constitution, recipe and judges all are measured.

    A text is a character as `registry.find` knows it, ``model:NAME`` or ``prompt:CHARACTER``. Measured is by the last that is
    a character unless `by` names another.

    Raises:
        UserError: fewer than two, two that are the same, an unknown character or model, none to measure by.
    """
    if len(texts) < 2:
        raise UserError("a comparison needs two or more", hint="for example: charforge compare wren@1.0.0 wren@1.1.0")
    measuring = characters.recall(registry.find(store, by)) if by is not None else None
    found = named(store, texts, measuring)
    if measuring is None:
        trained = [each.character for each in found if each.kind == "character" and each.character]
        if not trained:
            raise UserError(
                "none of these is a trained character, so there is no constitution to measure by",
                hint="name the character whose constitution and judges are used: --by CHARACTER",
            )
        measuring = trained[-1]
    return found, measuring


def named(store: Store, texts: Sequence[str], also: Character | None = None) -> list[Contestant]:
    """Who is meant by texts such as those of `contestants`.

    A bare model that is the base model of one of them, or of the character `also`, comes with the same template and revision.

    Raises:
        UserError: two that are the same, an unknown character or model.
    """
    entries = {
        text: registry.find(store, text.removeprefix("prompt:")) for text in texts if not text.startswith("model:")
    }
    places = {text: (entry.reference, entry.build, str(entry.folder)) for text, entry in entries.items()}
    known = {text: _recall(*place) for text, place in places.items()}
    # A trained character's template goes before that of one whose constitution is only told.
    ordered = [*([also] if also else []), *(known[t] for t in reversed(texts) if t in known and t[:7] != "prompt:")]
    references = [found.recipe.model for found in (*ordered, *known.values())]
    found = []
    for text in texts:
        if text.startswith("model:"):
            name = text.removeprefix("model:")
            if not name:
                raise UserError(f"{text!r} names no model", hint="model:builtin:NAME, a hub id or a folder")
            reference = next((r for r in references if r.name == name), ModelReference(name=name))
            label = "model:" + (Path(name).name if Path(name).is_dir() else name)
            found.append(Contestant("model", label, text, reference))
            continue
        entry = entries[text]
        model, place = known[text].recipe.model, places[text]
        if text.startswith("prompt:"):
            label, full = f"prompt:{entry.reference}", f"prompt:{entry.id}"
            found.append(Contestant("prompt", label, full, model, place))
        else:
            found.append(Contestant("character", entry.reference, entry.id, model, place, entry.key))
    for one, other in combinations(range(len(found)), 2):
        if found[one].digest == found[other].digest:
            raise UserError(
                f"{texts[one]!r} and {texts[other]!r} are the same", hint="name two that differ in weights or prompt"
            )
    labels = [contestant.label for contestant in found]
    return [c if labels.count(c.label) == 1 else replace(c, label=c.id) for c in found]


def other_runs(store: Store, found: Sequence[Contestant], most: int) -> list[list[Contestant]]:
    """For each trained character its other training runs, at most so many: those that are compared themselves last, since
    what is tested should not be its own measure of chance."""
    compared = {c.digest: c for c in found}
    runs: list[list[Contestant]] = []
    for contestant in found:
        if contestant.kind != "character" or contestant.entry is None:
            continue
        reference, build, folder = contestant.entry
        entries = registry.other_runs(store, registry.Entry(reference, build, Path(folder), None))
        others = [
            Contestant("character", e.id, e.id, contestant.model, (e.reference, e.build, str(e.folder)), e.key)
            for e in entries
        ]
        own = sorted((compared.get(o.digest, o) for o in others), key=lambda other: other.digest in compared)
        group = [contestant, *own[:most]]
        if len(group) > 1 and not any({c.digest for c in group} == {c.digest for c in known} for known in runs):
            runs.append(group)
    return runs
