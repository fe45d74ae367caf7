"""Processor and GPUs, as the doctor sees them."""

from __future__ import annotations

import pytest
import torch

from mmft.reports.machine import devices
from mmft.reports.machine.devices import cpu, gpus, no_gpu


def test_cpu() -> None:
    assert " cores, " in cpu().value
    assert cpu().wrong is None


@pytest.mark.parametrize(
    ("built", "driver", "visible", "said"),
    [
        (None, None, None, None),
        ("13.0", None, None, None),  # a machine without a GPU
        (None, (12, 8), None, "CPU build"),
        ("13.0", (12, 8), None, "Update the driver"),
        ("12.9", (12, 4), None, "nvidia-smi"),  # within one major version they get on
        ("12.8", (12, 8), "", "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_why_there_is_no_gpu(
    built: str | None, driver: tuple[int, int] | None, visible: str | None, said: str | None
) -> None:
    wrong = no_gpu(built, driver, visible)
    assert wrong is None if said is None else said in (wrong or "")


def test_gpus_and_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_version", lambda: (12, 4))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    none, cuda = gpus()
    assert (none.value, cuda.value) == ("none", "torch 13.0, driver 12.4")
    assert none.wrong is not None
    assert not none.fatal
    about = type("About", (), {"name": "H200", "major": 9})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**37))
    first, second, _ = gpus()
    assert (first.name, second.name) == ("gpu 0", "gpu 1")
    assert first.value == "H200, 128.0 GiB (1.0 GiB free), bfloat16 in hardware"
