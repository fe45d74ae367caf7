"""`FrozenWork`: what frozen layers compute of each row is computed once, before training, and read from then on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from mmft.cache.identity import identity
from mmft.cache.store import Store
from mmft.data.datamodule import VisionLanguageData
from mmft.data.dataset import RowDataset
from mmft.data.stored_rows import StoredRows, image_digests, text_digests
from mmft.files import in_units
from mmft.models.frozen_part import CannotSplitError, FrozenPart
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run_folder import RunFolder
from mmft.training.collectives import summed
from mmft.training.filling import Filling
from mmft.training.module import FineTuning

log = logging.getLogger(__name__)
_NEGLIGIBLE = 1.02  # times the time without the store: what later runs may cost this one
_AT_ONCE = 64  # rows of a batch that is computed for the store, unless those of training are smaller
_DECIDED_AFTER = 128  # rows
_SHARD = 64 * 2**20  # bytes of values after which a shard is written


class Wanted(NamedTuple):
    """What may be kept of an encoder's inputs.

    Attributes:
        modality: `image` or `text`.
        passes: by split, how often training reads its rows; only for splits whose rows never change.
    """

    modality: str
    passes: Mapping[str, int]


class FrozenWork(pl.Callback):
    """Sets the model's frozen parts and, with a store, reads from it what they compute.

    Args:
        data: of the run.
        wanted: by encoder.
        store: None to compute everything in each epoch.
        decides: whether to keep only what pays.
        precision: of training, `32-true`.
        folder: whose summary says how many rows are read from the store, and how long filling it took.

    Attributes:
        rows: rows that are read from the store, by modality.
    """

    def __init__(
        self,
        data: VisionLanguageData,
        wanted: Mapping[str, Wanted],
        store: Store | None,
        decides: bool,
        precision: str,
        folder: RunFolder,
    ) -> None:
        self.data, self.wanted, self.store = data, wanted, store
        self.decides, self.precision, self.folder = decides, precision, folder
        self.rows: dict[str, int] = {}
        self._in_use: list[Path] = []
        self._writes = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the frozen parts and fills the store, once the model is on its device."""
        assert isinstance(pl_module, FineTuning)
        model, plan, begin = pl_module.model, pl_module.plan, time.perf_counter()
        exact = pl_module.device.type == "cpu" and self.precision in ("32-true", "64-true")
        for encoder, wanted in self.wanted.items():
            part = self._part(model, encoder, plan.lowest_trained(encoder), exact)
            if part is None:
                continue
            if self.store is not None:
                self._read_from_store(trainer, self.store, part, wanted)
            if exact or wanted.modality in self.rows:
                model.frozen_parts[encoder] = part
        if self.rows:
            self.folder.update_summary(frozen_work={"rows": self.rows, "seconds": time.perf_counter() - begin})

    def _part(self, model: VisionLanguageModel, encoder: str, lowest: int | None, exact: bool) -> FrozenPart | None:
        """The frozen part of an encoder; None if there is none."""
        if lowest is not None and lowest < 2:
            return None
        part = FrozenPart(getattr(model, encoder), lowest, model.fusion.reads, exact)
        try:
            part.check()
            return part
        except CannotSplitError as error:
            log.info("model.%s: its frozen layers are computed in each epoch: %s", encoder, error)
            return None

    def _read_from_store(self, trainer: pl.Trainer, store: Store, part: FrozenPart, wanted: Wanted) -> None:
        train, modality = self.data.datasets["train"], wanted.modality
        entry = store.entry(*identity(part, self.precision, _reading(train) if modality == "image" else {}))
        self._in_use.append(entry.folder)
        for split, passes in wanted.passes.items():
            rows = self.data.datasets[split]
            stored = StoredRows(entry, image_digests(rows) if modality == "image" else text_digests(rows))
            missing = len(stored.missing())
            pays = self._fill(trainer, store, part, stored, rows, passes)
            summed(torch.zeros((), device=next(part.encoder.parameters()).device))  # every rank has written
            stored.refresh()
            there = sum(digest is not None for digest in stored.digests) - len(stored.missing())
            if there and pays:
                rows.stored[modality] = stored
                self.rows[modality] = self.rows.get(modality, 0) + there
                if trainer.is_global_zero:
                    entry.note_read(there * passes - missing)
        if modality in self.rows:
            log.info(
                "model.%s_encoder: %s; of %d rows that output is read from %s (%s)",
                *(modality, _in_words(part), self.rows[modality], entry.folder, in_units(entry.bytes)),
            )

    def _fill(
        self,
        trainer: pl.Trainer,
        store: Store,
        part: FrozenPart,
        stored: StoredRows,
        rows: RowDataset,
        passes: int,
    ) -> bool:
        """Computes and writes this rank's share of the missing rows, unless that does not pay or fit.

        Another run that does the same at the same time is waited for.

        Returns:
            Whether reading what is there pays.
        """
        rank, world = trainer.global_rank, trainer.world_size
        context: Any = trainer.precision_plugin.forward_context
        if not (self._writes and stored.missing()):
            return True
        try:
            with stored.entry.writing(f"{rank}-{world}"):
                stored.refresh()
                share = [at for at in stored.to_compute() if at % world == rank]
                config = self.data.config
                at_once = min(_AT_ONCE, config.micro_batch_size or config.batch_size)
                filling = Filling(part, stored, rows, share, at_once, config.num_workers, context)
                return self._filled(store, filling, len(share), part, passes)
        except OSError as error:
            log.warning("cache: %s; what is not there is computed in each epoch", error)
            self._writes = False
            return True

    def _filled(self, store: Store, filling: Filling, rows: int, part: FrozenPart, passes: int) -> bool:
        decided = not self.decides
        for _ in filling:
            decides_now = not decided and filling.rows >= _DECIDED_AFTER
            if not (decides_now or filling.held >= _SHARD):
                continue
            if not self._fits(store, filling, rows):
                return True
            filling.flush()
            if decides_now and not self._pays(filling, part, passes):
                return False
            decided = decided or decides_now
        if self._fits(store, filling, filling.rows):
            filling.flush()
        filling.stored.entry.note_computed(filling.rows, filling.seconds)
        return True

    def _fits(self, store: Store, filling: Filling, rows: int) -> bool:
        """Whether the values of all `rows` fit into the store; says so if not."""
        each = (filling.held + filling.written) / max(1, filling.rows)
        if store.make_room(round(each * rows) - filling.written, self._in_use):
            return True
        log.warning(
            "cache: %s for %d rows do not fit into %s (cache.limit, or a full disk); they are computed in each epoch",
            *(in_units(round(each * rows)), rows, store.folder),
        )
        return False

    def _pays(self, filling: Filling, part: FrozenPart, passes: int) -> bool:
        """Whether reading the values is faster than computing them so often, by what both took so far."""
        stored = filling.stored
        stored.refresh()
        positions = list(islice(filter(stored.has, range(len(stored.digests))), _AT_ONCE))
        begin = time.perf_counter()
        stored.read(positions, 0)
        reading = (time.perf_counter() - begin) / len(positions)
        computing, writing = filling.seconds / filling.rows, filling.writing / filling.rows
        pays = computing + writing + passes * reading <= _NEGLIGIBLE * passes * computing
        if not pays:
            log.info(
                "cache=auto: the frozen layers of %s are computed in each epoch: that takes %.2g ms a row, against "
                "%.2g ms to write once and %.2g ms to read",
                *(part.encoder.source.name, 1e3 * computing, 1e3 * writing, 1e3 * reading),
            )
        return pays


def _in_words(part: FrozenPart) -> str:
    """What is frozen."""
    if part.layer is None:
        return "the encoder is frozen"
    return "the first layer is frozen" if part.layer == 2 else f"the first {part.layer - 1} layers are frozen"


def _reading(rows: RowDataset) -> dict[str, Any]:
    """How images are read."""
    return dict(vars(rows.images.reader))
