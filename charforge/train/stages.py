"""The two training stages: what determines the weights, and how the trainer is started. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charforge.models import fetch, resolve
from charforge.recipe import Recipe
from charforge.stage import Stage, Work
from charforge.store import Row

SFT, DPO = "sft", "dpo"


def stage(name: str, recipe: Recipe, preferences: Stage, after: Stage | None) -> Stage:
    """`sft` or `dpo`; the latter continues what `after` trained."""
    settings = recipe.sft if name == SFT else recipe.dpo
    identity: dict[str, Any] = {
        "seed": recipe.seed,
        "model": resolve(recipe.model).identity,
        "method": recipe.method,
        # How often a checkpoint is written does not change what is trained.
        "settings": settings.model_dump(mode="json", exclude={"save_steps", "max_dropped"}),
        "sharded": _sharding(recipe),
    }
    if recipe.method == "lora":
        identity["lora"] = recipe.lora.model_dump(mode="json")
    inputs = {"preferences": preferences}
    if after is not None:
        inputs["trained"] = after
    return Stage(
        name=name,
        version=1,
        identity=identity,
        inputs=inputs,
        process=f"train:{name}",
        run=run,
    )


def _sharding(recipe: Recipe) -> str:
    """ZeRO-3 trains the adapter in the model's precision, the others in float32: that is no mere matter of runtime."""
    return "zero3" if recipe.runtime.launcher == "deepspeed-zero3" else "none"


def run(work: Work) -> Row:
    from charforge.train import launcher

    return launcher.launch(work)


def trained_folder(artifact: Path) -> Path:
    """Where a finished training artifact, or a character, holds its adapter, or else its whole model."""
    whole = artifact / "model"
    return whole if whole.is_dir() else artifact / "adapter"


def job(work: Work) -> dict[str, Any]:
    """Everything the trainer needs, as plain data: it may run in several processes that share only a file."""
    recipe = work.recipe
    name = work.stage.name
    settings = recipe.sft if name == SFT else recipe.dpo
    resolved = resolve(recipe.model)
    return {
        "stage": name,
        "directory": str(work.directory),
        "data": str(work.inputs["preferences"] / ("sft.jsonl" if name == SFT else "pairs.jsonl")),
        "model": recipe.model.model_dump(mode="json"),
        "model_folder": str(fetch(resolved)),
        "start_from": str(trained_folder(work.inputs["trained"])) if "trained" in work.inputs else None,
        "method": recipe.method,
        "lora": recipe.lora.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "seed": recipe.seed,
        "runtime": recipe.runtime.model_dump(mode="json"),
    }
