"""The command line: parses, calls, prints. Nothing heavy is imported before it is needed, so ``--help`` is instant."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charforge import __version__
from charforge.cli import characters, chat, compare, constitution, sharing
from charforge.errors import CharforgeError, UserError, missing_extra

if TYPE_CHECKING:
    from charforge.characters import Character
    from charforge.pipeline import Plan
    from charforge.store import Store

app = typer.Typer(
    name="charforge",
    help="Write who a model should be, train it to be that, and measure whether it became that.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipe_app = typer.Typer(help="List, copy and check recipes.", no_args_is_help=True)
app.add_typer(constitution.app, name="constitution")
app.add_typer(recipe_app, name="recipe")
for _name, _command in {**characters.COMMANDS, **sharing.COMMANDS}.items():
    app.command(_name, rich_help_panel="Trained characters")(_command)
app.command("compare", rich_help_panel="Trained characters")(compare.compare)
app.command("chat", rich_help_panel="Trained characters")(chat.chat)

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
SetOption = Annotated[
    list[str],
    typer.Option("--set", help="Override a setting, for example sft.epochs=2. Repeatable.", metavar="KEY=VALUE"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def _version(show: bool) -> None:
    if show:
        typer.echo(f"charforge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _store(plan: Plan) -> Store:
    from charforge.store import Store, default_root

    chosen = plan.recipe.runtime.store
    return Store(Path(chosen).expanduser() if chosen else default_root())


def _plan(recipe: Path, overrides: list[str]) -> Plan:
    from charforge.pipeline import load_plan

    if not recipe.exists() and recipe.suffix == "" and "/" not in str(recipe):
        from charforge import shipped

        recipe = shipped.find("recipes", str(recipe), ".yaml")
    return load_plan(recipe, overrides)


@app.command()
def train(
    recipe: RecipeArgument,
    set_: SetOption = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and why. Runs nothing.")] = False,
    until: Annotated[str | None, typer.Option("--until", help="Stop after this stage.", metavar="STAGE")] = None,
    force: Annotated[str | None, typer.Option("--force", help="Make this stage again.", metavar="STAGE")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a character: from the constitution to the report.

    What exists is reused and what was interrupted is continued: give the same command again.
    """
    from charforge import pipeline, registry
    from charforge.characters import read_report
    from charforge.report import terminal

    plan = _plan(recipe, set_)
    store = _store(plan)
    if dry_run:
        found = pipeline.steps(plan, store, force)
        if until is not None:
            plan.stage(until)
            found = found[: 1 + [step.stage.name for step in found].index(until)]
        if as_json:
            typer.echo(json.dumps({"steps": [terminal.step_data(step) for step in found]}, indent=1))
        else:
            terminal.print_steps(plan, found)
        return
    with terminal.display(plan) as display:
        pipeline.run(plan, store, display, until=until, force=force)
    last = plan.stages[-1]
    artifact = store.artifact(last.name, last.key)
    if until is not None and until != last.name:
        done = plan.stage(until)
        place = store.artifact(done.name, done.key).directory
        if as_json:
            typer.echo(json.dumps({"stage": until, "key": done.key, "directory": str(place)}, indent=1))
        else:
            typer.echo(f"stopped after {until}: {place}")
        return
    folder = registry.register(store, artifact, plan.constitution.reference)
    report = read_report(artifact)
    if as_json:
        typer.echo(json.dumps({**report, "directory": str(folder)}, ensure_ascii=False))
    else:
        terminal.print_report(report, folder)


@app.command("eval")
def evaluate(
    character: Annotated[
        str, typer.Argument(help="name@version, as trained, or the recipe that trained it.", metavar="CHARACTER")
    ],
    suite: Annotated[
        list[str], typer.Option("--suite", help="A shipped suite or a YAML file. Repeatable. Default: all shipped.")
    ] = [],  # noqa: B006
    preset: Annotated[
        str, typer.Option("--preset", help="How much of each shipped suite is asked: quick, standard or full.")
    ] = "standard",
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most so many questions of each kind in a suite.", min=2)
    ] = None,
    judge: Annotated[
        list[str],
        typer.Option("--judge", help="Hear only this judge of those the character was trained with. Repeatable."),
    ] = [],  # noqa: B006
    twin: Annotated[
        str | None,
        typer.Option(
            "--twin", help="Another trained character that is asked the same, such as an opposite.", metavar="CHARACTER"
        ),
    ] = None,
    harness: Annotated[
        list[str],
        typer.Option("--harness", help="Also run this lm-evaluation-harness task. Repeatable.", metavar="TASK"),
    ] = [],  # noqa: B006
    harness_tasks: Annotated[
        Path | None, typer.Option("--harness-tasks", help="A folder with task files of your own.", metavar="FOLDER")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Print every measure, not only those that say most.")
    ] = False,
    inspect: Annotated[
        Path | None, typer.Option("--inspect", help="Also write Inspect logs into this folder.", metavar="FOLDER")
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="The folder of artifacts.", metavar="PATH")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a trained character what the suites ask, beside its baselines: does the character hold?

    Replies that were drawn before are kept; a killed evaluation continues with the same command.
    """
    from charforge import pipeline
    from charforge.errors import did_you_mean
    from charforge.evaluate.suites import SHIPPED, load, presets
    from charforge.judge import KINDS
    from charforge.report import terminal

    names = suite or list(SHIPPED)
    titles = [load(name).name for name in names]
    if len(set(titles)) < len(titles):
        raise UserError("two suites have the same name", hint="rename one, or give it once")
    if preset not in presets():
        raise UserError(f"no preset {preset!r}{did_you_mean(preset, presets())}")
    for kind in judge:
        if kind not in KINDS:
            raise UserError(f"no judge {kind!r}{did_you_mean(kind, KINDS)}")
    kept, found = _character(character, store)
    if inspect is not None:
        # Missing, it is better missed now than after an hour of asking.
        from charforge.evaluate.inspect_logs import export
    if harness and importlib.util.find_spec("lm_eval") is None:
        raise missing_extra("harness", ImportError("lm_eval"))
    plan = pipeline.plan_evaluation(
        found.constitution,
        found.recipe,
        names,
        found.key,
        found.calibration,
        preset=preset,
        limit=limit,
        judges=judge or None,
        twin=_twin(twin, store) if twin else None,
        tasks=harness,
        task_folder=str(harness_tasks.resolve()) if harness_tasks else None,
    )
    with terminal.display(plan) as display:
        pipeline.run(plan, kept, display)
    measured = {}
    for stage in plan.stages:
        if stage.name.startswith("measure-"):
            folder = kept.artifact(stage.name, stage.key).directory
            measured[stage.name.removeprefix("measure-")] = {
                **json.loads((folder / "measures.json").read_text(encoding="utf-8")),
                "rows": str(folder / "rows.jsonl"),
            }
    if inspect is not None:
        asked = {name: {"folder": Path(data["rows"]).parent} for name, data in measured.items() if name != "harness"}
        for path in export(asked, found, inspect):
            typer.echo(f"wrote {path}", err=True)
    last = plan.stages[-1]
    folder = kept.artifact(last.name, last.key).directory
    verdict = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["verdict"]
    if as_json:
        data = {"character": found.reference, "verdict": verdict, "suites": measured, "directory": str(folder)}
        typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
    else:
        terminal.print_evaluation(found.reference, measured, verdict, folder, everything=everything)


def _character(name: str, root: Path | None) -> tuple[Store, Character]:
    """A trained character by name, or by the recipe that trained it, with the store that it is in."""
    from charforge import registry
    from charforge.characters import Character, recall
    from charforge.store import Store, default_root

    if not name.endswith((".yaml", ".yml")):
        store = Store(root or default_root())
        return store, recall(registry.find(store, name))
    plan = _plan(Path(name), [])
    store = Store(root) if root else _store(plan)
    last = plan.stages[-1]
    artifact = store.artifact(last.name, last.key)
    if not artifact.finished:
        raise UserError(
            f"{plan.constitution.reference} is not trained here by this recipe",
            place=str(store.root),
            hint=f"train it first: charforge train {name}",
        )
    folder = artifact.directory
    return store, Character(plan.constitution.reference, last.key, folder, plan.constitution, plan.recipe)


def _twin(name: str, root: Path | None) -> tuple[dict[str, Any], str, str]:
    _, other = _character(name, root)
    return other.recipe.model.model_dump(mode="json"), other.key, f"{other.reference}/{other.key[:12]}"


@app.command()
def report(
    character: Annotated[str, typer.Argument(help="name@version, as trained.", metavar="CHARACTER")],
    store: Annotated[Path | None, typer.Option("--store", help="The folder of artifacts.", metavar="PATH")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the report of a trained character again."""
    from charforge import registry
    from charforge.report import terminal
    from charforge.store import Store, default_root

    found = registry.find(Store(store or default_root()), character)
    folder = (store or default_root()) / "characters" / found.reference / found.build
    data: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps({**data, "directory": str(folder)}, ensure_ascii=False))
    else:
        terminal.print_report(data, folder)


@app.command()
def env(as_json: JsonOption = False) -> None:
    """Print versions and the machine, for bug reports."""
    from charforge.pipeline import environment_report

    data = environment_report()
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    for key, value in data.items():
        if isinstance(value, dict):
            for name, number in value.items():
                typer.echo(f"{name:14} {number}")
        else:
            typer.echo(f"{key:14} {value}")


@recipe_app.command("list")
def recipe_list() -> None:
    """List the shipped recipes."""
    from charforge import shipped

    for path in sorted(shipped.folder("recipes").glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        typer.echo(f"{path.stem:12} {first}")


@recipe_app.command("copy")
def recipe_copy(
    name: Annotated[str, typer.Argument(help="A shipped recipe.")],
    target: Annotated[Path, typer.Argument(help="Where to write it.")],
    constitution_path: Annotated[
        Path | None,
        typer.Option("--constitution", help="Your constitution. Default: a copy of the recipe's own.", metavar="PATH"),
    ] = None,
) -> None:
    """Copy a shipped recipe, with its constitution or for one of yours."""
    import os
    import shutil

    from charforge import recipe as recipes
    from charforge import shipped

    source = shipped.find("recipes", name, ".yaml")
    target = target / f"{name}.yaml" if target.is_dir() else target
    if not target.parent.is_dir():
        raise UserError("no such folder", place=str(target.parent), hint="make it first")
    written = Path(recipes.load(source).constitution)
    copies: dict[Path, Path] = {}
    if constitution_path is None:
        copies = {written: target.with_name(written.name), **_companions(written, target.parent)}
        named = written.name
    else:
        chosen = constitution.find(constitution_path)
        if not chosen.is_file():
            raise UserError("no such constitution", place=str(chosen))
        named = os.path.relpath(chosen.resolve(), target.parent.resolve())
    for path in (target, *copies.values()):
        if path.exists():
            raise UserError("the file exists already", place=str(path), hint="choose another place")
    text = source.read_text(encoding="utf-8")
    lines = [f"constitution: {named}" if ln.startswith("constitution:") else ln for ln in text.splitlines()]
    if constitution_path is not None:
        # What the shipped recipe expects of its own character is not so of another.
        while lines and lines[0].startswith("#"):
            lines.pop(0)
        lines = [
            f"# Train {named} as the shipped recipe {name} does.",
            "#",
            f"#   charforge train {target.name}",
            *lines,
        ]
    text = "\n".join(lines).replace(f"charforge train recipes/{source.name}", f"charforge train {target.name}")
    for path, place in copies.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    target.write_text(text + "\n", encoding="utf-8")
    typer.echo(f"wrote {target}" + (f" and {copies[written]}" if copies else f" for {named}"))


def _companions(path: Path, folder: Path) -> dict[Path, Path]:
    """What a constitution includes, its voices and its corpus, with where they go beside a copy of it."""
    from charforge.constitution import load

    found = load(path)
    files = [file for file in found.files if file != path]
    if found.corpus is not None:
        files += [found.corpus] if found.corpus.is_file() else sorted(p for p in found.corpus.rglob("*") if p.is_file())
    return {file: folder / file.relative_to(path.parent) for file in files if file.is_relative_to(path.parent)}


@recipe_app.command("check")
def recipe_check(recipe: RecipeArgument, set_: SetOption = []) -> None:  # noqa: B006
    """Check a recipe and its constitution without running anything."""
    plan = _plan(recipe, set_)
    from charforge.constitution.checking import check

    warnings = check(plan.constitution)[0]
    typer.echo(f"{recipe}: {plan.constitution.reference}, {len(plan.stages)} stages")
    if warnings:
        path = plan.constitution.path
        many = "a warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
        typer.echo(f"its constitution has {many}: charforge constitution check {path}")


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from charforge import recipe as recipes

    typer.echo(json.dumps(recipes.schema(), indent=1))


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 a stage failed, 2 bad input or usage, 130 interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        # Typer turns Ctrl-C and typer.Exit into the returned code.
        code = app(standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt
        sys.exit(code or 0)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is lost: the same command continues", file=sys.stderr)
        sys.exit(130)
    except CharforgeError as problem:
        from charforge.report.text import visible

        # A message may quote a file that somebody else wrote.
        text = visible(str(problem))
        print(f"error: {text}" if "\n" not in text else text, file=sys.stderr)
        sys.exit(problem.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except Exception as problem:
        # Usage errors are click's, and Typer may carry a click of its own: they are known by what they can do.
        show = getattr(problem, "show", None)
        if show is not None and hasattr(problem, "format_message"):
            show()
            sys.exit(2)
        traceback.print_exc()
        print(
            "\nthis is a bug in charforge; please report it with the output of: charforge env",
            file=sys.stderr,
        )
        sys.exit(1)
