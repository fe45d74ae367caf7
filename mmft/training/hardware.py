"""Detects a GPU and hardware bfloat16, and resolves `auto`."""

from __future__ import annotations

from typing import Literal

import torch

from mmft.config.schema.trainer import TrainerConfig
from mmft.errors import UserError
from mmft.ranks import started


def device_of(accelerator: str) -> torch.device:
    """Resolves `auto`, `cpu` or `gpu` to a device.

    Raises:
        UserError: `gpu` is requested but there is none.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError("trainer.accelerator=gpu: torch sees no GPU here. Type trainer.accelerator=auto or cpu.")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 in hardware; emulated it is slow, and no closer to a GPU's results."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def auto_precision(device: torch.device) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """The precision that `trainer.precision=auto` means on the device."""
    if has_bf16(device):
        return "bf16-mixed"
    return "16-mixed" if device.type == "cuda" else "32-true"


def choose_hardware(config: TrainerConfig, ranks: int = 1) -> torch.device:
    """Replaces `auto` in `trainer` by what this machine has, so that config.yaml records what was used.

    Args:
        config: `trainer`; changed in place.
        ranks: processes of this run on this machine.

    Raises:
        UserError: a GPU is requested but there is none, or there are fewer processes than devices.
    """
    if ranks == 1 and (config.devices or 1) > 1:
        raise UserError(
            f"trainer.devices={config.devices}: this is a single process. `mmft train` starts one per device; "
            "from Python, start this program with torchrun."
        )
    if config.strategy == "fsdp" and started().world == 1:
        raise UserError(
            "trainer.strategy=fsdp shards the model over several devices, but there is only one. "
            "Type trainer=auto, or on a CPU trainer.accelerator=cpu trainer.devices=2."
        )
    config.devices = ranks
    device = device_of(config.accelerator)
    config.accelerator = "gpu" if device.type == "cuda" else "cpu"
    if config.precision == "auto":
        config.precision = auto_precision(device)
    return device
