"""The training process: SFT or DPO with TRL, resumable, in one process or under a launcher.

Started as ``python -m charforge.train.trainer JOB.json``. Writes its events as JSON lines to stdout, the trained adapter (or
model) and the loss curve into the artifact's directory, and its result last.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from charforge.constitution import digest
from charforge.models import load_tokenizer, resolve
from charforge.recipe import ModelReference
from charforge.store import read_rows, to_line, write_atomic

_CHECKPOINTS = "checkpoints"
# Settings of the trainer that charforge decides; they have names of their own in the recipe.
_OURS = {
    "output_dir", "seed", "data_seed", "num_train_epochs", "max_steps", "per_device_train_batch_size", "report_to",
    "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "max_length",
    "save_strategy", "save_steps", "gradient_checkpointing", "bf16", "fp16", "deepspeed", "use_cpu", "beta",
    "loss_type", "loss_weights", "precompute_ref_log_probs", "push_to_hub", "resume_from_checkpoint",
}  # fmt: skip


class BadJob(Exception):
    """Something that a person can mend; the message is all they need."""


def check_trainer_args(stage: str, arguments: dict[str, Any]) -> list[str]:
    """What is wrong with a recipe's ``trainer_args``, against the installed TRL. Imports TRL."""
    if not arguments:
        return []
    from trl import DPOConfig, SFTConfig

    from charforge.errors import did_you_mean

    known = {field.name for field in dataclasses.fields(SFTConfig if stage == "sft" else DPOConfig) if field.init}
    problems = []
    for name in arguments:
        if name in _OURS:
            problems.append(f"{stage}.trainer_args.{name}: charforge sets this itself, from the recipe's own keys")
        elif name not in known:
            problems.append(
                f"{stage}.trainer_args.{name}: not known to TRL {version('trl')}{did_you_mean(name, known)}"
            )
    return problems


def main(job_file: Path) -> None:
    job = json.loads(job_file.read_text(encoding="utf-8"))
    directory = Path(job["directory"])
    # A cache of processed data beside the user's own would make a run depend on what ran before.
    os.environ["HF_DATASETS_CACHE"] = str(directory / "tracking" / "datasets")
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(directory / "tracking")
    import torch
    from transformers import set_seed

    if (threads := os.environ.get("OMP_NUM_THREADS")) and threads.isdigit():
        torch.set_num_threads(int(threads))
    set_seed(job["seed"])
    arguments = _arguments(job, directory)
    main_process = int(os.environ.get("RANK", "0")) == 0
    resolved = resolve(ModelReference(**job["model"]))
    tokenizer = load_tokenizer(resolved, Path(job["model_folder"]))
    dataset, counts = _dataset(job, tokenizer)
    trainer = _trainer(job, arguments, dataset, tokenizer)
    seen = len(trainer.train_dataset)
    if seen != counts["rows_kept"]:
        raise BadJob(f"TRL dropped {counts['rows_kept'] - seen} of {counts['rows_kept']} rows without saying why")
    progress = _progress(trainer, directory, main_process)
    trainer.add_callback(progress)
    if job["runtime"]["launcher"].startswith("deepspeed") and _zero_stage(trainer) is None:
        raise BadJob("DeepSpeed was asked for and is not in use")
    checkpoint = _last_checkpoint(directory / _CHECKPOINTS)
    # The order of the rows is drawn from here on: it must not depend on what was computed or found on disk before.
    set_seed(job["seed"])
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _save(trainer, job, directory, tokenizer, main_process)
    if main_process:
        result = {
            **counts,
            "steps": trainer.state.global_step,
            "resumed_from": checkpoint.name if checkpoint else None,
            "device": str(trainer.args.device),
            "processes": trainer.args.world_size,
            "distributed": str(getattr(trainer.accelerator.distributed_type, "value", "NO")),
            "zero_stage": _zero_stage(trainer),
            "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft", "accelerate")},
        }
        curve = [row for row in trainer.state.log_history if "loss" in row]
        if any(not math.isfinite(float(row["loss"])) for row in curve):
            raise BadJob("the loss is not a finite number; lower the learning rate")
        # Checkpoints hold optimizer states as pickles: they serve resuming alone, and go when that is no longer needed.
        shutil.rmtree(directory / _CHECKPOINTS, ignore_errors=True)
        write_atomic(directory / "loss.jsonl", "".join(to_line(_numbers(row)) for row in curve))
        write_atomic(directory / "logs" / "result.json", json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        # All is written. Taking a process group down races with its peers, whose threads now and then abort on a
        # connection that closed first; a process that just ends has nothing left to abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _zero_stage(trainer: Any) -> int | None:
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return int(plugin.zero_stage) if plugin is not None else None


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """A line of the log history as numbers; TRL formats some as text, and counts tokens anew when it is resumed."""
    return {key: round(float(value), 8) for key, value in row.items() if _is_number(value) and key != "num_tokens"}


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _arguments(job: dict[str, Any], directory: Path) -> Any:
    """TRL's config. Creating it first sets up the process group, which ZeRO-3 must find before the model is loaded."""
    from trl import DPOConfig, SFTConfig

    settings, runtime = job["settings"], job["runtime"]
    world = int(os.environ.get("WORLD_SIZE", "1"))
    per_step = settings["batch_size"]
    if per_step % world:
        raise BadJob(f"batch_size {per_step} can not be shared by {world} processes")
    share = per_step // world
    micro = max(size for size in range(1, min(runtime["micro_batch"], share) + 1) if share % size == 0)
    cuda = os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    common: dict[str, Any] = {
        "output_dir": str(directory / _CHECKPOINTS),
        "seed": job["seed"],
        "data_seed": job["seed"],
        "num_train_epochs": settings["epochs"],
        "max_steps": settings["max_steps"] or -1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "learning_rate": settings["learning_rate"],
        "lr_scheduler_type": settings["scheduler"],
        "warmup_steps": settings["warmup"],
        "max_length": settings["max_length"],
        # Rows of similar length share a batch: padding is work that teaches nothing.
        "train_sampling_strategy": "group_by_length",
        "logging_steps": 1,
        "logging_strategy": "steps",
        "save_strategy": "steps",
        "save_steps": settings["save_steps"],
        "save_total_limit": 2,
        "gradient_checkpointing": runtime["gradient_checkpointing"],
        # transformers knows bfloat16 on the CPU only where it is told to use the CPU.
        "bf16": cuda or not runtime["launcher"].startswith("deepspeed"),
        # Told to use the CPU, accelerate would quietly take DDP in place of DeepSpeed, which finds the CPU by itself.
        "use_cpu": not cuda and not runtime["launcher"].startswith("deepspeed"),
        "report_to": list(runtime["report_to"]),
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
        "ddp_find_unused_parameters": False,
    }
    if runtime["launcher"].startswith("deepspeed"):
        common["deepspeed"] = _deepspeed(3 if runtime["launcher"].endswith("3") else 2, cuda)
    common |= settings["trainer_args"]
    arguments: Any
    if job["stage"] == "sft":
        arguments = SFTConfig(**common, completion_only_loss=True)
    else:
        nll = settings["nll_weight"]
        arguments = DPOConfig(
            **common,
            beta=settings["beta"],
            loss_type=["sigmoid", "sft"] if nll else ["sigmoid"],
            loss_weights=[1.0, nll] if nll else None,
            precompute_ref_log_probs=True,
            # Otherwise the rows' lengths, by which they are grouped, would be removed.
            remove_unused_columns=False,
        )
    if "deepspeed" in common and not cuda:
        _count_processes()
    return arguments


def _count_processes() -> None:
    """Correct what accelerate believes about DeepSpeed on CPUs.

    accelerate knows DeepSpeed with a GPU backend, or several CPU processes, but not both: left alone it counts one process
    in each of them, and all would train on the same rows.
    """
    import torch
    from accelerate import PartialState

    shared = PartialState()._shared_state
    if shared["num_processes"] != torch.distributed.get_world_size():
        rank = torch.distributed.get_rank()
        local = int(os.environ.get("LOCAL_RANK", rank))
        count = torch.distributed.get_world_size()
        shared.update(backend="gloo", num_processes=count, process_index=rank, local_process_index=local)


def _deepspeed(zero: int, cuda: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": zero, "overlap_comm": cuda, "contiguous_gradients": cuda},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000,
    }
    if zero == 3:
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return config


def _dataset(job: dict[str, Any], tokenizer: Any) -> tuple[Any, dict[str, int]]:
    """The rows as TRL takes them, and how many were kept. A row that is too long, or teaches nothing, is dropped."""
    settings = job["settings"]
    rows = read_rows(Path(job["data"]))
    sides = ("completion",) if job["stage"] == "sft" else ("chosen", "rejected")
    kept, tokens = [], 0
    for row in rows:
        record: dict[str, Any] = {"prompt": row["prompt"], "length": 0}
        fits = True
        for side in sides:
            reply = [{"role": "assistant", "content": row[side]}]
            prompt = tokenizer.apply_chat_template(
                row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
            whole = tokenizer.apply_chat_template(row["prompt"] + reply, tokenize=True, return_dict=True)["input_ids"]
            fits = fits and len(prompt) < len(whole) <= settings["max_length"] and bool(row[side].strip())
            record[side] = reply
            record["length"] = max(record["length"], len(whole))
            tokens += len(whole)
        if fits:
            kept.append(record)
    dropped = len(rows) - len(kept)
    if not kept:
        raise BadJob(
            f"no row is left to train on: all {len(rows)} are empty or longer than {settings['max_length']} tokens; raise "
            f"{job['stage']}.max_length"
        )
    if dropped > settings["max_dropped"] * len(rows):
        raise BadJob(
            f"{dropped} of {len(rows)} rows are longer than {settings['max_length']} tokens; raise "
            f"{job['stage']}.max_length, or {job['stage']}.max_dropped if that is meant"
        )
    counts = {"rows": len(rows), "rows_kept": len(kept), "rows_dropped": dropped, "tokens": tokens}
    return _on_disk(kept, Path(job["directory"])), counts


def _on_disk(rows: list[dict[str, Any]], directory: Path) -> Any:
    """The rows as a dataset in a file that all processes read: what TRL computes from it, they then find as well."""
    from accelerate import PartialState
    from datasets import Dataset, load_from_disk

    folder = directory / "tracking" / f"data-{digest(rows)[:16]}"
    with PartialState().main_process_first():
        if not folder.is_dir():
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            Dataset.from_list(rows).save_to_disk(part)
            part.replace(folder)
    return load_from_disk(folder)


def _trainer(job: dict[str, Any], arguments: Any, dataset: Any, tokenizer: Any) -> Any:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import AutoModelForCausalLM
    from trl import DPOTrainer, SFTTrainer

    full = job["method"] == "full"
    start = job["start_from"]
    launcher = job["runtime"]["launcher"]
    model = AutoModelForCausalLM.from_pretrained(
        start if full and start else job["model_folder"],
        # LoRA trains float32 matrices on a bfloat16 model; full training needs float32 weights to move by small steps.
        dtype=torch.bfloat16 if arguments.bf16 and not full else torch.float32,
        trust_remote_code=job["model"]["trust_remote_code"],
        use_safetensors=True,
    )
    model.config.use_cache = False
    lora = job["lora"]
    peft_config = None
    if not full and start:
        # ZeRO-3 gathers adapter and model together and wants them in one precision.
        mixed = launcher != "deepspeed-zero3"
        model = PeftModel.from_pretrained(model, start, is_trainable=True, autocast_adapter_dtype=mixed)
    elif not full:
        targets = lora["targets"]
        peft_config = LoraConfig(
            r=lora["r"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
    trainer = SFTTrainer if job["stage"] == "sft" else DPOTrainer
    ready = trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    if "ref" in getattr(ready.model, "peft_config", {}) and not launcher.startswith("deepspeed"):
        # TRL's frozen copy has done its work: the reference log-probabilities are computed. Left in, it would stand in every
        # checkpoint, and transformers, on resuming, would load the copy and leave the trained adapter out.
        ready.model.delete_adapter("ref")
    return ready


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the trainer's state is its last file."""
    whole = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(whole, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)


def _progress(trainer: Any, directory: Path, main_process: bool) -> Any:
    from transformers import TrainerCallback

    class Report(TrainerCallback):  # type: ignore[misc]
        """Tells the launcher how many steps are done; a test may ask it to stop dead after some."""

        tokens = 0

        def emit(self, **event: Any) -> None:
            if main_process:
                print(json.dumps(event), flush=True)

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.emit(event="total", total=state.max_steps, done=state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                total = int(float(logs.get("num_tokens", 0)))
                note = f"loss {float(logs['loss']):.3f}"
                fresh = max(0, total - self.tokens)
                self.tokens = total
                self.emit(event="advance", done=state.global_step, tokens=fresh, note=note)

    return Report()


def _save(trainer: Any, job: dict[str, Any], directory: Path, tokenizer: Any, main_process: bool) -> None:
    """The trained weights as safetensors, the tokenizer with its template, and nothing that runs code on loading."""
    name = "model" if job["method"] == "full" else "adapter"
    target = directory / f".{name}.part"
    if main_process:
        shutil.rmtree(target, ignore_errors=True)
    trainer.save_model(str(target))
    if not main_process:
        return
    shutil.rmtree(target / "ref", ignore_errors=True)
    for pickle in target.rglob("*.bin"):
        pickle.unlink()
    (target / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(target)
    if not list(target.glob("*.safetensors")):
        raise BadJob("the trainer saved no weights")
    _forget_paths(target, job)
    shutil.rmtree(directory / name, ignore_errors=True)
    target.replace(directory / name)


def _forget_paths(folder: Path, job: dict[str, Any]) -> None:
    """The adapter names its base model as the recipe does, not by the folder where it lay on this machine."""
    file = folder / "adapter_config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = job["model"]["name"]
        write_atomic(file, json.dumps(config, indent=2, sort_keys=True))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BadJob as problem:
        print(f"charforge: {problem}", file=sys.stderr)
        sys.exit(1)
