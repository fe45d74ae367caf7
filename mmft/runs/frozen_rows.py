"""What the encoders of a finished model compute of rows, read from the store of frozen work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from mmft.cache.store import Store
from mmft.config.schema.data import DataConfig
from mmft.config.schema.model import ENCODERS
from mmft.data.dataset import RowDataset
from mmft.models.precision import autocast
from mmft.runs.saved_model import SavedModel
from mmft.training.frozen_cache import FrozenCache, frozen_part, is_exact


class FrozenRows:
    """Reads rows from the store.

    Args:
        store: shared with training, which has filled it with what wholly frozen encoders compute; None for no store.
        keep: as in `FrozenCache`; what encoders compute that were trained is kept with `always` alone, since nothing
            but this run can use it.
    """

    def __init__(self, store: Store | None, keep: str = "never") -> None:
        self.store, self.keep = store, keep

    @contextmanager
    def read(
        self, saved: SavedModel, rows: RowDataset, data: DataConfig, device: torch.device, precision: str
    ) -> Iterator[None]:
        """Context in which `saved.model` reads from the store what it has of the rows, and fills it before.

        Args:
            saved: moved to `device`.
            rows: of a split.
            data: how they are read.
            device: where the model runs.
            precision: it runs in.
        """
        model, exact, form = saved.model, is_exact(device, precision), saved.config.cache.dtype
        if self.store is None and form == "computed":
            yield
            return
        model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32)
        cache = None
        if self.store is not None:
            cache = FrozenCache(self.store, self.keep, precision, partial(autocast, device, precision), data)
        try:
            for encoder in ENCODERS:
                part = frozen_part(model, encoder, None, exact, form)
                if part is None:
                    continue
                if cache is not None and (self.keep == "always" or not saved.is_trained(encoder)):
                    rows.stored |= {part.modality: stored for stored in cache.filled(part, {"": (rows, 1)}).values()}
                if exact or part.modality in rows.stored or form != "computed":
                    model.frozen_parts[encoder] = part
            yield
        finally:
            model.frozen_parts = {}
            if cache is not None:
                cache.note_reads()
