"""The machine: card, versions, and what `mmft doctor` finds wrong."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gpu.setting import MIB, Setting
from mmft.training.hardware import auto_precision

PACKAGES = ("torch", "transformers", "timm", "peft", "lightning", "hydra-core", "omegaconf", "bitsandbytes")


def measure(setting: Setting) -> None:
    """One row, and the line above the table."""
    about = {"card": "none, a CPU"}
    if setting.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        memory = f"{card.total_memory // MIB} MiB"
        about = {"card": card.name, "memory": memory, "capability": f"{card.major}.{card.minor}"}
    setting.write_about({**about, "cuda": str(torch.version.cuda), "python": platform.python_version(), **_versions()})
    setting.note("trainer.precision=auto stands for", auto_precision(setting.place))
    shapes, given = setting.shapes, Path(setting.encoders)
    real = [path.is_relative_to(given) for path in (shapes.image_encoder, shapes.text_encoder)]
    setting.note("real weights of the image and the text encoder", " and ".join("yes" if one else "no" for one in real))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
