"""Starts the trainer: in a process of its own, in several through accelerate, or with DeepSpeed ZeRO-2 or ZeRO-3.

The trainer reads a job file and writes its events where it is told, so one process or many make no difference to us.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from charforge.engine.device import preload, thread_environment, uses_cuda
from charforge.errors import StageError, missing_extra
from charforge.stage import Work
from charforge.store import Row, write_atomic
from charforge.train.stages import job

_RESULT = "result.json"


def launch(work: Work) -> Row:
    """Run the trainer to its end and return what it reports: counts, steps, versions.

    Raises:
        StageError: if it fails, with the last lines of its log.
    """
    description = job(work)
    logs = work.directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    job_file = logs / "job.json"
    write_atomic(job_file, json.dumps(description, indent=1))
    result_file = logs / _RESULT
    result_file.unlink(missing_ok=True)
    command, environment = _command(work, job_file)
    log = logs / "trainer.log"
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=output, env=environment, text=True, bufsize=1
        )
        assert process.stdout is not None
        for line in process.stdout:
            _relay(line, work, output)
        code = process.wait()
    if code != 0 or not result_file.is_file():
        raise _failure(log, code)
    result: Row = json.loads(result_file.read_text(encoding="utf-8"))
    return result


def _relay(line: str, work: Work, output: Any) -> None:
    """Events of the trainer go to the progress display, everything else to the log."""
    if line.startswith('{"event"'):
        event = json.loads(line)
        kind = event.pop("event")
        if kind == "total":
            work.progress.total(event["total"], "steps", event["done"])
        elif kind == "advance":
            work.progress.advance(event["done"], tokens=event["tokens"], note=event["note"])
        return
    output.write(line)


def _command(work: Work, job_file: Path) -> tuple[list[str], dict[str, str]]:
    runtime = work.recipe.runtime
    cuda = uses_cuda(runtime.device)
    environment = {
        **os.environ,
        **thread_environment(1 if runtime.launcher == "single" else runtime.processes),
    }
    environment |= {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if not cuda:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if not runtime.launcher.startswith("deepspeed"):
            environment["ACCELERATE_USE_CPU"] = "true"
        environment |= preload()
    module = ["-m", "charforge.train.trainer", str(job_file)]
    if runtime.launcher == "single":
        if cuda:
            # One process on one GPU, even where there are more: several would be wrapped in DataParallel.
            environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
        return [sys.executable, *module], environment
    if runtime.launcher.startswith("deepspeed"):
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise missing_extra("deepspeed", error) from error
    # torchrun tells every process its rank. `accelerate launch` does the same on GPUs, and on CPUs would ask for MPI;
    # DeepSpeed started bare would look for MPI, too.
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={runtime.processes}"]
    return [sys.executable, *launcher, *module], environment


def _failure(log: Path, code: int) -> StageError:
    text = log.read_text(encoding="utf-8", errors="replace")
    message = next(
        (line.removeprefix("charforge: ") for line in reversed(text.splitlines()) if line.startswith("charforge: ")),
        None,
    )
    if message:
        return StageError(message, place=str(log))
    if "out of memory" in text.lower() or code in (-9, 137):
        return StageError(
            "training ran out of memory",
            place=str(log),
            hint="lower runtime.micro_batch or sft.max_length / dpo.max_length, or set "
            "runtime.gradient_checkpointing: true, or use runtime.launcher: deepspeed-zero3",
        )
    tail = "\n".join(text.splitlines()[-12:])
    return StageError(f"the trainer ended with exit code {code}. The end of its log:\n{tail}", place=str(log))
