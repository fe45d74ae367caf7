"""`FrozenWork`: what frozen layers compute of each row is computed once, before training, and read from then on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from mmft.cache.store import Store
from mmft.config.schema.cache import TrainingCacheConfig
from mmft.config.schema.model import MODALITY
from mmft.data.datamodule import VisionLanguageData
from mmft.data.stored_rows import StoredRows
from mmft.models.frozen_part import FrozenPart
from mmft.run_folder import RunFolder
from mmft.training.frozen_cache import FrozenCache
from mmft.training.module import FineTuning
from mmft.training.parallel.collectives import summed

log = logging.getLogger(__name__)


class _Phase(NamedTuple):
    """Epochs in which the same layers of an encoder are frozen.

    Attributes:
        first: epoch.
        part: what they compute; None if nothing is frozen or it cannot be computed apart.
        stored: what the store has of it, by split.
    """

    first: int
    part: FrozenPart | None
    stored: Mapping[str, StoredRows]


class FrozenWork(pl.Callback):
    """Sets the model's frozen parts and, with a store, reads from it what they compute.

    With gradual unfreezing they change from epoch to epoch, each with an entry of its own.

    Args:
        data: of the run.
        passes: by encoder and split, how often training reads the split's rows; only splits whose rows never change.
        starts: first optimizer step, by name, of each group that does not start at step 0.
        store: of the values.
        config: what is kept, and how.
        precision: of training, `32-true`.
        folder: whose summary says how many rows are read from the store, and how long filling it took.

    Attributes:
        rows: rows that are read from the store, by modality; the most in any epoch.
    """

    def __init__(
        self,
        data: VisionLanguageData,
        passes: Mapping[str, Mapping[str, int]],
        starts: Mapping[str, int],
        store: Store,
        config: TrainingCacheConfig,
        precision: str,
        folder: RunFolder,
    ) -> None:
        self.data, self.passes, self.starts, self.store = data, passes, starts, store
        self.config, self.precision, self.folder = config, precision, folder
        self.rows: dict[str, int] = {}
        self._phases: dict[str, list[_Phase]] = {}
        self._epoch = 0
        self._used: FrozenCache | None = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes in which epoch training goes on; the Trainer knows it once the loader has been made."""
        self._epoch = min(self.data.plan.locate(checkpoint["global_step"])[0], self.data.plan.epochs - 1)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the frozen parts and fills the store, once the model is on its device."""
        assert isinstance(pl_module, FineTuning)
        begin, cache = time.perf_counter(), self._cache(trainer)
        self._used = cache
        for encoder in self.passes:
            lowest = self._lowest(pl_module, encoder)
            ends = [*list(lowest)[1:], self.data.plan.epochs]
            self._phases[encoder] = phases = [
                self._phase(pl_module, cache, encoder, layer, range(first, end))
                for (first, layer), end in zip(lowest.items(), ends, strict=True)
            ]
            read = max(sum(stored.there for stored in phase.stored.values()) for phase in phases)
            if read:
                self.rows[MODALITY[encoder]] = read
        self.data.rows_change = any(len(phases) > 1 for phases in self._phases.values())
        self._begin(pl_module, self._epoch)
        if not any(phase.part for phases in self._phases.values() for phase in phases):
            self._warn_of_what_changes_nothing()
        if self.rows:
            self.folder.update_summary(frozen_work={"rows": self.rows, "seconds": time.perf_counter() - begin})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepares the next epoch: its loaders are made before it starts."""
        self._begin(pl_module, min(trainer.current_epoch + 1, self.data.plan.epochs - 1))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes what was read, for `mmft cache`."""
        if self._used is not None:
            self._used.note_reads()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same of a run that was stopped."""
        self.on_fit_end(trainer, pl_module)

    def _warn_of_what_changes_nothing(self) -> None:
        rounds = self.config.dtype != "computed"
        given = ["cache=always"] * (self.config.keep == "always") + [f"cache.dtype={self.config.dtype}"] * rounds
        if given:
            log.warning("%s: no layers are frozen that could be computed once, so nothing is kept", " ".join(given))

    def _lowest(self, module: FineTuning, encoder: str) -> dict[int, int | None]:
        """The lowest layer of an encoder that is trained, from the epoch in which it changes; None for none."""
        found: dict[int, int | None] = {}
        for epoch in range(self.data.plan.epochs):
            last_step = self.data.plan.steps_before(epoch + 1) - 1
            lowest = module.plan.lowest_trained(encoder, module.plan.active(last_step, self.starts))
            if not found or lowest != found[max(found)]:
                found[epoch] = lowest
        return found

    def _phase(self, module: FineTuning, cache: FrozenCache, encoder: str, lowest: int | None, epochs: range) -> _Phase:
        every = self.data.plan.epochs
        passes = {
            split: (self.data.datasets[split], math.ceil(times * len(epochs) / every))
            for split, times in self.passes[encoder].items()
            if split in ("train", "val") or epochs.stop == every
        }
        together = partial(summed, torch.zeros((), device=module.device))
        return _Phase(
            epochs.start,
            *cache.taken_apart(module.model, encoder, lowest, passes, self.config.dtype, together),
        )

    def _begin(self, module: pl.LightningModule, epoch: int) -> None:
        """Sets what is frozen in an epoch."""
        assert isinstance(module, FineTuning)
        module.model.frozen_parts.clear()
        for encoder, phases in self._phases.items():
            phase = max((one for one in phases if one.first <= epoch), key=lambda one: one.first)
            if phase.part is not None:
                module.model.frozen_parts[encoder] = phase.part
            modality = MODALITY[encoder]
            for split, rows in self.data.datasets.items():
                rows.stored.pop(modality, None)
                if split in phase.stored:
                    rows.stored[modality] = phase.stored[split]

    def _cache(self, trainer: pl.Trainer) -> FrozenCache:
        return FrozenCache(
            self.store,
            self.config.keep,
            self.precision,
            trainer.precision_plugin.forward_context,
            self.data.config,
            trainer.global_rank,
            trainer.world_size,
        )
