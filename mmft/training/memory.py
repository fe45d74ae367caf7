"""Current and peak memory of a device's tensors, or of this process."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux only
_KIB_OR_BYTES = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss


def held_bytes(device: torch.device) -> int:
    """Bytes that torch currently holds on a GPU, or the resident set size of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _of_status("VmRSS") or peak_bytes(device)


def peak_bytes(device: torch.device) -> int:
    """Peak of `held_bytes` since `forget_peak`; since the start if the system cannot reset it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _of_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB_OR_BYTES


def forget_peak(device: torch.device) -> None:
    """Resets the peak to the current value."""
    if device.type == "cuda":
        torch.cuda.init()  # torch raises on a reset before initialisation
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text("5")  # see proc(5)
    except OSError:
        return


def release_unused() -> None:
    """Returns freed memory, which glibc would keep, to the system, so that `held_bytes` measures memory in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _of_status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
