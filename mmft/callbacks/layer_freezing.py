"""`LayerFreezing`: keeps frozen what the plan freezes."""

from __future__ import annotations

import lightning.pytorch as pl

from mmft.training.module import FineTuning


class LayerFreezing(pl.Callback):
    """Sets `requires_grad` and eval mode by the tuning plan.

    Every parameter that is ever trained is in a named optimizer group from step 0, so that freezing only
    switches `requires_grad`; unlike Lightning's BaseFinetuning it adds no group (which breaks DDP and
    schedules) and compares no parameter values (which loses zero biases).
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sets `requires_grad`, after a strategy has wrapped the model."""
        assert isinstance(pl_module, FineTuning)
        for name, parameter in pl_module.model.named_parameters():
            parameter.requires_grad_(name in pl_module.plan.names)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sets train mode, in which a frozen encoder stays in eval mode by itself."""
        pl_module.train()
