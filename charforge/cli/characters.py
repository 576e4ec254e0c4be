"""The commands about trained characters: which there are, where they came from, why two differ, and what can be removed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charforge.errors import UserError, raise_problems

if TYPE_CHECKING:
    from charforge.registry import Entry
    from charforge.store import Store

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="The folder of artifacts. Default: CHARFORGE_STORE, or .charforge.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
CharacterArgument = Annotated[
    str, typer.Argument(help="name, name@version, name@version/build or name:tag.", metavar="CHARACTER")
]


def _store(path: Path | None) -> Store:
    from charforge.store import Store, default_root

    root = path or default_root()
    if path is not None and not path.is_dir():
        raise UserError("no such store", place=str(path))
    return Store(root)


def _find(text: str, path: Path | None) -> tuple[Store, Entry]:
    from charforge import registry

    store = _store(path)
    return store, registry.find(store, text)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    console.print(table)


def _cell(text: object) -> str:
    """A text for a table. What an imported character says of itself, others wrote."""
    from rich.markup import escape

    from charforge.report.text import visible

    return escape(visible(str(text)))


def _say(text: str) -> None:
    from charforge.report.text import visible

    typer.echo(visible(text))


def list_(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the trained characters, the oldest first."""
    from charforge import registry
    from charforge.report.text import visible

    place = _store(store)
    (found, damaged), tagged = registry.registered(place), registry.tags(place)
    for entry in damaged:
        typer.echo(f"{visible(entry.id)} can not be read: charforge show {visible(entry.id)}", err=True)
    if as_json:
        typer.echo(json.dumps({"characters": [entry.as_dict() for entry in found], "tags": tagged}, indent=1))
        return
    if not found:
        typer.echo(f"no trained character in {place.root}; train one with: charforge train RECIPE")
        return
    table = _table("character", "build", "made (UTC)", "base model", "tags")
    for entry in found:
        labels = ", ".join(text for text, target in tagged.items() if target == entry.id)
        model = entry.manifest["identity"]["recipe"]["model"].get("name", "")
        made = entry.made.replace("T", " ").removesuffix("Z")
        table.add_row(*map(_cell, (entry.reference, entry.build, made, model, labels)))
    _print(table)


def show(character: CharacterArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show what a character is: everything that its name stands for."""
    from charforge import registry

    place, entry = _find(character, store)
    evaluated = registry.evaluations(place, entry)
    data = {
        **entry.as_dict(),
        "tags": [text for text, target in registry.tags(place).items() if target == entry.id],
        "evaluations": evaluated,
        "needed_by": registry.needed_by(place, entry),
    }
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    recipe = data["recipe"]
    table = _table("", "")
    versions = data["versions"].get("packages", {})
    rows = {
        "character": entry.id,
        "key": data["key"],
        "made": data["made"],
        "parent": data["parent"] or "none",
        "tags": ", ".join(data["tags"]) or "none",
        "constitution": f"{recipe['constitution']}, sha256 {data['constitution']}",
        "base model": ", ".join(f"{k} {v}" for k, v in _flat(data["model"])),
        "training": f"{recipe['method']}, seed {recipe['seed']}, engine {recipe['engine']}",
        "weights": f"sha256 {data['weights']}",
        **{f"made from: {role}": key for role, key in sorted(data["data"].items())},
        "libraries": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "evaluated by": ", ".join(e["suite"] for e in evaluated) or "no suite yet: charforge eval " + entry.reference,
        "report": str(entry.folder / "report.html"),
    }
    for name, value in rows.items():
        table.add_row(_cell(name), _cell(value))
    _print(table)


def _flat(data: dict[str, Any]) -> list[tuple[str, Any]]:
    """Nested settings as dotted names."""
    return [
        (f"{key}.{inner}" if inner else key, item)
        for key, value in data.items()
        for inner, item in (_flat(value) if isinstance(value, dict) else [("", value)])
        if item is not None
    ]


def log(
    name: Annotated[str, typer.Argument(help="The name of a character, without version.", metavar="NAME")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the versions of a character as a tree: each below the one that it came after."""
    from charforge import registry

    place = _store(store)
    known = registry.entries(place)
    found = registry.lineage(known, name.partition("@")[0].partition(":")[0])
    if not found:
        registry.find(place, name)
    if as_json:
        versions = [{"depth": depth, **entry.as_dict()} for depth, entry in found]
        typer.echo(json.dumps({"versions": versions}, indent=1))
        return
    tagged = registry.tags(place)
    children = Counter(entry.parent for _, entry in found)
    indents: dict[str, int] = {}
    for depth, entry in found:
        # A line of versions goes straight down; only where it forks is it set in.
        above = indents.get(entry.parent or "", 0) if depth else 0
        indents[entry.id] = above + (1 if depth and children[entry.parent] > 1 else 0)
        labels = "".join(f"  {text}" for text, target in tagged.items() if target == entry.id)
        sign = "" if not depth else "├ " if children[entry.parent] > 1 else "│ "
        _say(f"{'  ' * above}{sign}{entry.id}  {entry.made}{labels}")


def tag(
    character: CharacterArgument,
    label: Annotated[str, typer.Argument(help="A label, such as best. With --delete: nothing.")] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag that is given as CHARACTER.")] = False,
    store: StoreOption = None,
) -> None:
    """Give a build a further name, NAME:label, that can move to another build later."""
    from charforge import registry

    if delete:
        registry.untag(_store(store), character)
        _say(f"{character} is gone; what it named stays")
        return
    if not label:
        raise UserError("no label", hint=f"for example: charforge tag {character} best")
    place, entry = _find(character, store)
    before = registry.tags(place).get(f"{entry.name}:{label}")
    text = registry.tag(place, entry, label)
    moved = f" (it was {before})" if before not in (None, entry.id) else ""
    _say(f"{text} is {entry.id}{moved}")


def rm(
    character: CharacterArgument,
    force: Annotated[bool, typer.Option("--force", help="Also if something else refers to it.")] = False,
    store: StoreOption = None,
) -> None:
    """Forget a trained character. What it was made from stays until charforge gc removes it."""
    from charforge import registry

    place = _store(store)
    registry.find(place, character, damaged=True)  # before a store is made where there is none
    place.prepare()
    with place.lock(wait=5):
        entry = registry.find(place, character, damaged=True)
        reasons = registry.needed_by(place, entry)
        if reasons and not force:
            hint = f"if that is what you want: charforge rm {entry.id} --force"
            raise UserError(f"{entry.id} stays: {'; '.join(reasons)}", hint=hint)
        registry.remove(place, entry)
    _say(f"{entry.id} is gone; to free what only it was made from: charforge gc")


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it. Without this nothing is removed.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what no trained character needs, and with --yes remove it."""
    import contextlib
    import shutil

    from charforge import registry
    from charforge.store import MANIFEST

    place = _store(store)
    found = []
    if place.root.is_dir():
        place.prepare()
        with place.lock(wait=5):
            found = registry.garbage(place)
            for item in found if yes else ():
                with contextlib.suppress(OSError):
                    # The manifest goes first: what is interrupted here is unfinished, never wrong.
                    (item.path / MANIFEST).unlink(missing_ok=True)
                    shutil.rmtree(item.path)
    raise_problems([UserError("it could not be removed", place=str(i.path)) for i in found if yes and i.path.exists()])
    total = sum(item.bytes for item in found)
    if as_json:
        items = [{"path": str(item.path), "what": item.what, "bytes": item.bytes} for item in found]
        typer.echo(json.dumps({"removed": yes, "bytes": total, "items": items}, indent=1))
        return
    for item in found:
        typer.echo(f"{item.bytes / 1e6:10.1f} MB  {item.what}: {item.path}")
    if not found:
        typer.echo("nothing to remove: every artifact is needed by a trained character")
    elif yes:
        typer.echo(f"{total / 1e6:10.1f} MB  removed")
    else:
        typer.echo(f"{total / 1e6:10.1f} MB  in all; nothing was removed. To remove it: charforge gc --yes")


def verify(
    character: CharacterArgument,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Derive the digests of a character again, of what it was made from and of what was measured of it.

    Exit code 1 if anything differs.
    """
    from charforge import characters

    place, entry = _find(character, store)
    wrong, absent = characters.verify(place, entry), characters.elsewhere(place, entry)
    if as_json:
        typer.echo(json.dumps({"character": entry.id, "wrong": wrong, "elsewhere": absent}, indent=1))
    else:
        for problem in wrong:
            _say(f"{entry.id}: {problem}")
        if not wrong:
            _say(f"{entry.id}: every digest agrees" + (" of what is here" if absent else ""))
        if absent:
            roles = ", ".join(absent)
            _say(f"{entry.id}: it was imported; what it was made from is not here and was not checked: {roles}")
    if wrong:
        raise typer.Exit(1)


def why(
    first: CharacterArgument,
    second: CharacterArgument,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in what two characters differ: their constitutions down to the trait, recipe, model, data and libraries."""
    from charforge import characters

    place = _store(store)
    from charforge import registry

    a, b = registry.find(place, first), registry.find(place, second)
    found = characters.differences(a, b)
    if as_json:
        typer.echo(json.dumps({"first": a.id, "second": b.id, **found}, indent=1, ensure_ascii=False))
        return
    _say(f"{a.id} → {b.id}")
    if not any(found.values()):
        _say("nothing differs")
    for change in found["constitution"]:
        _say(f"  constitution: {change}")
    for group in ("recipe", "model", "made from", "libraries"):
        for name, (before, after) in found[group].items():
            _say(f"  {group}: {name}: {before} → {after}")
    if found["weights"]:
        _say(f"  weights: {found['weights']}")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_,
    "show": show,
    "log": log,
    "tag": tag,
    "rm": rm,
    "gc": gc,
    "verify": verify,
    "why": why,
}
