"""Public benchmarks through the lm-evaluation-harness (Gao et al. 2021, github.com/EleutherAI/lm-evaluation-harness).

An option beside the shipped sets (`retention`), for numbers that others publish too: `charforge eval CHARACTER --harness
TASK`. The tasks' data come from where the harness gets them, or from task files of your own in a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from charforge.engine.device import uses_cuda
from charforge.errors import StageError, UserError, did_you_mean, missing_extra
from charforge.evaluate.findings import Findings, Number
from charforge.stage import Stage, Weights, Work
from charforge.statistics import Estimate, share
from charforge.store import Row, write_atomic, write_rows

NAME = "harness"
# Metrics of the harness that are means of what lies between 0 and 1.
_SHARE = re.compile(r"(?:acc|exact_match|em|f1|mc[12]|pass|contains)(?:_|@|\b)")


def stages(
    tasks: Sequence[str], limit: int | None, folder: str | None, arms: Sequence[tuple[str, Weights]], process: str
) -> list[Stage]:
    """A stage for each arm that has weights of its own, and one that reads: no arm is told anything by a system prompt."""
    asked = {
        name: Stage(
            name=f"{NAME}-{name}",
            version=1,
            identity={"tasks": list(tasks), "limit": limit, "arm": name, "student": weights.identity, "folder": folder},
            inputs={"trained": weights.trained} if weights.trained else {},
            process=process,
            run=partial(_run, name, tuple(tasks), limit, folder),
            weights=weights,
        )
        for name, weights in arms
    }
    measure = Stage(
        name=f"measure-{NAME}",
        version=2,
        identity={"tasks": list(tasks)},
        inputs={f"said:{name}": stage for name, stage in asked.items()},
        process=process,
        run=_measure,
    )
    return [*asked.values(), measure]


def _run(arm: str, tasks: Sequence[str], limit: int | None, folder: str | None, work: Work) -> Row:
    assert work.stage.weights is not None
    device = "cuda" if uses_cuda(work.recipe.runtime.device) else "cpu"
    model = work.resources.folder(work.stage.weights)
    work.progress.note("lm-evaluation-harness")
    found = run_tasks(model, tasks, limit, task_folder=folder, device=device, seed=work.recipe.seed)
    write_rows(work.directory / "rows.jsonl", [{"kind": "task", "suite": NAME, "arm": arm, **row} for row in found])
    return {"rows": len(found)}


def _measure(work: Work) -> Row:
    rows = [row for role in work.stage.inputs for row in work.rows(role)]
    for row in rows:
        row["base"], row["condition"] = row["task"], f"{row['task']}: {row['metric']} ({row['filter']})"
    numbers = []
    for row in rows:
        estimate, bounds = _estimate(row)
        why = None if estimate else "the harness gave no number"
        numbers.append(Number("harness", row["arm"], estimate, row["condition"], why=why, range=bounds))
    write_rows(work.directory / "rows.jsonl", rows)
    data = {"suite": NAME, "version": 1, "measure": NAME, **Findings(numbers).as_dict()}
    write_atomic(work.directory / "measures.json", json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    return {"rows": len(rows), "numbers": len(numbers)}


def _estimate(row: Row) -> tuple[Estimate | None, tuple[float, float] | None]:
    """The harness's number with an interval, and what bounds it.

    An accuracy has the interval of a share, at the number of questions that its standard error amounts to, as in
    `statistics.proportion`; another metric 1.96 standard errors on both sides.
    """
    value, error, n = row["value"], row["error"], row["n"] or 0
    if value is None:
        return None, None
    if _SHARE.match(row["metric"]) and 0 <= value <= 1 and n > 0:
        effective = value * (1 - value) / error**2 if error else n
        low, high = share(value, max(1.0, min(effective, n)))
        return Estimate(value, low, high, n, n), (0.0, 1.0)
    half = 1.96 * error if error is not None else float("nan")
    return Estimate(value, value - half, value + half, n, n), None


def run_tasks(
    model_folder: str | Path,
    tasks: Sequence[str],
    limit: int | None = None,
    *,
    task_folder: str | Path | None = None,
    device: str = "cpu",
    chat: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Rows with `task`, `version`, `metric`, `filter`, `value`, `error` (standard error), `n` and `fewshot`.

    `task_folder` holds task files of your own in the harness's format; `limit` keeps the first so many questions of each
    task; with `chat` questions go through the chat template. Where the harness has no number, value or error is None.

    Raises:
        UserError: without the package, the model's folder, or a task of that name.
        StageError: if the harness gives no result.
    """
    try:
        import lm_eval  # type: ignore[import-not-found]
        from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]
    except ImportError as error:
        raise missing_extra("harness", error) from error
    if not (Path(model_folder) / "config.json").is_file():
        raise UserError("there is no model here", place=str(model_folder), hint="give the folder of a whole model")
    manager = TaskManager(include_path=str(task_folder) if task_folder else None)
    for task in tasks:
        if not manager.match_tasks([task]):
            raise UserError(f"the harness has no task {task!r}{did_you_mean(task, manager.all_tasks)}")
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model_folder)},
        tasks=list(tasks),
        limit=limit,
        device=device,
        apply_chat_template=chat,
        task_manager=manager,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    if found is None:
        raise StageError("the harness gave no result", place=str(model_folder))
    return read_results(dict(found))


def read_results(found: Row) -> list[Row]:
    """The rows of what `lm_eval.simple_evaluate` returns: one for each task and metric."""
    rows = []
    for task, numbers in found["results"].items():
        for key, value in numbers.items():
            metric, _, name = key.partition(",")
            if not name or metric.endswith("_stderr"):
                continue
            rows.append(
                {
                    "task": task,
                    "version": found["versions"].get(task),
                    "metric": metric,
                    "filter": name,
                    "value": _number(value),
                    "error": _number(numbers.get(f"{metric}_stderr,{name}")),
                    "n": found["n-samples"].get(task, {}).get("effective"),
                    "fewshot": found["n-shot"].get(task),
                }
            )
    return rows


def _number(value: Any) -> float | None:
    """A finite number; the harness writes "N/A" where it has none."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return number if number == number and abs(number) != float("inf") else None
