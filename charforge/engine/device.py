"""Which device there is, and the environment that child processes need on it. No torch: the parent asks too."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_TCMALLOC = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")


def uses_cuda(device: str) -> bool:
    """Whether models run on an NVIDIA GPU: as told, or if there is one."""
    if device == "auto":
        if os.environ.get("CHARFORGE_CPU"):
            return False
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None and visible.strip() in ("", "-1"):
            return False
        return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    return device == "cuda"


def cores() -> int:
    return len(os.sched_getaffinity(0))


def thread_environment(processes: int) -> dict[str, str]:
    """Threads per process so that together they take the machine once: more of them spin and wait for each other."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // max(1, processes)))}


def preload() -> dict[str, str]:
    """tcmalloc, where installed: training on CPU spends much of its time on page faults with glibc's malloc."""
    if "LD_PRELOAD" in os.environ:
        return {}
    for name in _TCMALLOC:
        path = Path(f"/usr/lib/{platform.machine()}-linux-gnu/{name}")
        if path.exists():
            return {"LD_PRELOAD": str(path)}
    return {}
