"""A run in which layers join at epoch 1, by the real `train`, watched; two_ranks.py does it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmft import build
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.ranks import environment_kept

# SGD, since Adam makes steps of rounding noise; 45 rows, so that two ranks have seven and six of an epoch's last step.
OPTIONS = [
    "tune=gradual",
    "tune.schedule={0:1,1:-1}",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "optim=sgd",
    "optim.lr=0.1",
    "model.dropout=0",
    "data.batch_size=16",
    "data.limit=45",
    "checkpoint.use=last",
    "callbacks.progress=none",
    "modality_report=false",
]


class Watching(pl.Callback):
    """Copies all parameters and buffers when training starts, when epoch 0 has ended, and when training has."""

    def __init__(self) -> None:
        self.module: Any = None
        self.seen: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Behind the strategy, which gives all ranks the first one's weights."""
        self.module = trainer.lightning_module
        self.seen.append(self.state())

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Before layers join."""
        if trainer.current_epoch == 0:
            self.seen.append(self.state())

    def on_train_end(self, *_: Any) -> None:
        """Before the finished model is tested, for which all ranks get the first one's weights once more."""
        self.seen.append(self.state())

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, also the buffers that no checkpoint holds."""
        own = (*self.module.model.named_parameters(), *self.module.model.named_buffers())
        return {name: value.detach().clone() for name, value in own}

    def joining(self) -> set[str]:
        """Names of the parameters that the plan lets begin with epoch 1."""
        groups = [group for group in self.module.plan.groups if (group.start.at, group.start.unit) == (1, "epoch")]
        return {name for group in groups for name in group.parameters}


def thawed(overrides: list[str], folder: Path, state: Path) -> dict[str, Any]:
    """Trains in a run folder; writes all parameters and buffers that this rank ends with to the file `state`.

    Returns:
        `state`, and names: what was `joining` at epoch 1, what `moved` in epoch 0 and after it.
    """
    watching, callbacks = Watching(), build.build_callbacks
    build.build_callbacks = lambda *given: [*callbacks(*given), watching]
    try:
        assert train(compose("train", [*overrides, *OPTIONS]), folder) == 0
    finally:
        build.build_callbacks = callbacks
    save_file(watching.seen[-1], state)
    moved = [sorted(k for k in a if not torch.equal(a[k], b[k])) for a, b in itertools.pairwise(watching.seen)]
    return {"state": str(state), "joining": sorted(watching.joining()), "moved": moved}


def thawed_alone(overrides: list[str], out: Path) -> dict[str, Any]:
    """The run in which layers join, of one process."""
    with environment_kept():
        own = out / f"alone{os.environ.pop('RANK')}"  # from here on there is one process
        return thawed(overrides, own, own.with_suffix(".safetensors"))


def thawed_together(overrides: list[str], out: Path, resnet: str) -> dict[str, dict[str, Any]]:
    """The run in which layers join, of both ranks: the same one, and one with running statistics."""
    kinds = {"vit": [], "resnet": [f"model.image_encoder.name={resnet}"]}
    found = {}
    for kind, more in kinds.items():
        with environment_kept():
            state = out / f"{kind}{os.environ['RANK']}.safetensors"
            found[kind] = thawed([*overrides, *more], out / kind, state)
    return found
