"""A child process that runs stages which share an engine, a scorer or a trainer, one after the other.

Started by the pipeline as ``python -m charforge.worker JOB.json``. It plans the same recipe again, so that it knows exactly
the stages that the parent knows, and says on the events pipe how far it is. If the parent dies, it dies.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge import pipeline
from charforge.child import die_with_parent
from charforge.constitution import load
from charforge.engine.device import uses_cuda
from charforge.errors import CharforgeError
from charforge.models import fetch, merge_adapter
from charforge.recipe import Endpoint, Recipe, Runtime
from charforge.stage import Progress, Stage, Weights, Work
from charforge.store import Store
from charforge.train.stages import trained_folder

if TYPE_CHECKING:
    from charforge.engine import Engine
    from charforge.engine.scoring import Scorer


class Held:
    """The engines and the scorer that this process holds; each is opened when a stage first needs it.

    A GPU holds several engines only where several are talked to at once, and shares its memory evenly among them; in main
    memory up to three stay open, since the second starts in a moment. On a GPU all adapters of a base model, and the model
    without one, share an engine: it makes room for those that are `expected` in this process. On CPU adapters are merged.
    """

    def __init__(
        self, engine: str, runtime: Runtime, store: Store, progress: Progress, expected: Sequence[Weights] = ()
    ) -> None:
        self._kind = engine
        self._runtime = runtime
        self._store = store
        self._progress = progress
        self._expected = expected
        self._engines: dict[str, Engine] = {}
        self._opened: dict[str, Engine] = {}
        self._scorer: tuple[str, Scorer] | None = None
        self._device = "cuda" if uses_cuda(runtime.device) else "cpu"

    def engine(self, weights: Weights) -> Engine:
        return self.engines(weights)[0]

    def engines(self, *weights: Weights) -> list[Engine]:
        """An engine for each, open at the same time."""
        asked = {each.label: each for each in weights}
        if not all(self._have(each) for each in asked.values()):
            places = {self._place(each) for each in asked.values()}
            if self._device == "cuda" or len(self._opened) + len(places) > 3:
                self.close()
            self._progress.note("starting the engine")
            for each in asked.values():
                if not self._have(each):
                    self._opened[self._place(each)] = self._open(each, asked.values(), share=1 / len(places))
                    assert self._have(each)
            self._progress.note("")
        return [self._engines[each.label] for each in weights]

    def _place(self, weights: Weights) -> str:
        """Weights of the same place share an engine."""
        shared, _ = self._shared(weights)
        if not shared or isinstance(weights.source, Endpoint):
            return weights.label
        # Whether code may run that comes with a model is decided for each on its own.
        return f"shared {Weights(weights.source).label} {weights.source.reference.trust_remote_code}"

    def _shared(self, weights: Weights) -> tuple[bool, Path | None]:
        """Whether these can share an engine with others of their base model, and the adapter that they then go by."""
        if self._device == "cpu" or self._kind == "scripted" or isinstance(weights.source, Endpoint):
            return False, None
        if weights.trained is None:
            return True, None
        artifact = self._store.artifact(weights.trained.name, weights.trained.key)
        if not artifact.finished:
            return False, None
        folder = trained_folder(artifact.directory)
        return (True, folder) if folder.name != "model" else (False, None)

    def _have(self, weights: Weights) -> bool:
        """Whether an engine is open for these."""
        if weights.label in self._engines:
            return True
        opened = self._opened.get(self._place(weights))
        if opened is None:
            return False
        shared, adapter = self._shared(weights)
        if shared:
            from charforge.engine.vllm import VllmEngine

            assert isinstance(opened, VllmEngine)
            if not opened.serves(adapter):
                return False
            opened = opened.under(adapter)
        self._engines[weights.label] = opened
        return True

    def scorer(self, weights: Weights) -> Scorer:
        assert not isinstance(weights.source, Endpoint)
        if self._scorer is None or self._scorer[0] != weights.label:
            from charforge.engine.scoring import Scorer

            if self._device == "cuda":
                self.close()
            self._scorer = None
            self._scorer = (weights.label, Scorer(weights.source, self.folder(weights), device=self._device))
        return self._scorer[1]

    def folder(self, weights: Weights) -> Path:
        """A folder with the whole model, what was trained merged into it."""
        assert not isinstance(weights.source, Endpoint)
        base, trained = fetch(weights.source), weights.trained
        if trained is None:
            return base
        result = trained_folder(self._store.artifact(trained.name, trained.key).directory)
        if result.name == "model":
            return result
        source = weights.source
        self._progress.note("merging the adapter")
        folder = self._store.cached_folder(trained.key[:24], lambda target: merge_adapter(source, base, result, target))
        self._progress.note("")
        return folder

    def _open(self, weights: Weights, asked: Iterable[Weights], share: float) -> Engine:
        if self._kind == "scripted":
            from charforge.engine.scripted import ScriptedEngine

            return ScriptedEngine(trained=weights.trained is not None)
        if isinstance(weights.source, Endpoint):
            from charforge.engine.endpoint import EndpointEngine

            runtime = self._runtime
            return EndpointEngine(
                weights.source, concurrency=runtime.endpoint_concurrency, retries=runtime.endpoint_retries
            )
        from charforge.engine.vllm import VllmEngine

        if self._device == "cuda":
            self._scorer = None
        settings = self._runtime.vllm
        if share < 1:
            settings = settings.model_copy(update={"memory": settings.memory * share})
        place, adapters = self._place(weights), dict[Path, None]()
        if self._shared(weights)[0]:
            same = (self._shared(each)[1] for each in (*asked, *self._expected) if self._place(each) == place)
            adapters = dict.fromkeys(adapter for adapter in same if adapter is not None)
        folder = fetch(weights.source) if adapters else self.folder(weights)
        return VllmEngine(weights.source, folder, settings, device=self._device, adapters=list(adapters))

    def close(self) -> None:
        for engine in self._opened.values():
            engine.close()
        self._opened.clear()
        self._engines.clear()
        if self._device == "cuda" and self._scorer is None:
            import gc

            gc.collect()


def main(job_file: Path) -> int:
    job: dict[str, Any] = json.loads(job_file.read_text(encoding="utf-8"))
    progress = Progress(int(os.environ["CHARFORGE_EVENTS"]) if "CHARFORGE_EVENTS" in os.environ else None)
    recipe = Recipe.model_validate(job["recipe"])
    plan = pipeline.PLANS[job["plan"]](load(Path(recipe.constitution)), recipe, **job["options"])
    store = Store(Path(job["store"]))
    todo = [plan.stage(name) for name in job["stages"]]
    expected = [stage.weights for stage in todo if stage.weights is not None]
    held = Held(recipe.engine, recipe.runtime, store, progress, expected)
    for place, (stage, key) in enumerate(zip(todo, job["keys"], strict=True)):
        if stage.key != key:
            progress.event(
                "error",
                message="an input changed while the run was under way",
                hint="give the same command again",
            )
            return 1
        progress.event("start", stage=stage.name)
        ahead = tuple(todo[place + 1 :])
        about = run_stage(plan, stage, store, held, progress, fresh=stage.name in job["fresh"], ahead=ahead)
        progress.event("finish", about=about)
    held.close()
    return 0


def run_stage(
    plan: pipeline.Plan,
    stage: Stage,
    store: Store,
    held: Held,
    progress: Progress,
    *,
    fresh: bool,
    ahead: tuple[Stage, ...] = (),
) -> dict[str, Any]:
    """Run one stage and finish its artifact."""
    artifact = store.artifact(stage.name, stage.key)
    work = Work(
        stage=stage,
        artifact=artifact,
        recipe=plan.recipe,
        constitution=plan.constitution,
        store=store,
        resources=held,
        progress=progress,
        inputs={role: store.artifact(s.name, s.key).directory for role, s in stage.inputs.items()},
        ahead=ahead,
        fresh=fresh,
    )
    artifact.directory.mkdir(parents=True, exist_ok=True)
    result = stage.run(work)
    about = {"stage_version": stage.version, "result": result, "environment": pipeline.environment_report()}
    inputs = {role: store.artifact(source.name, source.key) for role, source in stage.inputs.items()}
    artifact.finish(identity=stage.identity, inputs=inputs, about=about)
    return about


if __name__ == "__main__":
    die_with_parent()
    try:
        code = main(Path(sys.argv[1]))
    except CharforgeError as problem:
        traceback.print_exc()
        Progress(int(os.environ["CHARFORGE_EVENTS"])).event(
            "error",
            message=problem.message,
            place=str(problem.place) if problem.place else None,
            hint=problem.hint,
            exit_code=problem.exit_code,
        )
        code = 1
    except OSError as problem:
        traceback.print_exc()
        hint = "free some space, then give the same command again" if problem.errno == 28 else None
        Progress(int(os.environ["CHARFORGE_EVENTS"])).event(
            "error", message=f"{problem.strerror}: {problem.filename}", hint=hint
        )
        code = 1
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of an engine that is already gone must not keep this process alive.
    os._exit(code)
