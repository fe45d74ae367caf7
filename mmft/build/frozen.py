"""Builds what reads and fills the store of frozen work from a config."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from mmft.cache.store import Store, cache_folder
from mmft.config.schema.model import ENCODERS, MODALITY
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.use import UseConfig
from mmft.data.dataset import RowDataset
from mmft.models.frozen_part import CannotSplitError, FrozenPart
from mmft.models.precision import autocast
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.frozen_cache import FrozenCache, Pooled, is_exact
from mmft.training.hardware import device_of


def build_store(config: TrainConfig | UseConfig) -> Store:
    """The store of frozen work."""
    return Store(cache_folder(config.paths.cache), round(config.cache.limit * 1e9))


def encoders_apart(config: TrainConfig) -> list[str]:
    """The encoders whose frozen layers training computes apart from the rest: those that read an input alone.

    Prompts of generation are joined with images. Sharded weights must be computed by all ranks alike.
    """
    if config.trainer.strategy == "fsdp":
        return []
    read = {name: config.reads(MODALITY[name]) for name in ENCODERS}
    return [name for name in ENCODERS if read[name] and not (name == "text_encoder" and config.task.generates)]


class EncoderFeatures:
    """What the encoders of a model as they are make of rows: pooled features, by modality that the config reads.

    With `cache` they are read from the store, which is filled with them. Training that freezes an encoder, whose fusion
    reads pooled features, reads the same entry. Encoders are tried, and their weights hashed, once.

    Args:
        config: with hardware chosen.
        model: moved to its device; no tuning method is applied yet.
    """

    def __init__(self, config: TrainConfig, model: VisionLanguageModel) -> None:
        device, precision = device_of(config.trainer.accelerator), config.trainer.precision
        model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32)
        context = partial(autocast, device, precision)
        self.model, self._encoders = model, [name for name in ENCODERS if config.reads(MODALITY[name])]
        self._cache = FrozenCache(build_store(config), config.cache.keep, precision, context, config.data)
        exact = is_exact(device, precision)
        self._parts = [FrozenPart(getattr(model, name), None, "pooled", exact) for name in self._encoders]
        for part in self._parts:
            try:
                part.check()
            except CannotSplitError:  # a text's features depend on its padding, which is then that of the text alone
                part.exact = True

    def of(self, rows: RowDataset) -> dict[str, Pooled]:
        """The features of a split's rows."""
        return {part.modality: self._cache.pooled(part, rows) for part in self._parts}

    def read_by_model(self, passes: Mapping[str, tuple[RowDataset, int]]) -> None:
        """Lets the model read them from the store, too, if that pays.

        Args:
            passes: rows and how often they are read, by split.
        """
        assert self.model.fusion.reads == "pooled"
        for name in self._encoders:
            part, found = self._cache.taken_apart(self.model, name, None, passes)
            if part is not None:
                self.model.frozen_parts[name] = part
                for split, stored in found.items():
                    passes[split][0].stored[part.modality] = stored
