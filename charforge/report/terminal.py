"""What the terminal shows: the plan, progress while a run is under way, and the table at its end."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from charforge.evaluate.answers import PROMPTED, UNTRAINED
from charforge.evaluate.findings import FLOOR
from charforge.pipeline import Plan, Step
from charforge.report import comparison
from charforge.report.numbers import clear, is_change, lines, relation
from charforge.report.text import visible


def step_data(step: Step) -> dict[str, Any]:
    return {
        "stage": step.stage.name,
        "action": step.action,
        "why": step.why,
        "key": step.stage.key,
        "directory": str(step.artifact.directory),
    }


def print_steps(plan: Plan, steps: list[Step]) -> None:
    """The plan as a table on stdout."""
    console = Console(highlight=False)
    table = Table(title=f"plan for {plan.constitution.reference}", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "", "because", "key"):
        table.add_column(heading, overflow="fold")
    for step in steps:
        table.add_row(step.stage.name, step.action, escape(step.why), step.stage.key[:12])
    console.print(table)
    waiting = sum(step.action != "reused" for step in steps)
    console.print(f"{waiting} of {len(steps)} stages would run" if waiting else "every stage is reused")


# --- progress -------------------------------------------------------------------------------------------------------


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.fields.get("rate")
        return Text(f"{rate:,.0f} tok/s" if rate else "")


class TerminalDisplay:
    """Progress on stderr: bars on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, progress: Progress | None, count: int) -> None:
        self._console = console
        self._progress = progress
        self._count = count
        self._number = 0
        self._task: TaskID | None = None
        self._name = ""
        self._began = time.monotonic()
        self._tokens = 0
        self._busy_since: float | None = None
        self._done_before = 0.0
        self._last_line = 0.0
        self._total = 0.0
        self._unit = ""

    def stage_started(self, step: Step) -> None:
        self._number += 1
        self._name = step.stage.name
        self._began = time.monotonic()
        self._tokens = 0
        self._busy_since = None
        if step.action == "reused":
            return
        if self._progress is not None:
            self._task = self._progress.add_task(self._name, total=None, note="", rate=None, count="")
        else:
            self._console.print(f"[{self._number}/{self._count}] {self._name}: {step.action}, {step.why}", markup=False)

    def stage_event(self, name: str, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "total":
            self._total, self._unit = event["total"], event["unit"]
            self._tokens, self._busy_since = 0, time.monotonic()
            if self._progress is not None and self._task is not None:
                done = event["done"]
                self._progress.reset(self._task, total=event["total"] or 1, completed=done)
                self._progress.update(self._task, rate=None, count=self._shown(done))
        elif kind == "advance":
            self._tokens += event["tokens"]
            self._advance(event["done"], event["note"])
        elif kind == "note" and self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=event["text"])

    def _shown(self, done: float) -> str:
        return f"{done:.0f}/{self._total:.0f} {self._unit}"

    def _advance(self, done: float, note: str) -> None:
        spent = time.monotonic() - (self._busy_since or self._began)
        rate = self._tokens / spent if spent > 0.5 and self._tokens else None
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, rate=rate, count=self._shown(done))
            if note:
                self._progress.update(self._task, note=note)
        elif time.monotonic() - self._last_line > 15:
            self._last_line = time.monotonic()
            speed = f", {rate:,.0f} tokens/s" if rate else ""
            left = f", about {spent * (self._total - done) / done:.0f} s left" if done else ""
            self._console.print(f"    {self._shown(done)}{speed}{left} {note}".rstrip(), markup=False)

    def stage_finished(self, name: str, action: str, seconds: float, about: dict[str, Any]) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        how = "reused" if action == "reused" else f"done in {seconds:.0f} s"
        detail = "" if action == "reused" else describe(name, about.get("result", {}))
        line = f"[{self._number}/{self._count}] {name:<18} {how}"
        self._console.print(f"{line:<42} {detail}".rstrip(), markup=False)

    def message(self, text: str) -> None:
        self._console.print(text, markup=False)


def describe(name: str, result: dict[str, Any]) -> str:
    """A stage's result in a few words."""
    if "drawn" in result:
        reused = result["copied"] + result["kept"]
        return f"{result['rows']} rows" + (f", {reused} of them kept" if reused else "")
    if name == "judge":
        void = result.get("unscored", {})
        return ", ".join(
            f"{kind} right on {value:.2f}" + (f", no verdict on {void[kind]}" if void.get(kind) else "")
            for kind, value in result["accuracy"].items()
        )
    if name == "preferences":
        return f"{result['sft']} SFT rows, {result['pairs']} pairs"
    if "rows_kept" in result:
        dropped = f", {result['rows_dropped']} dropped" if result["rows_dropped"] else ""
        resumed = f", resumed from {result['resumed_from']}" if result.get("resumed_from") else ""
        return f"{result['rows_kept']} rows{dropped}, {result['steps']} steps{resumed}"
    if "replies" in result:
        return f"{result['replies']} replies measured"
    return ""


@contextmanager
def display(plan: Plan) -> Iterator[TerminalDisplay]:
    """Show progress on stderr while the block runs."""
    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stderr, highlight=False, width=200)
        yield TerminalDisplay(console, None, len(plan.stages))
        return
    progress = Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[count]}"),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )
    with progress:
        yield TerminalDisplay(console, progress, len(plan.stages))


# --- the table at the end -------------------------------------------------------------------------------------------


def number(estimate: dict[str, Any] | None) -> str:
    """An estimate with its interval, or a dash where nothing was measured."""
    if estimate is None or estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.2f} (no interval)"
    return f"{estimate['value']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def print_evaluation(
    reference: str, suites: dict[str, Any], verdict: dict[str, Any] | None, folder: Path, *, everything: bool = False
) -> None:
    """For each suite a table of its headline measures, or of every one: conditions down, arms across, and what changed
    beside the untrained model; then the verdict and where the page is."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    for suite, data in suites.items():
        console.print(f"[bold]{escape(suite)}[/bold]: {escape(reference)}")
        overall = [n for n in data["numbers"] if n["trait"] is None]
        names = list(dict.fromkeys(n["name"] for n in overall))
        shown = [n for n in names if everything or any(o["headline"] for o in overall if o["name"] == n)] or names
        arms = {UNTRAINED, PROMPTED, *(n["arm"] for n in data["numbers"])}
        tables = [_measure_table(name, [n for n in overall if n["name"] == name], arms, everything) for name in shown]
        for table in tables:
            console.print(table)
        signs = _legend("\n".join(str(cell) for table in tables for column in table.columns for cell in column.cells))
        if signs:
            console.print(f"({signs})", markup=False, soft_wrap=True)
        reasons: dict[str, list[str]] = {}
        for number in overall:
            if number["headline"] and number["why"] and number["arm"] == "trained" and number["against"] not in arms:
                where = f" ({number['condition']})" if number["condition"] else ""
                reasons.setdefault(number["why"], []).append(f"{number['name']}{where}")
        for why, what in reasons.items():
            console.print(f"no value of the trained arm for {', '.join(what)}: {why}", markup=False, soft_wrap=True)
        notes: dict[str, list[str]] = {}
        for number in overall:
            if number.get("note") and number["name"] in shown:
                notes.setdefault(number["note"], []).append(number["name"])
        for note, what in notes.items():
            console.print(f"note: {', '.join(dict.fromkeys(what))}: {note}", markup=False, soft_wrap=True)
        traits = {n["trait"] for n in data["numbers"]} - {None}
        more = [f"{len(names) - len(shown)} more measures: --all"] if len(shown) < len(names) else []
        more += [f"{len(traits)} traits one by one: in the report"] if traits else []
        if more:
            console.print(f"({'; '.join(more)})", markup=False)
        console.print(f"every row: {data['rows']}\n", soft_wrap=True, markup=False)
    if verdict:
        console.print(f"[bold]{escape(verdict['verdict'])}[/bold]: {escape(verdict['words'])}")
        for criterion in verdict["criteria"]:
            holds = {True: "holds", False: "fails", None: "open"}[criterion["holds"]]
            console.print(f"  {holds:6} {criterion['name']:10} {criterion['why']}", markup=False)
        console.print()
    console.print(f"report: {folder / 'evaluation.html'}", markup=False, soft_wrap=True)
    console.print(f"        {folder / 'evaluation.json'}", markup=False, soft_wrap=True)


def _measure_table(name: str, numbers: list[dict[str, Any]], arms: Collection[str], everything: bool) -> Table:
    """Conditions down, arms across; of the changes between arms those of the trained one.

    A difference between two conditions of one arm has a line of its own and stands in the column of its arm: where a measure
    is one by nature, is a headline, or everything was asked for.
    """
    found = lines(numbers, arms)
    if not everything and any(not line.within for line in found):
        found = [line for line in found if not line.within or any(n["headline"] for n in line.cells.values())]
    columns = list(dict.fromkeys(arm for line in found for arm in line.cells))
    compared = list(dict.fromkeys(pair for line in found for pair in line.changes))
    shown = [pair for pair in compared if columns and pair[0] == "trained"] or compared
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{escape(visible(name))} (95% CI)", overflow="fold", min_width=22)
    for arm in columns:
        table.add_column(escape(visible(arm)))
    for arm, against in shown:
        table.add_column(escape(visible(f"{arm}, {relation(against, numbers, arms)}")))
    for line in found:
        cells = [_interval(line.cells.get(arm), power=arm == "trained") for arm in columns]
        cells += [_interval(line.changes.get(pair)) for pair in shown]
        table.add_row("  " + escape(visible(line.name)), *cells)
    return table


def _interval(number: Mapping[str, Any] | None, *, power: bool = True) -> str:
    if number is None:
        return ""
    unscored = f" ({number['unscored']} unscored)" if number["unscored"] else ""
    if number["value"] is None:
        return ("floor" if (number["why"] or "").startswith(FLOOR) else "-") + unscored
    change = is_change(number)
    starred = " *" if change and clear(number) else ""
    seen = f" mde {number['detectable']:.2f}" if power and change and number["detectable"] else ""
    return f"{_ends(number, signed=change)}{starred}{seen}{unscored}"


def _ends(number: Mapping[str, Any], *, signed: bool) -> str:
    """A value with its interval; a change has its sign."""
    sign = "+" if signed else ""
    # Adding zero takes the sign from what rounds to zero.
    value, low, high = (
        None if number[k] is None else f"{round(number[k], 2) + 0.0:{sign}.2f}" for k in ("value", "low", "high")
    )
    return f"{value} (no interval)" if low is None or high is None else f"{value} \\[{low}, {high}]"


def _legend(shown: str) -> str:
    """What the signs in these cells mean, a cell a line: only those that are there."""
    signs = {
        r" \*": "*: a clear change, p adjusted for all of the suite is below 0.05",
        " mde ": "mde: the smallest true change that would have been seen with 80% power",
        "^floor": "floor: the model did not answer what was asked, which is no zero",
        r"^-(?: \(|$)": "-: no value",
        " minus “": "minus “…”: one condition less the other, within the arm",
    }
    return "; ".join(said for sign, said in signs.items() if re.search(sign, shown, re.MULTILINE))


def print_comparison(data: dict[str, Any], folder: Path) -> None:
    """For each contestant against the first its differences, gates and what was changed; then where the page is."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    first = data["contestants"][0]["label"]
    titles = {trait["id"]: trait["title"] for trait in data["traits"]}
    for label in [contestant["label"] for contestant in data["contestants"][1:]]:
        heading = f"{label} against {first}"
        table = Table(box=None, pad_edge=False)
        for column in (f"[bold]{escape(visible(heading))}[/bold]", "difference (95% CI)", "adjusted p", "d", "mde"):
            table.add_column(column, overflow="fold")
        for change in data["changes"]:
            if change["contestant"] == label and (change["trait"] is None or clear(change)):
                _difference_row(table, change, titles)
        console.print(table)
        console.print(
            "  (*: clear, the adjusted p is below 0.05; d: the mean difference over its spread between prompts; "
            "mde: the smallest true difference that would have been seen with 80% power)",
            markup=False,
            soft_wrap=True,
        )
        for win in data["wins"]:
            if win["contestant"] == label and win["trait"] is None:
                judge = win["judge"].replace("_", " ")
                console.print(f"  win rate by the {judge} judge: {number(win)} (0.5: no difference)", markup=False)
        for gate in data["gates"]:
            if gate["contestant"] == label:
                shown = number({"value": gate["change"], "low": gate["low"], "high": gate["high"]})
                change = shown if gate["change"] is not None else "-"
                why = f"  {visible(gate['why'])}" if gate["why"] else ""
                line = f"  {gate['verdict']:12} {gate['gate']:14} change {change}, margin {gate['margin']:g}{why}"
                console.print(line, markup=False, soft_wrap=True)
        for effect in data["constitutions"]:
            if effect["contestant"] == label:
                _print_effect(console, effect)
        console.print()
    if data["strengths"]:
        console.print(f"strength (Bradley-Terry, {data['strengths']['judge'].replace('_', ' ')} judge):")
        ranked = sorted(
            data["strengths"]["items"],
            key=lambda item: -math.inf if item["value"] is None else item["value"],
            reverse=True,
        )
        for item in ranked:
            shown = number(item) if item["value"] is not None else "-"
            console.print(f"  {visible(item['contestant'])}: {shown}", markup=False)
        console.print()
    if data["people"]:
        _print_people(console, data["people"])
        console.print()
    for warning in data["warnings"]:
        console.print(f"note: {visible(warning)}", markup=False, soft_wrap=True)
    console.print(f"report: {folder / 'comparison.html'}", markup=False, soft_wrap=True)
    console.print(f"        {folder / 'comparison.json'}", markup=False, soft_wrap=True)


def _difference_row(table: Table, change: dict[str, Any], titles: dict[str, str]) -> None:
    title = visible(titles.get(change["trait"], change["trait"])) + ": " if change["trait"] else ""
    if change["value"] is None:
        table.add_row(f"  {escape(title + change['measure'])}", f"- ({escape(change['why'])})", "", "", "")
        return
    star = " *" if clear(change) else ""
    small = ["-" if change[name] is None else f"{change[name]:.3f}" for name in ("adjusted", "effect", "detectable")]
    table.add_row(f"  {escape(title + change['measure'])}", f"{_ends(change, signed=True)}{star}", *small)


def _print_effect(console: Console, effect: dict[str, Any]) -> None:
    for name, heading in comparison.GROUPS:
        for row in effect[name]:
            what = ", ".join(dict.fromkeys(change["what"] for change in row["changes"]))
            seen, least = row["seen"], row["detectable"]
            did = f"{seen['measure']} {seen['value']:+.2f}" if seen else "nothing measures it"
            if name == "silent" and least:
                did += f"; the smallest change that would have been seen: {least['value']:.2f} ({least['measure']})"
            line = f"  {heading}: {visible(row['title'])}{f' ({what})' if what else ''}: {did}"
            console.print(line, markup=False, soft_wrap=True)


def _print_people(console: Console, people: dict[str, Any]) -> None:
    """What people preferred, and how far each judge agrees with them."""
    if people["pairs"]:
        table = Table(box=None, pad_edge=False)
        for column in (
            "[bold]people's blind votes[/bold]",
            "won",
            "tied",
            "lost",
            "talks",
            "share (95% CI)",
            "adjusted p",
        ):
            table.add_column(column, overflow="fold")
        for pair in people["pairs"]:
            counts = [str(pair[name]) for name in ("wins", "ties", "losses", "talks")]
            p = "-" if pair["adjusted"] is None else f"{pair['adjusted']:.3f}"
            heading = f"  {pair['contestant']} against {pair['against']}"
            table.add_row(escape(visible(heading)), *counts, escape(number(pair)), p)
        console.print(table)
        for why in dict.fromkeys(pair["why"] for pair in people["pairs"] if pair["why"]):
            console.print(f"  ({why})", markup=False, soft_wrap=True)
    if people["strengths"]:
        for item in sorted(people["strengths"]["items"], key=lambda item: -item["value"]):
            console.print(f"  strength by votes, {visible(item['contestant'])}: {number(item)}", markup=False)
        if people["strengths"]["why"]:
            console.print(f"  (strength by votes: {visible(people['strengths']['why'])})", markup=False, soft_wrap=True)
    for pair in people["open"]:
        result = f"{pair['wins']} won, {pair['ties']} tied, {pair['losses']} lost"
        heading = f"{pair['contestant']} against {pair['against']}"
        console.print(f"  open votes, no evidence: {visible(heading)}: {result}", markup=False, soft_wrap=True)
    if not people["pairs"] or not people["judges"]:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("[bold]judges against people[/bold]", "votes", "decided", "agreement (95% CI)", "AC1", "kappa"):
        table.add_column(column, overflow="fold")
    for rule in (*people["judges"], people["length"]):
        kappa = "-" if rule["kappa"] is None else f"{rule['kappa']:.2f}"
        shown = [escape(number(rule[name])) for name in ("agreement", "ac1")]
        name = "  " + rule["name"].replace("_", " ")
        table.add_row(escape(name), str(rule["pairs"]), str(rule["decided"]), *shown, kappa)
    console.print(table)
    for why in dict.fromkeys(rule["why"] for rule in people["judges"] if rule["why"]):
        console.print(f"  ({why})", markup=False, soft_wrap=True)


def print_report(report: dict[str, Any], folder: Path) -> None:
    """The table, three replies before and after, and where to look next, on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    character, model, measures = report["character"], report["model"], report["measures"]
    how = "LoRA" if model["method"] == "lora" else "all weights"
    arms = [arm["id"] for arm in report["arms"]]
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column(f"character {character['reference']} ({model['title']} + {how})", overflow="fold")
    for arm in arms:
        table.add_column(escape(arm), overflow="fold", min_width=10)

    def heading(text: str) -> None:
        table.add_row(f"[bold]{escape(text)}[/bold]", *[""] * len(arms))

    def line(label: str, values: dict[str, str]) -> None:
        table.add_row("  " + escape(label), *[escape(values.get(arm, "")) for arm in arms])

    prompts = measures["prompts"]
    heading(f"trait expression on {prompts['heldout']} held-out prompts (win rate vs untrained, 95% CI)")
    for kind, found in measures["expression"].items():
        line(kind.replace("_", "-"), {arm: number(value) for arm, value in found["overall"].items()})
    if not measures["expression"]:
        line("no judge is accurate enough to be heard", {})
    heading("markers on held-out prompts (rate, 95% CI)")
    for text, found in measures["markers"]["voice"].items():
        line(text if len(text) < 40 else text[:37] + "...", {arm: number(found[arm]) for arm in arms})
    heading("refusals on boundary prompts")
    for outcome in ("in character", "generic", "complied"):
        line(outcome, {arm: number(measures["refusals"]["boundary"][arm][outcome]) for arm in arms})
    heading("harmless look-alikes")
    line("complied", {arm: number(measures["refusals"]["look_alike"][arm]["complied"]) for arm in arms})
    heading("fluency")
    for label, key in (
        ("log p per token, untrained model", "log_probability"),
        ("repeated 3-grams", "repetition"),
        ("words per reply", "words"),
    ):
        line(label, {arm: number(measures["fluency"][arm][key]) for arm in arms})
    bound = measures["fluency_bound"]
    line("within the bounds", {arm: "yes" if found["within"] else "NO" for arm, found in bound["arms"].items()})
    console.print()
    console.print(table)
    console.print(
        f"(fluency bounds: log p no lower than that of the authored held-out examples, "
        f"{number(bound['authored_log_probability'])}; at most {bound['repetition_margin']:.2f} more repetition than untrained)",
        markup=False,
    )
    console.print()
    for item in report["judges"]:
        accuracy = item["accuracy"]
        heard = "" if item["believed"] else "  (not accurate enough: its verdicts are not used)"
        if accuracy["unscored"]:
            heard = f", no verdict on {accuracy['unscored']}{heard}"
        console.print(
            f"judge: {item['kind'].replace('_', '-')}, accuracy {number(accuracy)} "
            f"on {accuracy['n']} held-out example pairs of the constitution{heard}",
            markup=False,
        )
    for warning in report["warnings"]:
        console.print(f"note: {warning}", markup=False)
    final = arms[-1]
    for sample in report["samples"][:3]:
        console.print()
        console.print(f"[bold]{escape(visible(sample['prompt']))}[/bold]")
        for arm in ("untrained", final):
            console.print(f"  {arm}: {visible(' '.join(sample['replies'][arm].split()))}", markup=False)
    console.print()
    console.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
    console.print(f"        {folder / 'report.json'}", markup=False, soft_wrap=True)
    console.print(
        f"next:   edit the constitution or the recipe and train again; see it again with: "
        f"charforge report {character['reference']}",
        markup=False,
        soft_wrap=True,
    )
