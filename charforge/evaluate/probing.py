"""Asks the arms of a character what the suites ask, and reads what they said. Stages for each suite and arm (what is spoken,
and what is weighed), and one for each suite that reads, so that another suite, or a changed marker, asks nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from charforge import judge
from charforge.constitution import Constitution
from charforge.data import contexts, prompts, scenarios
from charforge.engine.bench import Bench
from charforge.evaluate.answers import PROMPTED
from charforge.evaluate.asking import SPOKEN, Ask, Script, Setting, describe, script, speak, weigh
from charforge.evaluate.judging import Judging, measured
from charforge.evaluate.measure import Desk, Suite
from charforge.recipe import Recipe
from charforge.stage import Made, Stage, Weights, Work
from charforge.store import Row, write_atomic, write_rows

TRAINED = "trained"
# One child asks and reads all: engines and scorers open side by side, and what is imported is imported once.
PROCESS = "evaluation"
SUMMARY = "evaluated"


@dataclass(frozen=True)
class Arm:
    """A model that is asked."""

    name: str
    weights: Weights
    system: str | None = None
    """What it is told before anything else; the prompted arm is told the constitution in brief."""


def stages(
    constitution: Constitution,
    recipe: Recipe,
    suites: Sequence[Suite],
    arms: Sequence[Arm],
    untrained: Weights,
    calibration: Made | None = None,
    judges: Sequence[str] | None = None,
    samples: Mapping[str, int] | None = None,
    longest: Mapping[str, int] | None = None,
) -> list[Stage]:
    """The stages of an evaluation: those of one arm stand together, so that its weights are loaded once.

    `samples` says how many replies a suite draws to each question where it does not say so itself, and `longest` how many
    tokens a reply to it may have at most; by default what the recipe says. `judges` are those that may be heard, if they
    are accurate enough; None: all that were measured.
    """
    asked: dict[str, dict[str, Stage]] = {suite.name: {} for suite in suites}
    spoken: list[Stage] = []
    weighed: list[Stage] = []
    for arm in arms:
        system = contexts.sheet(constitution) if arm.name == PROMPTED else arm.system
        setting = Setting(constitution, recipe, arm.name, system)
        for suite in suites:
            asks = _asks(suite, setting, (samples or {}).get(suite.name), (longest or {}).get(suite.name))
            common = {
                "suite": [suite.name, suite.version, suite.measure],
                "arm": arm.name,
                "student": arm.weights.identity,
                "engine": recipe.engine,
            }
            inputs = {"trained": arm.weights.trained} if arm.weights.trained else {}
            if said := [ask for ask in asks if isinstance(ask, SPOKEN)]:
                stage = Stage(
                    name=f"{suite.name}-{arm.name}",
                    version=2,
                    identity={
                        **common,
                        "asked": describe(said),
                        "seed": recipe.seed,
                        "sampling": recipe.evaluation.sampling.model_dump(mode="json"),
                    },
                    inputs=inputs,
                    process=PROCESS,
                    run=_Speak(tuple(said), suite.name, setting, untrained),
                    weights=arm.weights,
                )
                asked[suite.name][f"said:{arm.name}"] = stage
                spoken.append(stage)
            if put := [ask for ask in asks if not isinstance(ask, SPOKEN)]:
                stage = Stage(
                    name=f"{suite.name}-{arm.name}-weighed",
                    version=2,
                    identity={**common, "asked": describe(put), "prompt": prompts.digest("choice")},
                    inputs=inputs,
                    process=PROCESS,
                    run=partial(_weigh, put, suite.name, setting),
                    weights=arm.weights,
                )
                asked[suite.name][f"weighed:{arm.name}"] = stage
                weighed.append(stage)
    read = []
    for suite in suites:
        hears = calibration if suite.judged else None
        identity = {
            "suite": [suite.name, suite.version, suite.measure],
            "reading": suite.reading,
            "heard": suite.heard(constitution),
        }
        if hears:
            identity["judges"] = [judge.identity(constitution, recipe, second=True), judges]
            identity["min_accuracy"] = recipe.judge.min_accuracy
        read.append(
            Stage(
                name=f"measure-{suite.name}",
                version=2,
                identity=identity,
                inputs={**asked[suite.name], **({"judge": hears} if hears else {})},
                process=PROCESS,
                run=partial(_read, suite, judges),
                weights=untrained,
            )
        )
    return [*spoken, *weighed, *read]


def summary(measures: Sequence[Stage], character: str, command: str) -> Stage:
    """The last stage of an evaluation: the verdict, all numbers and the page, from the measures of all suites."""
    return Stage(
        name=SUMMARY,
        version=1,
        identity={"character": character, "command": command},
        inputs={stage.name.removeprefix("measure-"): stage for stage in measures},
        process=PROCESS,
        run=_summarise,
    )


def _summarise(work: Work) -> Row:
    from charforge.report import build, evaluation

    data = build.evaluation(work)
    write_atomic(work.directory / "evaluation.html", evaluation.page(data))
    # The rows stand beside the measures; here a reader finds the numbers.
    suites = {name: {k: v for k, v in found.items() if k != "rows"} for name, found in data["suites"].items()}
    text = json.dumps({**data, "suites": suites}, indent=1, ensure_ascii=False)
    write_atomic(work.directory / "evaluation.json", text + "\n")
    return {"suites": list(suites), "verdict": data["verdict"]["verdict"] if data["verdict"] else None}


def _asks(suite: Suite, setting: Setting, samples: int | None, longest: int | None) -> list[Ask]:
    """What a suite asks of an arm, each with the number of replies to draw, and how long they may be.

    What the character was trained on is left out: it would show what was learned by heart.
    """
    trained_on = scenarios.trained_on(setting.constitution, setting.recipe)

    def seen(ask: Ask) -> bool:
        asked = [ask.base, *(m["content"] for m in getattr(ask, "messages", ())[-1:] if m["role"] == "user")]
        return any(scenarios.normal(text) in trained_on for text in asked)

    count = samples or setting.recipe.evaluation.samples
    most = longest or setting.recipe.evaluation.sampling.max_tokens
    return [
        replace(ask, samples=ask.samples or count, max_tokens=min(ask.max_tokens or most, most))
        if isinstance(ask, SPOKEN)
        else ask
        for ask in suite.asks(setting)
        if not seen(ask)
    ]


@dataclass(frozen=True)
class _Speak:
    """Draws what one suite asks one arm to say."""

    asks: tuple[Ask, ...]
    suite: str
    setting: Setting
    untrained: Weights

    def __call__(self, work: Work) -> Row:
        # With this stage's, the replies of those that come next on the same weights: they find theirs in their journals,
        # as if they had been interrupted just before their end.
        assert work.stage.weights is not None
        scripts = [(work, self._script(work))]
        for stage in work.ahead:
            same = stage.weights is not None and stage.weights.label == work.stage.weights.label
            if isinstance(stage.run, _Speak) and same:
                other = replace(work, stage=stage, artifact=work.store.artifact(stage.name, stage.key), fresh=False)
                scripts.append((other, stage.run._script(other)))
        rows, about = speak(scripts)[0]
        write_rows(work.directory / "rows.jsonl", rows)
        return about

    def _script(self, work: Work) -> Script:
        return script(work, self.suite, self.setting.arm, self.asks, self.untrained)


def _weigh(asks: Sequence[Ask], suite: str, setting: Setting, work: Work) -> Row:
    rows, about = weigh(work, suite, setting.arm, asks)
    write_rows(work.directory / "rows.jsonl", rows)
    return {"rows": len(rows), **about}


def _read(suite: Suite, judges: Sequence[str] | None, work: Work) -> Row:
    rows = [row for role in work.stage.inputs if role != "judge" for row in work.rows(role)]
    judging = Judging()
    if "judge" in work.stage.inputs:
        judging = measured(work.inputs["judge"], work.recipe, judges, draw=work.stage.key)
    bench = Bench(work)
    findings = suite.read(rows, Desk(work.constitution, work.recipe, bench, judging))
    bench.close()
    write_rows(work.directory / "rows.jsonl", rows)
    data = {"suite": suite.name, "version": suite.version, "measure": suite.measure, **findings.as_dict()}
    write_atomic(work.directory / "measures.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    return {"rows": len(rows), "numbers": len(findings.numbers), **bench.about}
