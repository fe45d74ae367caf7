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
from mmft.run.saved_model import SavedModel
from mmft.training.frozen_cache import FrozenCache


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
        model, form = saved.model, saved.config.cache.dtype
        if self.store is None and form == "computed":
            yield
            return
        model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32)
        cache = FrozenCache(self.store, self.keep, precision, partial(autocast, device, precision), data)
        try:
            for encoder in ENCODERS:
                if encoder == "text_encoder" and saved.task.facts.generates:  # it reads prompts joined with images
                    continue
                keeps = self.keep == "always" or not saved.is_trained(encoder)
                part, stored = cache.taken_apart(model, encoder, None, {"": (rows, 1)} if keeps else {}, form)
                if part is not None:
                    model.frozen_parts[encoder] = part
                    for one in stored.values():
                        rows.stored[part.modality] = one
            yield
        finally:
            model.frozen_parts = {}
            cache.note_reads()
