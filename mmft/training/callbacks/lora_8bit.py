"""`LoRA8bit`: looks after frozen linear weights in 8 or 4 bits while training runs over them."""

from __future__ import annotations

import hashlib
import logging

import lightning.pytorch as pl
import torch

from mmft.errors import TrainingError
from mmft.run_folder import RunFolder
from mmft.tuning.quantize import quantized_layers, weight_bytes

log = logging.getLogger(__name__)


class LoRA8bit(pl.Callback):
    """Says what the quantized weights save, and sees to it that they are on the device and stay as they are.

    The weights are quantized with the model (`mmft.tuning.quantize`), since the finished model needs the same.
    Nothing of a library guards them: a cast or a move that a library makes in passing (Lightning's precision plugins,
    `Module.to`) may unpack or round them again, and the run would go on over other weights.

    Args:
        folder: the run's; summary.json gets `quantized`: bytes of the linear weights, and what float32 would take.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._digest = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the model was moved to its device.

        Raises:
            TrainingError: a quantized weight is not there, or is no longer one.
        """
        device = trainer.strategy.root_device
        for name, layer in quantized_layers(pl_module):
            weight = layer.weight
            if weight.dtype not in (torch.int8, torch.uint8) or weight.device.type != device.type:
                raise TrainingError(f"{name}: its weight is {weight.dtype} on {weight.device}, not packed on {device}")
        self._digest = digest(pl_module)
        own, whole = weight_bytes(pl_module)
        self.folder.update_summary(quantized={"bytes": own, "float32_bytes": whole})
        log.info("quantized linear weights: %.1f MB, in float32 %.1f MB", own / 1e6, whole / 1e6)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """They are what they were.

        Raises:
            TrainingError: they are not, so that the finished model could not be made from its base again.
        """
        if digest(pl_module) != self._digest:
            raise TrainingError(
                "The quantized weights changed while they were frozen; the run's model is not to be used."
            )


def digest(module: torch.nn.Module) -> str:
    """SHA-256 of all quantized weights, in the order of modules."""
    found = hashlib.sha256()
    for name, layer in quantized_layers(module):
        found.update(name.encode() + layer.weight.detach().cpu().numpy().tobytes())
    return found.hexdigest()
