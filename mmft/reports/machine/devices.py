"""Processor and GPUs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmft.reports.machine.diagnosis import Diagnosis, size

Version = tuple[int, int]


def cpu() -> Diagnosis:
    """Cores available to this process, memory, and whether bfloat16 is supported in hardware."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parts = [f"{cores} cores", f"{size(total)} of memory{_free()}"]
    try:
        import torch

        from mmft.training.hardware import has_bf16

        parts.append("bfloat16 in hardware" if has_bf16(torch.device("cpu")) else "no bfloat16 in hardware")
    except Exception:  # noqa: BLE001, S110 - `packages` reports that torch does not import
        pass
    return Diagnosis("cpu", ", ".join(parts))


def _free() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return f" ({size(1024 * int(found[0]))} free)" if found else ""


def gpus() -> Iterator[Diagnosis]:
    """One line per GPU that torch sees, and the CUDA versions of torch and the driver."""
    try:
        import torch
    except Exception:  # noqa: BLE001 - `packages` reports it
        return
    driver, built = driver_version(), torch.version.cuda
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(seen):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        yield Diagnosis(f"gpu {index}", f"{about.name}, {size(total)} ({size(free)} free){_bf16(about)}")
    if not seen:
        yield Diagnosis("gpu", "none", no_gpu(built, driver, os.environ.get("CUDA_VISIBLE_DEVICES")))
    yield Diagnosis("cuda", f"torch {built or 'without'}, driver {'none' if driver is None else _dotted(driver)}")


def _bf16(about: Any) -> str:
    return ", bfloat16 in hardware" if about.major >= 8 else ", no bfloat16 in hardware"


def driver_version() -> Version | None:
    """The newest CUDA version that the NVIDIA driver supports; None without a driver."""
    found = ctypes.c_int()
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return (found.value // 1000, found.value % 1000 // 10) if found.value else None


def no_gpu(built: str | None, driver: Version | None, visible: str | None) -> str | None:
    """Why torch sees no GPU although there is a driver; None without a driver, when nothing is wrong.

    Args:
        built: the CUDA version that torch is built for; None for a CPU build.
        driver: the CUDA version that the driver supports.
        visible: `CUDA_VISIBLE_DEVICES`.
    """
    if driver is None:
        return None
    if visible in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides it. Type unset CUDA_VISIBLE_DEVICES"
    if built is None:
        return (
            f"the driver supports CUDA {_dotted(driver)}, but torch is a CPU build. Install a CUDA build of torch "
            "and of torchvision"
        )
    if int(built.partition(".")[0]) > driver[0]:
        return (
            f"torch is built for CUDA {built}, the driver supports {_dotted(driver)}. Update the driver, or install a "
            f"torch and a torchvision built for CUDA {driver[0]}"
        )
    return "there is a driver, but torch sees no GPU. Run nvidia-smi for details"


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
