"""``charforge constitution``: write, check, compare, look at, and draft constitutions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charforge.errors import Place, Problems, UserError, condensed, did_you_mean, raise_problems

if TYPE_CHECKING:
    from charforge.constitution import Constitution
    from charforge.constitution.checking import Finding

app = typer.Typer(help="Write, check and compare constitutions.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
PathArgument = Annotated[Path, typer.Argument(help="A Markdown file, or the name of a shipped one.", metavar="PATH")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A model reference, such as builtin:smollm2-135m-instruct.", metavar="MODEL"),
]
StoreOption = Annotated[Path | None, typer.Option("--store", help="The folder of artifacts.", metavar="PATH")]


def find(path: Path) -> Path:
    """A constitution's path: as given, or a shipped one by its bare name."""
    if path.is_dir():
        raise UserError("this is a folder", place=str(path), hint="name a file in it")
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    from charforge import shipped

    if path.with_suffix(".md").exists():
        return path.with_suffix(".md")
    known = {p.stem.lower(): p.stem for p in shipped.folder("constitutions").glob("*.md")}
    if str(path).lower() not in known:
        close = did_you_mean(str(path).lower(), [p.stem for p in Path().glob("*.md")] + list(known))
        raise UserError(f"no such constitution{close}", place=str(path))
    return shipped.find("constitutions", known[str(path).lower()], ".md")


def _write(path: Path, text: str) -> None:
    from charforge.store import write_atomic

    if not path.parent.is_dir():
        raise UserError("no such folder", place=str(path.parent), hint="make it first")
    try:
        write_atomic(path, text)
    except OSError as error:
        raise UserError(f"can not be written: {error.strerror}", place=str(path)) from error


def _new_file(name: str, output: Path | None) -> Path:
    """Where a new constitution goes: NAME.md here or in a folder, or the file that was named."""
    from charforge.constitution import drafting

    target = output or Path(drafting.filename(name))
    target = target / drafting.filename(name) if target.is_dir() else target
    if target.exists():
        raise UserError("the file exists already", place=str(target), hint="choose another place with --output")
    return target


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What the character is called.")],
    template: Annotated[
        Path, typer.Option("--from", help="A constitution to start from: a file or a shipped name.", metavar="TEMPLATE")
    ] = Path("TEMPLATE"),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it. Default: NAME.md here.", metavar="PATH")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a small constitution that already works, with the questions to answer as comments."""
    from charforge.constitution import drafting, parse

    target = _new_file(name, output)
    text = drafting.new(name, find(template), target.parent)
    parse(text, target)
    _write(target, text)
    if as_json:
        typer.echo(json.dumps({"path": str(target), "name": name, "template": str(find(template))}, indent=1))
        return
    typer.echo(f"wrote {target}\nnext: edit it, then charforge constitution check {target}")


# --- check ----------------------------------------------------------------------------------------------------------


@app.command()
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Constitutions: files, folders, or shipped names.", metavar="PATH...")
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", help="Explain a warning, for example CF009.", metavar="CODE")
    ] = None,
    model: ModelOption = None,
    context: Annotated[int, typer.Option("--context", help="The model's context, in tokens.", min=256)] = 4096,
    void: Annotated[
        bool, typer.Option("--void", help="Show which situations are left unsaid; with --model, sample them.")
    ] = False,
    samples: Annotated[int, typer.Option("--samples", help="Replies to each prompt of --void.", min=2)] = 4,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 2 on warnings too.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what is wrong, what is missing, and with --void what is left unsaid.

    Every message stands at file:line:column. Warnings have a code; a comment silences one where it stands.
    """
    from charforge.constitution import load
    from charforge.constitution.checking import check as find_warnings
    from charforge.constitution.checking import explain as page

    if explain is not None:
        text = page(explain).rstrip()
        typer.echo(
            json.dumps({"code": explain.upper(), "text": text}, indent=1, ensure_ascii=False) if as_json else text
        )
        return
    if not paths:
        raise UserError("no constitution was named", hint="charforge constitution check FILE.md")
    files = [file for path in paths for file in _files(path)]
    problems: list[UserError] = []
    found: list[dict[str, Any]] = []
    warnings: list[Finding] = []
    silenced = 0
    reports: dict[str, Any] = {}
    for path in files:
        try:
            constitution = load(path)
        except Problems as several:
            problems.extend(p for p in several.problems if isinstance(p, UserError))
            continue
        except UserError as problem:
            problems.append(problem)
            continue
        shown, known = find_warnings(constitution, _token_counter(model), context)
        warnings += shown
        silenced += len(known)
        found.append({**_summary(constitution), "warnings": len(shown), "silenced": len(known)})
        if void:
            reports[str(path)] = _void(constitution, model, samples, store)
    if as_json:
        data = {
            "constitutions": found,
            "problems": [_problem(p) for p in problems],
            "warnings": [{"code": w.code, "message": w.message, "trait": w.trait, **_place(w.place)} for w in warnings],
        }
        typer.echo(json.dumps({**data, "void": reports} if void else data, indent=1, ensure_ascii=False))
    else:
        for line in condensed(warnings, lambda warning: f"{warning.code} {warning.place.name}"):
            typer.echo(line)
        for item in found:
            typer.echo(_line(item))
        for name, report in reports.items():
            _print_void(name, report)
        if warnings:
            code = warnings[0].code
            typer.echo(f"what a code means: charforge constitution check --explain {code}", err=True)
        raise_problems(problems)
    if problems or (strict and warnings):
        raise typer.Exit(2)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(p for p in path.glob("*.md") if p.name.lower() != "readme.md")
        if not files:
            raise UserError("no .md file in it", place=str(path))
        return files
    return [find(path)]


def _summary(constitution: Constitution) -> dict[str, Any]:
    return {
        "path": str(constitution.path),
        "reference": constitution.reference,
        "traits": len(constitution.traits),
        "boundaries": len(constitution.boundaries),
        "tensions": len(constitution.tensions),
        "examples": sum(len(t.examples) for t in constitution.traits),
        "probes": sum(len(t.probes) for t in constitution.traits),
        "voices": [voice.constitution.reference for voice in constitution.voices],
    }


def _line(item: dict[str, Any]) -> str:
    voices = f", voices {', '.join(item['voices'])}" if item["voices"] else ""
    count = item["warnings"]
    said = f"{count} warning{'s' * (count != 1)}" if count else "no warnings"
    known = f" ({item['silenced']} silenced)" if item["silenced"] else ""
    return (
        f"{item['path']}: {item['reference']}: {_many(item['traits'], 'trait')} ("
        f"{_many(item['boundaries'], 'boundary')}, {_many(item['tensions'], 'tension')}), "
        f"{_many(item['examples'], 'example')}, {_many(item['probes'], 'probe')}{voices}: {said}{known}"
    )


def _many(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun.removesuffix('y') + 'ies' if noun.endswith('y') else noun + 's'}"


def _place(place: Place | None) -> dict[str, Any]:
    return {"file": place.name, "line": place.line, "column": place.column} if place else {"file": None}


def _problem(problem: UserError) -> dict[str, Any]:
    return {"message": problem.message, "hint": problem.hint, **_place(problem.place)}


def _token_counter(model: str | None) -> Callable[[str], int] | None:
    """How many tokens a text has for a model; None without a model."""
    if model is None:
        return None
    from charforge.models import fetch, load_tokenizer, resolve
    from charforge.recipe import ModelReference

    resolved = resolve(ModelReference(name=model))
    tokenizer = load_tokenizer(resolved, fetch(resolved))
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- the void -------------------------------------------------------------------------------------------------------


def _void(constitution: Constitution, model: str | None, samples: int, store: Path | None) -> dict[str, Any]:
    from charforge.constitution.void import ANSWERS, load_situations, void
    from charforge.data.situations import situations_file, spread

    situations = load_situations(situations_file())
    findings = void(constitution, situations)
    report: dict[str, Any] = {
        "situations": [finding.as_dict() for finding in findings],
        "counts": {answer: sum(f.answer == answer for f in findings) for answer in ANSWERS},
    }
    if model is not None:
        rows = _run_plan("situations", constitution, {"model": model, "evaluation": {"samples": samples}}, store)[0]
        spreads = spread(rows, situations)
        for item in report["situations"]:
            item.update(spreads.get(item["id"], {}))
        by_answer = {
            answer: [item["spread"] for item in report["situations"] if item["answer"] == answer and "spread" in item]
            for answer in ANSWERS
        }
        report["mean_spread"] = {
            answer: round(sum(values) / len(values), 4) if values else None for answer, values in by_answer.items()
        }
        report["model"] = model
    return report


def _run_plan(
    kind: str, constitution: Constitution, settings: dict[str, Any], store_path: Path | None
) -> list[list[dict[str, Any]]]:
    """Run one of the smaller plans on a constitution, and return the rows of its stages."""
    from charforge import pipeline
    from charforge.recipe import Recipe
    from charforge.report import terminal
    from charforge.store import Store, default_root, read_rows

    recipe = Recipe.model_validate(
        {"scenarios": {"bank": "-"}, **settings, "constitution": str(constitution.path.resolve())}
    )
    plan = pipeline.PLANS[kind](constitution, recipe)
    store = Store(store_path or default_root())
    with terminal.display(plan) as display:
        pipeline.run(plan, store, display)
    return [read_rows(store.artifact(stage.name, stage.key).directory / "rows.jsonl") for stage in plan.stages]


def _print_void(name: str, report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from charforge.report.text import visible

    console = Console(highlight=False)
    counts = ", ".join(f"{count} {answer}" for answer, count in report["counts"].items())
    console.print(f"\n{name}: {len(report['situations'])} situations: {counts}", markup=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("situation", overflow="fold", ratio=4)
    table.add_column("answered", no_wrap=True)
    table.add_column("where", overflow="fold", ratio=5)
    sampled = "model" in report
    if sampled:
        table.add_column("spread", justify="right")
    for item in sorted(report["situations"], key=lambda item: item["answer"] != "not at all"):
        where = f"{item['where']} ({item['basis']})" if item["where"] else ""
        cells = [escape(item["title"]), item["answer"], escape(where)]
        if sampled:
            cells.append(f"{item['spread']:.2f}" if "spread" in item else "")
        table.add_row(*cells, style="bold" if item["answer"] == "not at all" else "")
    console.print(table)
    if not sampled:
        console.print("Texts are compared by their words: a map to read, not a proof. --model M samples the open ones.")
        return
    means = ", ".join(f"{answer} {value:.2f}" for answer, value in report["mean_spread"].items() if value is not None)
    console.print(f"mean spread of {report['model']} (0 the same words, 1 none in common): {means}")
    widest = sorted((i for i in report["situations"] if "spread" in i), key=lambda i: -i["spread"])[:3]
    for item in widest:
        console.print(f"\n[bold]{escape(item['title'])}[/bold]: {escape(visible(item['prompt']))}")
        for reply in item["replies"]:
            console.print(f"  - {escape(visible(' '.join(reply.split())[:300]))}")


# --- look at it -----------------------------------------------------------------------------------------------------


@app.command()
def show(
    path: PathArgument,
    trait: Annotated[str | None, typer.Option("--trait", help="Only this trait, by its id or title.")] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is told of it: the judge's sheet, and the teacher's context for each trait, with token counts.

    Without --model the counts are estimated.
    """
    from charforge.constitution import load, slugify
    from charforge.constitution.checking import estimate_tokens
    from charforge.data import contexts

    constitution = load(find(path))
    count = _token_counter(model) or estimate_tokens
    chosen = constitution.traits
    if trait is not None:
        known = [t.id for t in constitution.traits]
        if slugify(trait) not in known:
            raise UserError(f"no trait {trait!r}{did_you_mean(slugify(trait), known)}", place=str(constitution.path))
        chosen = (constitution.trait(slugify(trait)),)
    sheet = contexts.sheet(constitution)
    data: dict[str, Any] = {
        "reference": constitution.reference,
        "digest": constitution.digest,
        "counted_by": model or "estimate",
        "sheet": {"text": sheet, "tokens": count(sheet)},
        "traits": [
            {
                "id": t.id,
                "section": t.section,
                "intensity": t.intensity,
                "scope": str(t.where),
                "told": contexts.system(constitution, t)["content"],
                "tokens": count(contexts.system(constitution, t)["content"]),
                "examples": len(t.examples),
                "example_tokens": sum(count(text) for e in t.examples for _, text in e.turns),
                "probes": len(t.probes),
                "markers": [marker.text for marker in t.markers],
            }
            for t in chosen
        ],
    }
    if as_json:
        typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
        return
    unit = "tokens" if model else "tokens, estimated"
    if trait is None:
        typer.echo(f"--- the judge's sheet ({data['sheet']['tokens']} {unit}) ---\n{sheet}\n")
    for item in data["traits"]:
        head = f"{item['section']}: {item['id']}, intensity {item['intensity']:g}, {item['scope']}"
        typer.echo(f"--- {head} ({item['tokens']} {unit}; {item['examples']} examples, {item['example_tokens']}) ---")
        # Without what the sheet has said already, unless one trait was asked for.
        text = item["told"].removeprefix(constitution.identity).strip() if trait is None else item["told"]
        typer.echo(text)
        typer.echo(f"(checked, and shown to no model: {'; '.join(item['markers']) or 'no markers'})\n")


@app.command()
def graph(
    path: PathArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it. Default: NAME.svg here.", metavar="PATH")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw its traits and tensions as an SVG."""
    from charforge.constitution import load
    from charforge.constitution.drawing import graph as draw

    constitution = load(find(path))
    target = output or Path(f"{constitution.slug}.svg")
    _write(target, draw(constitution))
    if as_json:
        edges = {trait.id: list(trait.between) for trait in constitution.tensions if trait.between}
        typer.echo(
            json.dumps(
                {"path": str(target), "traits": [t.id for t in constitution.traits], "tensions": edges}, indent=1
            )
        )
        return
    typer.echo(f"wrote {target}")


@app.command()
def fmt(
    paths: Annotated[list[Path], typer.Argument(help="Constitutions, Markdown files.", metavar="PATH...")],
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 2 if one would change.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring constitutions into canonical form: the same content in one layout, comments kept."""
    from charforge.constitution.formatting import canonical

    changed: list[Path] = []
    problems: list[UserError] = []
    for path in paths:
        for file in _files(path):
            try:
                before = file.read_bytes().decode("utf-8")
                after = canonical(before, file)
            except FileNotFoundError:
                problems.append(UserError("no such constitution", place=str(file)))
                continue
            except UnicodeDecodeError:
                problems.append(UserError("not UTF-8 text", place=str(file), hint="save it as UTF-8"))
                continue
            except Problems as several:
                problems.extend(p for p in several.problems if isinstance(p, UserError))
                continue
            except UserError as problem:
                problems.append(problem)
                continue
            if before != after:
                changed.append(file)
                if not check_only:
                    _write(file, after)
    if as_json:
        data = {"changed": [str(p) for p in changed], "problems": [_problem(p) for p in problems]}
        typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
        if problems:
            raise typer.Exit(2)
    else:
        for file in changed:
            typer.echo(f"{'would change' if check_only else 'formatted'} {file}")
        if not changed and not problems:
            typer.echo("nothing to change")
        raise_problems(problems)
    if changed and check_only:
        raise typer.Exit(2)


# --- compare --------------------------------------------------------------------------------------------------------


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="The earlier constitution.", metavar="A")],
    after: Annotated[Path, typer.Argument(help="The later one.", metavar="B")],
    recipe: Annotated[
        Path, typer.Option("--recipe", help="The recipe to plan both with: a file or a shipped name.", metavar="RECIPE")
    ] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Say what changed, trait by trait, and which artifacts a run would make again."""
    from charforge import pipeline, shipped
    from charforge import recipe as recipes
    from charforge.constitution import load
    from charforge.constitution.difference import difference

    a, b = load(find(before)), load(find(after))
    source = recipe if recipe.exists() or recipe.suffix else shipped.find("recipes", str(recipe), ".yaml")
    settings = recipes.load(source)
    plans = [pipeline.plan(c, settings.model_copy(update={"constitution": str(c.path)})) for c in (a, b)]
    found = difference(a, b)
    stages = pipeline.changes(plans[0], plans[1])
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "before": a.reference,
                    "after": b.reference,
                    **found.as_dict(),
                    "stages": [stage.as_dict() for stage in stages],
                },
                indent=1,
                ensure_ascii=False,
            )
        )
        return
    _print_diff(a, b, found)
    again = [stage for stage in stages if stage.again]
    kept = [stage.name for stage in stages if not stage.again]
    typer.echo("\nartifacts that a run makes again" if again else "\na run makes nothing again")
    for stage in again:
        typer.echo(f"  {stage.name:22} {stage.why}")
    if kept and again:
        typer.echo(f"  kept: {', '.join(kept)}")


def _print_diff(a: Constitution, b: Constitution, found: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    from charforge.constitution.difference import words

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{a.reference} ({a.path}) -> {b.reference} ({b.path})", markup=False)
    if found.empty:
        console.print("no difference in what they say")

    def change(item: Any) -> None:
        text = Text(f"  {item.what}: ")
        if item.before is None or item.after is None:
            sign, style = ("+", "green") if item.before is None else ("-", "red")
            text.append(f"{sign} {item.after or item.before or ''}".replace("\n", "\n    "), style=style)
        else:
            for kind, part in words(item.before, item.after):
                if kind == "same":
                    shown = part if len(part) < 90 else f"{part[:40]} ... {part[-40:]}"
                    text.append(f"{shown} ")
                else:
                    text.append(f"[-{part}-] " if kind == "out" else f"{{+{part}+}} ",
                                style="red" if kind == "out" else "green")  # fmt: skip
        console.print(text)

    for item in found.whole:
        change(item)
    for trait in found.added:
        console.print(f"+ {trait} (new)", style="green", markup=False)
    for trait in found.removed:
        console.print(f"- {trait} (gone)", style="red", markup=False)
    for old, new_name in found.renamed.items():
        console.print(f"~ {old} is now called {new_name}", markup=False)
    for trait, changes in found.changed.items():
        console.print(f"~ {trait}", style="bold", markup=False)
        for item in changes:
            change(item)


# --- from a corpus --------------------------------------------------------------------------------------------------


@app.command("from-corpus")
def from_corpus(
    path: Annotated[Path, typer.Argument(help="A folder of .md or .txt files, or one of them.", metavar="PATH")],
    name: Annotated[str, typer.Option("--name", help="What the character is called.")],
    others: Annotated[
        Path | None, typer.Option("--others", help="Writing by others, to compare with.", metavar="PATH")
    ] = None,
    model: ModelOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it. Default: NAME.md here.", metavar="PATH")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draft a constitution from what a person wrote, every trait with its evidence.

    Without a model: how the person writes, counted. With one: also what they hold to, and how well the corpus judge tells
    held-out passages of this person from those of others.
    """
    from charforge import shipped
    from charforge.constitution import corpus, parse

    target = _new_file(name, output)
    if others is not None and not others.exists():
        raise UserError("no such file or folder", place=str(others))
    passages = corpus.read(path)
    strangers = corpus.read(others or shipped.folder("eval") / "passages")
    known = [passage for passage in passages if not passage.held_out]
    found = corpus.habits(known, strangers)
    relative = os.path.relpath(path.resolve(), target.parent.resolve())
    text = corpus.draft(name, relative, known, found)
    constitution = parse(text, target)
    report: dict[str, Any] = {
        "path": str(target),
        "passages": len(passages),
        "held_out": len(passages) - len(known),
        "others": len(strangers),
        "statistics": {"own": corpus.measure(known), "others": corpus.measure(strangers)},
        "phrases": corpus.phrases(known),
        "habits": [
            {
                "title": habit.title,
                "feature": habit.feature,
                "unit": habit.unit,
                "own": habit.own,
                "others": habit.others,
                "t": habit.t,
                "quotes": [quote for quote, _ in habit.quotes],
            }
            for habit in found
        ],
    }
    # Written first: what a model adds later is drawn from the same file, and a broken run leaves a draft.
    _write(target, text)
    if model is not None:
        report.update(_with_model(constitution, model, others, store, found, known, relative, target))
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
        return
    typer.echo(
        f"{len(passages)} passages, {report['held_out']} of them held out; compared with {len(strangers)} by others"
    )
    for habit in found:
        base = f", others {habit.others:g} (t = {habit.t:g})" if habit.others is not None else ""
        typer.echo(f"  {habit.title}: {habit.feature} {habit.own:g} {habit.unit}{base}")
    for claim in report.get("claims", []):
        typer.echo(f"  {claim['title']}: {claim['prose']} [{claim['source']}]")
    if "judge" in report:
        judge = report["judge"]
        typer.echo(
            f"the corpus judge tells {name}'s held-out passages from others': accuracy {judge['value']:.2f} "
            f"[{judge['low']:.2f}, {judge['high']:.2f}] on {judge['n']} pairs, by {model}"
        )
    typer.echo(
        f"wrote {target}\nnext: read it, doubt it, and write what is missing; then charforge constitution check {target}"
    )


def _with_model(
    constitution: Constitution,
    model: str,
    others: Path | None,
    store: Path | None,
    found: list[Any],
    known: list[Any],
    relative: str,
    target: Path,
) -> dict[str, Any]:
    """Claims read out of the passages by a model, written into the draft; and the accuracy of the corpus judge."""
    from charforge.constitution import corpus
    from charforge.data.claims import gather
    from charforge.judge import accuracy

    judging = {"kind": "corpus", "second": "none", **({"others": str(others.resolve())} if others else {})}
    claims, judged = _run_plan("corpus", constitution, {"model": model, "judge": judging}, store)
    kept = gather(claims, constitution)
    _write(target, corpus.draft(constitution.name, relative, known, found, kept))
    return {
        "claims": [{"title": c.title, "prose": c.prose, "quote": c.quote, "source": c.passage.source} for c in kept],
        "judge": accuracy(judged).as_dict(),
        "model": model,
    }


@app.command()
def schema() -> None:
    """Print the JSON schema of the front matter, for editors."""
    from charforge.constitution import FrontMatter

    data = FrontMatter.model_json_schema()
    data["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    data["title"] = "Front matter of a charforge constitution"
    json.dump(data, sys.stdout, indent=1)
    typer.echo()
