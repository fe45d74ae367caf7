"""How much memory a device's tensors, or this process, hold and have held."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
_KIB_OR_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def held_bytes(device: torch.device) -> int:
    """Bytes that torch holds on a GPU now, or that this process holds in memory (resident set size)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _of_status("VmRSS") or peak_bytes(device)


def peak_bytes(device: torch.device) -> int:
    """The most that `held_bytes` was since `forget_peak`; where the system cannot forget, since the start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _of_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB_OR_BYTES


def forget_peak(device: torch.device) -> None:
    """The peak is what is held now."""
    if device.type == "cuda":
        torch.cuda.init()  # before it, torch resets nothing and raises
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _CLEAR.write_text("5")  # see proc(5)
    except OSError:
        return


def release_unused() -> None:
    """Gives back to the system what was freed, so that what is held is what is in use; glibc keeps it else."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _of_status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
