"""`WeightAveraging`: an exponential moving average of the trained weights, for validation and the finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mmft.training.checkpoint import read
from mmft.training.module import FineTuning


class WeightAveraging(pl.Callback):
    """After every optimizer step, `average = d * average + (1 - d) * weights` (Polyak and Juditsky 1992).

    It covers all trained parameters, and the floating point buffers of trained parts (BatchNorm's statistics). Layers
    that are unfrozen later are averaged from the start, as constants until then. The average replaces the weights
    during validation and at the end of training; otherwise training continues from its own weights. Checkpoints hold
    both. The cost is one more copy of the trained weights. Ranks have equal weights, and so equal averages. Must
    precede `Checkpointing`, which saves the average of the current step.

    Args:
        decay: d, above 0 and below 1.
        warmup: limits d to (1 + t) / (10 + t) in step t, from 0, so that the random initial head is soon forgotten (as
            in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, decay: float, warmup: bool) -> None:
        self.decay = decay
        self.warmup = warmup
        self._weights: dict[str, Tensor] = {}  # the model's tensors, by checkpoint name
        self._averages: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from the initial weights or a checkpoint's average; the model is on its device now."""
        assert isinstance(pl_module, FineTuning)
        self._weights, loaded = _averaged(pl_module), self._averages
        self._averages = {
            name: (loaded[name] if loaded else value).detach().to(value, copy=True)
            for name, value in self._weights.items()
        }

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Updates the average after an optimizer step."""
        with torch.no_grad():
            share = 1 - self.decay_at(trainer.global_step - 1)
            torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), share)

    def decay_at(self, step: int) -> float:
        """The decay at optimizer step `step`, from 0."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swaps in the average for validation."""
        self._exchange()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swaps the training weights back in."""
        self._exchange()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the average in the model."""
        self._exchange()
        self._weights, self._averages = {}, {}

    def _exchange(self) -> None:
        with torch.inference_mode(False):  # validation runs in it, but its tensors could not be trained
            for name, tensor in self._weights.items():
                tensor.data, self._averages[name] = self._averages[name], tensor.data

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"averages": dict(self._averages)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._averages = state_dict["averages"]


def validated_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights that a checkpoint's validation used, by name: the average if there is one, else training's."""
    saved = read(checkpoint)
    averaged: dict[str, Tensor] = saved["callbacks"].get(WeightAveraging.__name__, {"averages": {}})["averages"]
    return {**saved["state_dict"], **averaged}


def _averaged(module: FineTuning) -> dict[str, Tensor]:
    own: dict[str, Tensor] = dict(module.named_buffers())
    trained = {f"model.{name}" for name in module.plan.names}
    own |= {name: p for name, p in module.named_parameters() if name in trained}
    saved = module.saved_names
    return {name: value for name, value in own.items() if name in saved and value.is_floating_point()}
