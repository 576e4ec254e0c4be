"""A child process that runs stages which share an engine, a scorer or a trainer, one after the other.

Started by the pipeline as ``python -m charforge.worker JOB.json``. It plans the same recipe again, so that it knows exactly
the stages that the parent knows, and says on the events pipe how far it is. If the parent dies, it dies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge import pipeline
from charforge.constitution import load
from charforge.engine.device import uses_cuda
from charforge.errors import CharforgeError
from charforge.models import ResolvedModel, fetch, merge_adapter
from charforge.recipe import Endpoint, Recipe
from charforge.stage import Progress, Stage, Weights, Work
from charforge.store import Store
from charforge.train.stages import trained_folder

if TYPE_CHECKING:
    from charforge.engine import Engine
    from charforge.engine.scoring import Scorer


class Held:
    """The engine and the scorer that this process holds; both are opened when a stage first needs them."""

    def __init__(self, plan: pipeline.Plan, store: Store, progress: Progress) -> None:
        self._plan = plan
        self._store = store
        self._progress = progress
        self._engine: tuple[str, Engine] | None = None
        self._scorer: tuple[str, Scorer] | None = None

    def engine(self, weights: Weights) -> Engine:
        if self._engine is None or self._engine[0] != weights.label:
            self.close()
            self._progress.note("starting the engine")
            self._engine = (weights.label, self._open(weights))
            self._progress.note("")
        return self._engine[1]

    def scorer(self, model: ResolvedModel) -> Scorer:
        if self._scorer is None or self._scorer[0] != model.digest:
            from charforge.engine.scoring import Scorer

            device = "cuda" if uses_cuda(self._plan.recipe.runtime.device) else "cpu"
            self._scorer = None
            self._scorer = (model.digest, Scorer(model, fetch(model), device=device))
        return self._scorer[1]

    def _open(self, weights: Weights) -> Engine:
        recipe = self._plan.recipe
        if recipe.engine == "scripted":
            from charforge.engine.scripted import ScriptedEngine

            return ScriptedEngine(trained=weights.trained_by is not None)
        if isinstance(weights.source, Endpoint):
            from charforge.engine.endpoint import EndpointEngine

            runtime = recipe.runtime
            return EndpointEngine(
                weights.source, concurrency=runtime.endpoint_concurrency, retries=runtime.endpoint_retries
            )
        from charforge.engine.vllm import VllmEngine

        cuda = uses_cuda(recipe.runtime.device)
        folder = fetch(weights.source)
        adapter: Path | None = None
        if weights.trained_by is not None:
            trained = self._plan.stage(weights.trained_by)
            result = trained_folder(self._store.artifact(trained.name, trained.key).directory, recipe)
            if recipe.method == "full":
                folder = result
            elif cuda:
                adapter = result
            else:
                source, base = weights.source, folder
                self._progress.note("merging the adapter")
                folder = self._store.cached_folder(
                    trained.key[:24], lambda target: merge_adapter(source, base, result, target)
                )
        return VllmEngine(
            weights.source, folder, recipe.runtime.vllm, device="cuda" if cuda else "cpu", adapter=adapter
        )

    def close(self) -> None:
        if self._engine is not None:
            self._engine[1].close()
            self._engine = None


def main(job_file: Path) -> int:
    job: dict[str, Any] = json.loads(job_file.read_text(encoding="utf-8"))
    progress = Progress(int(os.environ["CHARFORGE_EVENTS"]) if "CHARFORGE_EVENTS" in os.environ else None)
    recipe = Recipe.model_validate(job["recipe"])
    plan = pipeline.PLANS[job["plan"]](load(Path(recipe.constitution)), recipe, **job["options"])
    store = Store(Path(job["store"]))
    held = Held(plan, store, progress)
    for name, key in zip(job["stages"], job["keys"], strict=True):
        stage = plan.stage(name)
        if stage.key != key:
            progress.event(
                "error",
                message="an input changed while the run was under way",
                hint="give the same command again",
            )
            return 1
        progress.event("start", stage=name)
        about = run_stage(plan, stage, store, held, progress, fresh=name in job["fresh"])
        progress.event("finish", about=about)
    held.close()
    return 0


def run_stage(
    plan: pipeline.Plan, stage: Stage, store: Store, held: Held, progress: Progress, *, fresh: bool
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
        fresh=fresh,
    )
    artifact.directory.mkdir(parents=True, exist_ok=True)
    result = stage.run(work)
    about = {"stage_version": stage.version, "result": result, "environment": pipeline.environment_report()}
    inputs = {role: store.artifact(source.name, source.key) for role, source in stage.inputs.items()}
    artifact.finish(identity=stage.identity, inputs=inputs, about=about)
    return about


def _die_with_parent() -> None:
    """The parent holds the other end of our standard input; when it ends, so do we and all our children."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _die_with_parent()
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
