"""`LoRA8bit`: guards frozen linear weights in 8 or 4 bits during training."""

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
    """Logs what quantization saves, and checks that the weights are on the device and stay unchanged.

    The weights are quantized with the model (`mmft.tuning.quantize`), since the finished model needs the same. Nothing
    in the libraries protects them: an incidental cast or move (Lightning's precision plugins, `Module.to`) may unpack
    or re-round them, and the run would continue on other weights.

    Args:
        folder: the run's; summary.json gets `quantized`: bytes of the linear weights, and their size in float32.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._digest = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the weights after the model was moved to its device.

        Raises:
            TrainingError: a quantized weight is on another device or no longer quantized.
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
        """Checks that the weights are unchanged.

        Raises:
            TrainingError: they changed, so the finished model could not be rebuilt from its base.
        """
        if digest(pl_module) != self._digest:
            raise TrainingError("The quantized weights changed although they are frozen; do not use the run's model.")


def digest(module: torch.nn.Module) -> str:
    """SHA-256 of all quantized weights, in module order."""
    found = hashlib.sha256()
    for name, layer in quantized_layers(module):
        found.update(name.encode() + layer.weight.detach().cpu().numpy().tobytes())
    return found.hexdigest()
