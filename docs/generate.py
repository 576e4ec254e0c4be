"""Writes docs/recipe.md from the recipe's schema, docs/cli.md from the commands' own help, and docs/rules.md from the
explanations that ``charforge constitution check --explain`` shows.

python docs/generate.py            write them
python docs/generate.py --check    write nothing; exit 1 if one is stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from charforge import constitution
from charforge import recipe as recipes
from charforge.cli import app

_FOLDER = Path(__file__).parent
_WIDTH = 100
_NOTE = "<!-- Written by docs/generate.py. Change the code it reads, then run `make docs`. -->"

_RECIPE_TOP = """# Recipe reference

A recipe is one YAML file. It names a constitution, a model, and the settings of each stage. Only `constitution` and
`model` are required; everything else has the default shown here.

- An unknown key, a key set twice, or a value out of range is an error, with file and line. All of them are reported at
  once.
- `--set sft.epochs=2` changes one setting for one run. The value is read as YAML.
- `1e-5` is a number.
- A path in `constitution` or `scenarios.bank` is relative to the recipe. A path of a model, of a chat template or of
  the store is relative to the folder you run in.
- `charforge recipe check RECIPE` checks a recipe and runs nothing. `charforge recipe schema` prints the JSON schema for
  an editor.

The page has three parts: [what is made](#what-is-made), [how it is run](#how-it-is-run), and
[shapes that several settings share](#shared-shapes).
"""

_MADE = """## What is made

These settings say what the result is. Each stage's key is made of those that the stage depends on, and the key of the
finished character of all of them.
"""

_RUN = """## How it is run

`runtime` says where and how to run. A run with other settings here is the same run: its artifacts are found and reused.
There is one exception. `launcher: deepspeed-zero3` trains an adapter in the model's own precision and not in float32,
so training under it has keys of its own.

A different device, batch or number of processes can still change the last digits of a number. See
[what a real engine can not promise](how-it-works.md#same-recipe-same-result).
"""

_SHARED = """## Shared shapes
"""

_CLI_TOP = f"""# Command line

What each command says of itself, at {_WIDTH} columns.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a stage failed; what finished before it is kept |
| 2 | bad input or usage |
| 130 | interrupted; the same command continues |

Results go to stdout, progress and errors to stderr. `--json` prints one JSON object on stdout.
"""

# The shapes that several settings share, under the name that the page gives them.
_SHAPES = {"ModelReference": "model reference", "Endpoint": "endpoint", "Sampling": "sampling", "Margins": "margins"}

Schema = dict[str, Any]


def recipe_page() -> str:
    """The recipe reference: every section with its keys, types, defaults and help."""
    schema = recipes.schema()
    shapes: dict[str, Schema] = schema["$defs"]
    sections = {name: _shape_of(field) for name, field in schema["properties"].items()}
    nested = {name: shape for name, shape in sections.items() if shape and shape not in _SHAPES}
    top = {name: field for name, field in schema["properties"].items() if name not in nested}
    parts = [_RECIPE_TOP, _MADE, "### Top level\n", _table({**schema, "properties": top}, {}, shapes)]
    for name, shape in nested.items():
        if name != "runtime":
            parts += _section(name, shape, schema["properties"][name]["default"], shapes)
    parts.append(_RUN)
    runtime = schema["properties"]["runtime"]["default"]
    parts += _section("runtime", nested["runtime"], runtime, shapes, intro=False)
    parts += _section("runtime.vllm", "Vllm", runtime["vllm"], shapes)
    parts.append(_SHARED)
    for shape, title in _SHAPES.items():
        parts += _section(title, shape, {}, shapes)
    return _page(parts)


def _section(title: str, shape: str, defaults: Schema, shapes: dict[str, Schema], *, intro: bool = True) -> list[str]:
    parts = [f"### {title}\n"]
    if intro:
        parts.append(_prose(shapes[shape].get("description", "")) + "\n")
    return [*parts, _table(shapes[shape], defaults, shapes)]


def _table(schema: Schema, defaults: Schema, shapes: dict[str, Schema]) -> str:
    lines = ["| key | type | default | what it does |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        if name in schema.get("required", []):
            default = "required"
        else:
            value = defaults[name] if name in defaults else field.get("default")
            default = f"`{_value(value, shapes.get(_shape_of(field) or ''))}`"
        cells = [f"`{name}`", _type(field), default, _prose(field.get("description", "")) or "see below"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _shape_of(field: Schema) -> str | None:
    """The name of the shape that a field holds, if it holds one and nothing else."""
    return str(field["$ref"]).rsplit("/", 1)[1] if "$ref" in field else None


def _type(field: Schema) -> str:
    """A field's type with its bounds, in words."""
    if "anyOf" in field:
        return " or ".join(_type(branch) for branch in field["anyOf"])
    if shape := _shape_of(field):
        title = _SHAPES.get(shape)
        return f"[{title}](#{title.replace(' ', '-')})" if title else "section, [below](#runtimevllm)"
    if "enum" in field:
        return ", ".join(f"`{option}`" for option in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    kind: str = {"object": "mapping", "string": "text"}.get(field["type"]) or field["type"]
    return ", ".join([kind, *_bounds(field)])


def _bounds(field: Schema) -> Iterator[str]:
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if key in field:
            yield f"{sign} {field[key]:g}"
    if field.get("minLength"):
        yield "not empty"
    if "pattern" in field:
        yield f"matches `{field['pattern']}`"


def _value(value: Any, shape: Schema | None = None) -> str:
    """A default as it stands in YAML."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        names = [name for name in (shape or {}).get("properties", value) if name in value]
        return "{" + ", ".join(f"{name}: {_value(value[name])}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value)


def _prose(text: str) -> str:
    """Help text on one line, with its code in single backticks."""
    return " ".join(text.replace("``", "`").split())


def cli_page() -> str:
    """The help of every command, as plain text."""
    parts = [_CLI_TOP]
    for path, text in _helps(typer.main.get_command(app), ("charforge",), None):
        parts.append(f"## {' '.join(path)}\n\n```text\n{text.rstrip()}\n```\n")
    return _page(parts)


def _helps(command: Any, path: tuple[str, ...], parent: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    # Without rich the help is plain text whose width depends on nothing but what is said here.
    command.rich_markup_mode = None
    widths = {"terminal_width": _WIDTH, "max_content_width": _WIDTH}
    context = command.make_context(path[-1], [], parent=parent, resilient_parsing=True, **widths)
    yield path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    for name, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, (*path, name), context)


def rules_page() -> str:
    """The explanation of every warning."""
    folder = Path(constitution.__file__).parent
    return f"{_NOTE}\n\n{(folder / 'rules.md').read_text(encoding='utf-8')}"


def _page(parts: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join([_NOTE + "\n", *parts]))


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` say which of them are stale."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    stale = 0
    for name, text in (("recipe.md", recipe_page()), ("cli.md", cli_page()), ("rules.md", rules_page())):
        path = _FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments:
            stale += 1
            print(f"docs/{name} is stale; write it again with: make docs", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    return int(stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
