"""Inspect (https://inspect.aisi.org.uk): evaluations as its logs, and suites as its tasks.

`export` writes what `charforge eval` measured as one log for each suite and arm, for Inspect's viewer and for whatever reads
its logs. Nothing is computed anew: every number comes from measures.json, every score from a row.

`charforge_suite` asks any model that Inspect can reach what a suite asks, and reads the replies with the suite's own measure.
A chat provider can not continue a reply that was begun for it, go on with a document, meet another model or give
probabilities: what needs this is left out and counted in the task's metadata. A forced choice is put in every rotation of its
options, as in `asking`; instead of probabilities there is the option that a reply names, so `mass` is the share of replies
that name one.

Unscored is never a number: an exported score that could not be taken is left out and named in the sample's metadata, and in a
task it is None.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from charforge import __version__, shipped
from charforge import recipe as recipes
from charforge.characters import Character
from charforge.constitution import Constitution, Message, digest
from charforge.constitution import load as load_constitution
from charforge.data import contexts
from charforge.engine.bench import Bench
from charforge.errors import UserError, missing_extra
from charforge.evaluate import suites, voice
from charforge.evaluate.answers import PROMPTED, UNTRAINED
from charforge.evaluate.asking import Ask, Choice, Encounter, Probe, Setting, Talk, Text, named, read_choice
from charforge.evaluate.findings import Number, levels
from charforge.evaluate.judging import Judging
from charforge.evaluate.measure import Desk, Suite
from charforge.models import BUILTINS
from charforge.store import Row, Store, read_rows

try:
    from inspect_ai import Task, task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalSample,
        EvalScore,
        EvalSpec,
        EvalStats,
        HeadlineMetric,
        write_eval_log,
    )
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        GenerateConfig,
        ModelOutput,
    )
    from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
    from inspect_ai.solver import Generate, Solver, TaskState, solver
except ModuleNotFoundError as error:
    raise missing_extra("inspect", error) from error

_ROLES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
_NO_MODEL = f"builtin:{next(iter(BUILTINS))}"
_logger = logging.getLogger(__name__)
# What a row holds that a sample shows elsewhere.
_SHOWN = ("suite", "arm", "messages", "text", "sample")


def _chat(messages: Sequence[Message]) -> list[ChatMessage]:
    return [_ROLES[message["role"]](content=message["content"]) for message in messages]


def _label(number: Row) -> str:
    """What a number is of, in words: the same for a log that was exported and for a task."""
    # No brackets: Inspect's terminal would take what is in them for markup.
    return ": ".join(filter(None, [number["name"], _place(number)])) + _changed(number)


def _place(number: Row) -> str:
    return " ".join(filter(None, [number["condition"], f"({number['trait']})" if number["trait"] else ""]))


def _changed(number: Row) -> str:
    return f", change from {number['against']}" if number["against"] else ""


# --- evaluations as logs --------------------------------------------------------------------------------------------


def export(measures: Mapping[str, Mapping[str, Any]], character: Character, folder: Path) -> list[Path]:
    """Write a log for each suite and arm into a folder; returns their paths.

    `measures` names for each suite the `folder` of its measure's artifact. The same evaluation gives the same names.

    Raises:
        UserError: if the rows as they were asked are no longer in the store, or the folder can not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can not be written: {error.strerror or error}", place=str(folder)) from error
    written = []
    for measured in measures.values():
        source = Path(measured["folder"])
        data = json.loads((source / "measures.json").read_text(encoding="utf-8"))
        manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
        rows = read_rows(source / "rows.jsonl")
        found = _measured(rows, _asked(source, data["suite"], manifest))
        # A field is a score where any row has a number in it; where a row has none, that row is unscored.
        names = list(dict.fromkeys(name for row in found for name, value in row.items() if _is_score(value)))
        arms = list(dict.fromkeys(row["arm"] for row in rows))
        models = {UNTRAINED: character.recipe.model.name, PROMPTED: character.recipe.model.name}
        models["trained"] = character.reference
        for arm in arms:
            mine = [(row, new) for row, new in zip(rows, found, strict=True) if row["arm"] == arm]
            samples = [_sample(names, row, new, at) for (row, new), at in zip(mine, _places(mine), strict=True)]
            log = _log(data, manifest, arm, models.get(arm, arm), samples, names)
            log.results = _results(data, arm, arms, samples, names)
            stamp = log.eval.created.replace(":", "-")
            path = folder / f"{stamp}_charforge-{data['suite']}-{arm}_{log.eval.task_id}.eval"
            write_eval_log(log, str(path))
            written.append(path)
    return written


def _asked(source: Path, suite: str, manifest: Row) -> dict[tuple[str, str], Row]:
    """The rows as they were before they were read, by arm and key."""
    store = Store(source.parents[2])
    found = {}
    for role, key in manifest["inputs"].items():
        way, _, arm = role.partition(":")
        if way not in ("said", "weighed"):
            continue
        stage = f"{suite}-{arm}" if way == "said" else f"{suite}-{arm}-weighed"
        path = store.artifact(stage, key).directory / "rows.jsonl"
        if not path.is_file():
            hint = "evaluate the character again; what was said is needed to tell it from what was read"
            raise UserError(f"what the arm {arm!r} was asked is not in the store", place=str(path.parent), hint=hint)
        found.update({(row["arm"], row["key"]): row for row in read_rows(path)})
    return found


def _measured(rows: Sequence[Row], asked: Mapping[tuple[str, str], Row]) -> list[Row]:
    """Of each row what reading added or changed."""
    found = []
    for row in rows:
        before = asked[row["arm"], row["key"]]
        found.append({name: value for name, value in row.items() if name not in before or before[name] != value})
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value)


def _is_score(value: Any) -> bool:
    """A number, or numbers by name (such as each judge's); what each marker showed is no score of its own."""
    if isinstance(value, dict):
        return bool(value) and all(_is_number(item) and not isinstance(item, bool) for item in value.values())
    return _is_number(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _places(rows: Sequence[tuple[Row, Row]]) -> list[tuple[str, int]]:
    """The id of each sample, and its epoch: the same for the same question in every arm."""
    counts: Counter[tuple[str, int]] = Counter()
    places = []
    for row, _ in rows:
        at = (row["condition"], row.get("sample", 0))
        counts[at] += 1
        places.append((f"{re.sub(r'[^a-z0-9]+', '-', row['condition'].lower()).strip('-')}-{counts[at]}", at[1] + 1))
    # Two conditions may look alike without their punctuation.
    if len(set(places)) < len(places):
        return [(f"{name}-{n}", epoch) for n, (name, epoch) in enumerate(places, 1)]
    return places


def _sample(names: Sequence[str], row: Row, measured: Row, place: tuple[str, int]) -> EvalSample:
    """One row: what was said to the model, what it answered, and what was read in that."""
    said: list[Message] = row.get("messages") or []
    text, choices = row.get("text", ""), None
    if row["kind"] == "choice":
        said, choices = [{"role": "user", "content": row["question"]}], list(row["options"].values())
        lines = [f"{row['options'][key]}: {value:.3f}" for key, value in (row["p"] or {}).items()]
        text = "\n".join(lines) or f"no answer: the labels hold {row['mass']:.3f} of the probability"
    elif row["kind"] == "text":
        # It was weighed; nobody said it.
        text = ""
    chat = _chat(said)
    output = ModelOutput.from_content(
        "", text, stop_reason={"stop": "stop", "length": "max_tokens"}.get(row.get("finish", ""), "unknown")
    )
    scores = {name: Score(value=_rounded(measured[name])) for name in names if _is_score(measured.get(name))}
    metadata = {name: value for name, value in row.items() if name not in _SHOWN and name not in scores}
    return EvalSample(
        id=place[0],
        epoch=place[1],
        input=chat or row.get("document") or row.get("text", ""),
        choices=choices,
        target="",
        messages=[*chat, *(choice.message for choice in output.choices)] if text else chat,
        output=output,
        scores=scores,
        metadata={**metadata, "unscored": [name for name in names if name in measured and name not in scores]},
        uuid=_identifier(row["arm"], row["key"], *map(str, place)),
    )


def _log(
    data: Row, manifest: Row, arm: str, model: str, samples: Sequence[EvalSample], names: Sequence[str]
) -> EvalLog:
    about = manifest["about"]
    spec = EvalSpec(
        eval_id=_identifier("eval", manifest["key"], arm),
        run_id=_identifier("run", manifest["key"]),
        task_id=_identifier("task", data["suite"], arm, model),
        created=about["finished"],
        task=f"charforge/{data['suite']}",
        task_version=data["version"],
        task_args={"arm": arm},
        tags=[arm],
        dataset=EvalDataset(name=data["suite"], samples=len({sample.id for sample in samples})),
        model=model,
        config=EvalConfig(epochs=max((sample.epoch for sample in samples), default=1)),
        packages={"charforge": __version__, **about.get("environment", {}).get("packages", {})},
        metadata={"arm": arm, "measure": data["measure"], "artifact": manifest["key"], "scores": list(names)},
    )
    stats = EvalStats(started_at=about["finished"], completed_at=about["finished"])
    return EvalLog(status="success", eval=spec, stats=stats, samples=list(samples))


def _results(
    data: Row, arm: str, arms: Sequence[str], samples: Sequence[EvalSample], names: Sequence[str]
) -> EvalResults:
    """The measure's numbers of one arm, and for each score of the samples how many there are."""
    metrics: dict[str, dict[str, EvalMetric]] = {}
    unmeasured, headline = [], None
    for number in data["numbers"]:
        if number["arm"] != arm:
            continue
        label = _label(number)
        about = {name: value for name, value in number.items() if name not in ("value", "arm") and value is not None}
        if number["value"] is None:
            unmeasured.append({"number": label, **about})
            continue
        leaf = f"{_place(number) or number['name']}{_changed(number)}"
        found = EvalMetric(name=leaf, value=number["value"], metadata=about)
        metrics.setdefault(number["name"], {})[label] = found
        if number["headline"] and headline is None:
            headline = HeadlineMetric(score=number["name"], metric=label)
    scores = [
        EvalScore(name=name, scorer=name if name in names else data["measure"], metrics=found)
        for name, found in metrics.items()
    ]
    scores += [EvalScore(name=name, scorer=name) for name in names if name not in metrics]
    for score in scores:
        if score.name in names:
            score.scored_samples = sum(score.name in (sample.scores or {}) for sample in samples)
            score.unscored_samples = sum(score.name in sample.metadata["unscored"] for sample in samples)
    return EvalResults(
        total_samples=len(samples),
        completed_samples=len(samples),
        scores=scores,
        headline=headline,
        metadata={
            "unmeasured": unmeasured,
            # Numbers that compare arms with each other belong to no one of them.
            "numbers of no arm": [number for number in data["numbers"] if number["arm"] not in arms],
            "details": data["details"],
        },
    )


def _identifier(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:22]


# --- suites as tasks ------------------------------------------------------------------------------------------------


@task
def charforge_suite(
    constitution: str,
    suite: str,
    limit: int | None = None,
    arm: Literal["plain", "prompted"] = "plain",
    recipe: str | None = None,
) -> Task:
    """What a suite asks about a character, for any model.

    Args:
        constitution: The constitution's file, or the name of a shipped one. (Where this file is named, and not the package,
            Inspect runs in its folder: paths must be absolute then.)
        suite: The suite's file, or the name of a shipped one.
        limit: At most so many questions of each kind; 2 or more.
        arm: `plain` asks the model as it is, `prompted` tells it the constitution in brief as its system prompt.
        recipe: The recipe of a trained character: what it held out, and how long replies are, is as there.

    Raises:
        UserError: for a constitution, suite or recipe with a mistake, or a suite of which nothing can be asked like this.
    """
    if arm not in ("plain", "prompted"):
        raise UserError(f"no arm {arm!r}", hint="it is plain or prompted")
    if limit is not None and limit < 2:
        raise UserError(f"limit: {limit} is too few", hint="give 2 or more")
    # A task may be read from one folder and scored in another.
    told = str(recipes.find_constitution(constitution, Path.cwd()).resolve())
    asked = str(Path(suite).resolve()) if Path(suite).is_file() else suite
    trained_by = str(Path(recipe).resolve()) if recipe else None
    measure, desk = _open(told, asked, trained_by)
    system = contexts.sheet(desk.constitution) if arm == "prompted" else None
    setting = Setting(desk.constitution, desk.recipe, arm, system)
    left_out: Counter[str] = Counter()
    samples: list[Sample] = []
    for number, ask in enumerate(measure.limited(limit).asks(setting), 1):
        if reason := _why_not(ask):
            left_out[reason] += 1
        else:
            samples += _samples(measure.name, arm, number, ask)
    if not samples:
        raise UserError(f"nothing of {measure.name!r} can be asked through a chat provider", place=suite)
    for sample in samples:
        sample.metadata = {**(sample.metadata or {}), "of": len(samples)}
    sampling = desk.recipe.evaluation.sampling
    return Task(
        dataset=MemoryDataset(samples, name=measure.name),
        solver=converse(),
        scorer=replies(told, asked, trained_by),
        metrics=[findings(told, asked, trained_by)],
        config=GenerateConfig(temperature=sampling.temperature, max_tokens=sampling.max_tokens),
        name=f"charforge/{measure.name}",
        version=measure.version,
        metadata={"arm": arm, "constitution": desk.constitution.reference, "left_out": dict(left_out)},
    )


class _Unread(Exception):
    """Reading needs a model that weighs text, and there is none here."""


class _NoBench:
    def __getattr__(self, name: str) -> Any:
        raise _Unread


def _open(constitution: str, suite: str, recipe: str | None) -> tuple[Suite, Desk]:
    """A suite, and what it is read with: neither a bench nor judges, which need weights at hand."""
    if recipe:
        settings = recipes.load(Path(recipe))
    else:
        bank = {"bank": str(shipped.find("eval", "general", ".yaml"))}
        settings = recipes.Recipe.model_validate({"constitution": constitution, "model": _NO_MODEL, "scenarios": bank})
    # The model is Inspect's to choose. This one is never fetched, and needs no hub to be looked up.
    settings = settings.model_copy(update={"model": recipes.ModelReference(name=_NO_MODEL)})
    bench = cast("Bench", _NoBench())
    return suites.load(suite), Desk(load_constitution(Path(constitution)), settings, bench, Judging())


def _why_not(ask: Ask) -> str | None:
    """What of an ask a chat provider can not do."""
    if isinstance(ask, Encounter):
        return "encounter"
    if isinstance(ask, Text):
        return "text"
    if isinstance(ask, Probe) and ask.prefill and ask.prefill_tokens:
        return "prefill"
    if (isinstance(ask, Probe) and ask.document is not None) or (isinstance(ask, Choice) and ask.document):
        return "document"
    return None


def _samples(suite: str, arm: str, number: int, ask: Ask) -> list[Sample]:
    """An ask as Inspect's samples: one, or one for each order of a choice. `row` is what it becomes a row with."""
    row: Row = {"suite": suite, "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}
    metadata: Row = {"condition": ask.condition, "base": ask.base}
    if isinstance(ask, Choice):
        row |= {"kind": "choice", "form": ask.form, "question": ask.question, "options": dict(ask.options)}
        found = []
        for place, order in enumerate(ask.orders(), 1):
            said: tuple[Message, ...] = (*ask.opening, {"role": "user", "content": ask.prompt(order)})
            labels = dict(zip(ask.labels(order), [key for key, _ in order], strict=True))
            about = {**metadata, "row": row, "ask": number, "labels": labels}
            found.append(Sample(id=f"{number}-{place}", input=_chat(said), target="", metadata=about))
        return found
    if isinstance(ask, Talk):
        row |= {"kind": "turn"}
        opening, turns, temperature = (*ask.opening, *_user(ask.turns[:1])), list(ask.turns[1:]), None
    else:
        assert isinstance(ask, Probe)
        row |= {"kind": "reply", "document": None, "prefill": "", "prefill_tokens": 0}
        opening, turns, temperature = ask.messages, [], ask.temperature
    metadata |= {"row": row, "turns": turns, "said": len(opening), "temperature": temperature}
    return [Sample(id=f"{number}", input=_chat(opening), target="", metadata=metadata)]


def _user(turns: Sequence[str]) -> tuple[Message, ...]:
    return tuple({"role": "user", "content": turn} for turn in turns)


@solver
def converse() -> Solver:
    """Let the model answer, and play the turns that a talk has after the first."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        temperature = state.metadata.get("temperature")
        own = {} if temperature is None else {"temperature": temperature}
        for turn in [None, *state.metadata.get("turns", [])]:
            if turn is not None:
                state.messages.append(ChatMessageUser(content=turn))
            state = await generate(state, **own)
            # Kept at once: a limit of Inspect's may end a talk in its middle.
            state.store.set("ends", [*state.store.get("ends", []), _end(state.output)])
        return state

    return solve


def _end(output: ModelOutput) -> Row:
    """Why a reply ended, in the words of the engines, and its tokens where the provider counts them."""
    tokens = output.usage.output_tokens if output.usage else None
    return {"finish": "length" if output.stop_reason == "max_tokens" else output.stop_reason, "tokens": tokens}


@scorer(metrics=[])
def replies(constitution: str, suite: str, recipe: str | None = None) -> Scorer:
    """What a sample alone shows: the option that a reply names, or what the suite's measure reads in the reply.

    Where the measure reads no reply alone, the markers of the voice. The rows are kept in the score's metadata, for `findings`.
    """
    measure, desk = _open(constitution, suite, recipe)

    async def score(state: TaskState, target: Target) -> Score:
        rows = _rows(state)
        if "labels" in state.metadata:
            chosen = rows[0]["chosen"]
            reason = None if chosen else "invalid_response_format"
            return Score(value={"chosen": chosen}, answer=chosen, reason=reason, metadata={"rows": rows})
        value = {}
        read, error = _alone(measure, rows, desk)
        for row, before in zip(read, rows, strict=True):
            turn = f" {row['turn'] + 1}" if len(rows) > 1 else ""
            value.update({f"{k}{turn}": v for k, v in row.items() if k not in before and (v is None or _is_number(v))})
        # A text that was not found is None like a number that could not be read: only where there is nothing else.
        value = {name: item for name, item in value.items() if item is not None} or value
        if not value:
            last = voice.listen(desk.constitution, rows[-1]["text"] if rows else "", None)
            value = {name: last[name] for name in ("held", "share")}
        reason = None if any(row["text"].strip() for row in rows) else "no_response"
        return Score(value=value, reason=reason, metadata={"rows": rows, **({"error": error} if error else {})})

    return score


def _alone(measure: Suite, rows: Sequence[Row], desk: Desk) -> tuple[list[Row], str | None]:
    """The rows of one sample, with what the measure reads in each, and the error that ended the reading. It reads all rows of
    an evaluation; of these alone it may miss something, and what it wrote until then stands."""
    read = copy.deepcopy(list(rows))
    try:
        measure.read(read, desk)
    except _Unread:
        pass
    except Exception as error:
        return read, f"{type(error).__name__}: {error}"
    return read, None


def _rows(state: TaskState) -> list[Row]:
    """What was said in a sample, as the rows of an evaluation: one for each reply."""
    template, sample = state.metadata["row"], state.epoch - 1
    if labels := state.metadata.get("labels"):
        name = named(state.output.completion, list(labels), words=template["form"] == "words")
        about = {"ask": state.metadata["ask"], "shown": list(labels.values()), "rendered": state.user_prompt.text}
        return [{**template, **about, "text": state.output.completion, "chosen": labels[name] if name else None}]
    rows: list[Row] = []
    said: list[Message] = []
    ends = state.store.get("ends", [])
    for place, message in enumerate(state.messages):
        if place >= state.metadata["said"] and message.role == "assistant":
            end = ends[len(rows)] if len(rows) < len(ends) else {"finish": "unknown", "tokens": None}
            row = {**template, **end, "messages": list(said), "sample": sample}
            row |= {"text": message.text, "turn": len(rows)}
            if template["kind"] == "reply":
                del row["turn"]
            rows.append({**row, "key": digest(row)})
        said.append({"role": cast("Any", message.role), "content": message.text})
    return rows


@metric(scores="unreduced")
def findings(constitution: str, suite: str, recipe: str | None = None) -> Metric:
    """The numbers of the suite's measure over all replies, with their intervals and how many could not be scored.

    A measure that weighs text can not read here; then it is the voice in each condition.
    """
    measure, desk = _open(constitution, suite, recipe)

    def read(scores: list[SampleScore]) -> Value:
        found: dict[str, float] = {}
        rows = gather([row for score in scores for row in (score.score.metadata or {})["rows"]])
        # While samples are still coming in, or with some that failed, a measure may miss what it needs.
        whole = all(len({s.sample_id for s in scores}) == (s.sample_metadata or {})["of"] for s in scores)
        for number in _numbers(measure, rows, desk, whole):
            data = number.as_dict()
            label = _label(data)
            if data["value"] is not None:
                found[label] = data["value"]
                found.update({f"{label}, {end}": data[end] for end in ("low", "high") if data[end] is not None})
            if number.unscored:
                found[f"{label}, unscored"] = number.unscored
        return cast("Value", found)

    return read


def gather(rows: Sequence[Row]) -> list[Row]:
    """Rows as a measure reads them: the replies as they are, and the orders of each choice together.

    The probability of an option is the share of replies that name it; asked once, that is 0 or 1. A choice of which not
    every order was asked is left out: what its place did to the answer could not be told apart.
    """
    found = [dict(row) for row in rows if row["kind"] != "choice"]
    choices: dict[int, list[Row]] = {}
    for row in rows:
        if row["kind"] == "choice":
            choices.setdefault(row["ask"], []).append(row)
    for mine in choices.values():
        orders = []
        for shown in dict.fromkeys(tuple(row["shown"]) for row in mine):
            here = [row for row in mine if tuple(row["shown"]) == shown]
            p = {key: sum(row["chosen"] == key for row in here) / len(here) for key in shown}
            orders.append({"shown": list(shown), "p": p, "rendered": here[0]["rendered"]})
        if len(orders) == len(mine[0]["options"]):
            asked = {k: v for k, v in mine[0].items() if k not in ("ask", "shown", "rendered", "text", "chosen")}
            row = {**asked, "orders": orders, **read_choice(orders)}
            found.append({**row, "key": digest(row)})
    return found


def _numbers(measure: Suite, rows: list[Row], desk: Desk, whole: bool) -> list[Number]:
    try:
        return measure.read(copy.deepcopy(rows), desk).numbers
    except _Unread:
        pass
    except Exception:
        if whole:
            raise
        # Inspect keeps what is logged in its own log.
        _logger.warning("%s could not read what there is so far", measure.name, exc_info=True)
    heard = [{**row, **_heard(desk.constitution, row)} for row in rows if row["kind"] != "choice"]
    held = levels(heard, "held", "voice held", better="high", changes=False)
    return [*levels(heard, "share", "share of the voice", better="high", changes=False), *held]


def _heard(constitution: Constitution, row: Row) -> Row:
    return voice.listen(constitution, row["text"], row.get("context"))
