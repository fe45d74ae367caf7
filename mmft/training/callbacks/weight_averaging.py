"""`WeightAveraging`: the exponential moving average of the trained weights, which is what a run is judged by."""

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

    It covers all that is trained, and the floating point buffers of the trained parts (BatchNorm's statistics). What
    thaws later is averaged from the start on, as the constant that it is until then. The average takes the weights'
    place during validation and at the end of training; between, training goes on from its own weights. Both are in
    every checkpoint. Costs one more copy of the trained weights. Ranks, whose weights are equal, have equal averages.
    Goes before `Checkpointing`, which must save the average of the step just done.

    Args:
        decay: d, above 0 and below 1.
        warmup: in the t-th optimizer step, from 0, d is at most (1 + t) / (10 + t), so that the random head of the
            beginning is soon forgotten (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, decay: float, warmup: bool) -> None:
        self.decay = decay
        self.warmup = warmup
        self._weights: dict[str, Tensor] = {}  # the model's own tensors, by their names in a checkpoint
        self._averages: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts from the first weights or from a checkpoint's average; the model is on its device now."""
        assert isinstance(pl_module, FineTuning)
        self._weights, loaded = _averaged(pl_module), self._averages
        self._averages = {
            name: (loaded[name] if loaded else value).detach().to(value, copy=True)
            for name, value in self._weights.items()
        }

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Takes the optimizer step just done into the average."""
        with torch.no_grad():
            share = 1 - self.decay_at(trainer.global_step - 1)
            torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), share)

    def decay_at(self, step: int) -> float:
        """The decay in the optimizer step number `step`, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The average is validated."""
        self._exchange()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on from its own weights."""
        self._exchange()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on the model is the average."""
        self._exchange()
        self._weights, self._averages = {}, {}

    def _exchange(self) -> None:
        with torch.inference_mode(False):  # in which validation runs; what it makes could not be trained with
            for name, tensor in self._weights.items():
                tensor.data, self._averages[name] = self._averages[name], tensor.data

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"averages": dict(self._averages)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self._averages = state_dict["averages"]


def validated_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights that a checkpoint's validation saw, by name: the average's where the run has one, else training's."""
    saved = read(checkpoint)
    averaged: dict[str, Tensor] = saved["callbacks"].get(WeightAveraging.__name__, {"averages": {}})["averages"]
    return {**saved["state_dict"], **averaged}


def _averaged(module: FineTuning) -> dict[str, Tensor]:
    own: dict[str, Tensor] = dict(module.named_buffers())
    trained = {f"model.{name}" for name in module.plan.names}
    own |= {name: p for name, p in module.named_parameters() if name in trained}
    saved = module.saved_names()
    return {name: value for name, value in own.items() if name in saved and value.is_floating_point()}
