"""`FrozenWork`: what frozen layers compute of each row is computed once, before training, and read from then on."""

from __future__ import annotations

import time
from collections.abc import Mapping

import lightning.pytorch as pl
import torch

from mmft.cache.store import Store
from mmft.data.datamodule import VisionLanguageData
from mmft.run_folder import RunFolder
from mmft.training.collectives import summed
from mmft.training.frozen_cache import FrozenCache, frozen_part, is_exact
from mmft.training.module import FineTuning


class FrozenWork(pl.Callback):
    """Sets the model's frozen parts and, reads from it what they compute.

    Args:
        data: of the run.
        passes: by encoder and split, how often training reads the split's rows; only splits whose rows never change.
        store: of the values.
        keep: what is kept; see `FrozenCache`.
        precision: of training, `32-true`.
        folder: whose summary says how many rows are read from the store, and how long filling it took.

    Attributes:
        rows: rows that are read from the store, by modality.
    """

    def __init__(
        self,
        data: VisionLanguageData,
        passes: Mapping[str, Mapping[str, int]],
        store: Store,
        keep: str,
        precision: str,
        folder: RunFolder,
    ) -> None:
        self.data, self.passes, self.store = data, passes, store
        self.keep, self.precision, self.folder = keep, precision, folder
        self.rows: dict[str, int] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the frozen parts and fills the store, once the model is on its device."""
        assert isinstance(pl_module, FineTuning)
        model, plan, begin = pl_module.model, pl_module.plan, time.perf_counter()
        exact, cache = is_exact(pl_module.device, self.precision), self._cache(trainer)
        for encoder, splits in self.passes.items():
            part = frozen_part(model, encoder, plan.lowest_trained(encoder), exact)
            if part is None:
                continue
            passes = [(self.data.datasets[split], times) for split, times in splits.items()]
            read = cache.read_from(part, passes, lambda: summed(torch.zeros((), device=pl_module.device)))
            if read:
                self.rows[part.modality] = read
            if exact or read:
                model.frozen_parts[encoder] = part
        if self.rows:
            self.folder.update_summary(frozen_work={"rows": self.rows, "seconds": time.perf_counter() - begin})

    def _cache(self, trainer: pl.Trainer) -> FrozenCache:
        return FrozenCache(
            self.store,
            self.keep,
            self.precision,
            trainer.precision_plugin.forward_context,
            self.data.config,
            trainer.global_rank,
            trainer.world_size,
        )
