"""The command that says what differs between characters, bare models and models under a prompt."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from charforge.cli.characters import JsonOption, StoreOption, _store
from charforge.errors import UserError


def compare(
    contestants: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: a trained character (name@version, name@version/build, name:tag), model:NAME for a bare "
            "model, prompt:CHARACTER for its base model told its constitution in brief. The first is the baseline.",
            metavar="CONTESTANT...",
        ),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="Measure by this character's constitution, recipe and judges. Default: the last character named.",
            metavar="CHARACTER",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most so many prompts of each kind for each trait.", min=1)
    ] = None,
    with_retention: Annotated[
        bool,
        typer.Option("--retention", help="Ask the retention suite as well. Without it: use answers that are there."),
    ] = False,
    preset: Annotated[
        str, typer.Option("--preset", help="How much of the retention suite is asked: quick, standard or full.")
    ] = "standard",
    runs: Annotated[
        int,
        typer.Option(
            "--runs",
            help="Ask at most so many other training runs of each character (the same recipe with another seed), where the "
            "store has them: how far they differ is chance, and differences allow for it.",
            min=0,
        ),
    ] = 1,
    margin: Annotated[
        list[str],
        typer.Option("--margin", help="Another margin than the recipe's, for example refusals=0.05. Repeatable."),
    ] = [],  # noqa: B006
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with code 1 if a gate is lost against the first.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="With --fail-on-regression: also if a gate is undecided.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write the page to this file.", metavar="FILE")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two or more: what differs trait by trait, what was lost, and which change of the text it goes with.

    Replies that were drawn before are kept: another comparison asks only what is new. What people preferred in talks with
    two of them is counted, and held against the judges.
    """
    from charforge import compare as comparing
    from charforge import judge, people, pipeline, registry, talks
    from charforge.errors import did_you_mean
    from charforge.evaluate.suites import presets
    from charforge.report import terminal
    from charforge.report.text import visible
    from charforge.store import write_atomic

    if strict and not fail_on_regression:
        raise UserError("--strict says when --fail-on-regression fails", hint="give both")
    if preset not in presets():
        raise UserError(f"no preset {preset!r}{did_you_mean(preset, presets())}")
    if html is not None and not _can_be_a_file(html):
        raise UserError("the page can not be written there", place=str(html), hint="--html takes a file in a folder")
    place = _store(store)
    by = registry.find(place, by).id if by is not None else None
    found, measuring = comparing.contestants(place, contestants, by)
    bounds = comparing.margins(measuring.recipe, margin)
    key = measuring.calibration
    if key is None or not place.artifact(judge.NAME, key).finished:
        key = None
    groups = comparing.other_runs(place, found, runs)
    asked = {contestant.digest: contestant for contestant in [*found, *(each for group in groups for each in group)]}
    everything = comparing.sources(found, (measuring.constitution, measuring.recipe))
    answered = None if with_retention else comparing.retained(place, found)
    otherwise = [] if with_retention or answered else comparing.asked_otherwise(place, found)
    plan = pipeline.plan_comparison(
        measuring.constitution,
        measuring.recipe,
        [contestant.as_dict() for contestant in found],
        calibration=key,
        limit=limit,
        leave_out=comparing.seen(place, list(asked.values()), comparing.asked(everything, ())[0]),
        margins=bounds.model_dump(mode="json"),
        preset=preset if with_retention else None,
        retained=answered,
        notes=[*otherwise, *comparing.untold(place, found)],
        command=_command(found, by, limit, preset if with_retention else None, margin, runs),
        runs=[[contestant.as_dict() for contestant in group] for group in groups],
        votes=people.votes(talks.kept(place), {contestant.digest: contestant.label for contestant in found}),
    )
    with terminal.display(plan) as display:
        pipeline.run(plan, place, display)
    last = plan.stages[-1]
    folder = place.artifact(last.name, last.key).directory
    data: dict[str, Any] = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    if html is not None:
        try:
            write_atomic(html, (folder / "comparison.html").read_text(encoding="utf-8"))
        except OSError as error:
            hint = f"the page is {folder / 'comparison.html'}"
            raise UserError(f"the page can not be written: {error.strerror}", place=str(html), hint=hint) from error
    failed = comparing.regressions(data["gates"], strict=strict) if fail_on_regression else []
    for gate in failed:
        typer.echo(f"regression: {visible(gate['contestant'])}: {gate['gate']} {gate['verdict']}", err=True)
    try:
        if as_json:
            typer.echo(json.dumps({**data, "failed": failed, "directory": str(folder)}, ensure_ascii=False))
        else:
            terminal.print_comparison(data, folder)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):
        # The reader of a pipe had enough (`| head`; rich ends there, with 1): that is no regression, and makes none undone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if failed:
        raise typer.Exit(1)


def _can_be_a_file(path: Path) -> bool:
    try:
        return path.parent.is_dir() and not path.is_dir()
    except OSError:  # such as a name that is too long
        return False


def _command(
    found: list[Any], by: str | None, limit: int | None, preset: str | None, margin: list[str], runs: int
) -> str:
    """The command that makes the same comparison again."""
    words = ["charforge", "compare", *(contestant.id for contestant in found)]
    words += ["--by", by] if by is not None else []
    words += ["--limit", str(limit)] if limit is not None else []
    words += ["--retention", "--preset", preset] if preset else []
    words += ["--runs", str(runs)] if runs != 1 else []
    return shlex.join([*words, *(word for text in margin for word in ("--margin", text))])
