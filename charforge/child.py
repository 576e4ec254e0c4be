"""Child processes: each in a process group of its own, with its events on a pipe, and gone when we are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charforge.engine.device import preload, thread_environment, uses_cuda
from charforge.recipe import Runtime

Event = dict[str, Any]


@contextmanager
def child(
    command: list[str], log: Path, handle: Callable[[Event], None], runtime: Runtime
) -> Iterator[subprocess.Popen[bytes]]:
    """A child whose standard input is a pipe that ends when we do, and whose output goes to the log.

    Its events are JSON lines on the file descriptor in CHARFORGE_EVENTS; `handle` gets each, on a thread of its own. What is
    left of the child's group is ended at the end.
    """
    reading, writing = os.pipe()
    environment = {**os.environ, **thread_environment(1), "CHARFORGE_EVENTS": str(writing)}
    environment |= {
        # A file in the working folder that is called like a module is not that module.
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if not uses_cuda(runtime.device):
        environment |= {"CUDA_VISIBLE_DEVICES": "", **preload()}
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=(writing,),
                start_new_session=True,
            )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)

    def relay() -> None:
        with os.fdopen(reading, encoding="utf-8") as events:
            for line in events:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                handle(event)

    listener = threading.Thread(target=relay, daemon=True)
    listener.start()
    try:
        yield process
        listener.join(timeout=10)
    finally:
        # Whatever is left of the group: an engine's own children, or everything, if we were interrupted.
        _end_group(process)
        listener.join(timeout=5)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        if number is signal.SIGTERM and process.poll() is not None:
            time.sleep(0.05)
    process.wait()
    if process.stdin:
        process.stdin.close()


def ended(log: Path, code: int, begin: int = 0) -> str:
    """In words, why a child ended that said nothing itself: its exit code, and the end of its log (from byte `begin`)."""
    text = log.read_bytes()[begin:].decode("utf-8", errors="replace") if log.is_file() else ""
    tail = "\n".join("    " + line for line in text.splitlines()[-12:])
    reason = f"its process ended with exit code {code}"
    if code in (-9, 137):
        reason = "its process was killed, most likely because memory ran out"
    elif "out of memory" in text.lower():
        reason = "it ran out of memory (lower runtime.vllm.concurrency, runtime.vllm.memory or runtime.score_batch)"
    return f"{reason}. The end of its log:\n{tail}"


def die_with_parent(line: Callable[[bytes], None] = lambda _: None) -> None:
    """In the child: when the parent's end of our standard input is closed, we end, and all our children.

    `line` gets what the parent writes to it meanwhile, a line at a time, on a thread of its own.
    """

    def watch() -> None:
        for each in sys.stdin.buffer:
            line(each)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
