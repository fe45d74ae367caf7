"""Builds what reads and fills the store of frozen work from a config."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from mmft.cache.store import Store, cache_folder
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import TrainConfig, UseConfig
from mmft.data.dataset import RowDataset
from mmft.models.frozen_part import CannotSplitError, FrozenPart
from mmft.models.precision import autocast
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.frozen_cache import FrozenCache, Pooled, frozen_part, is_exact
from mmft.training.hardware import device_of


def build_store(config: TrainConfig | UseConfig) -> Store:
    """The store of frozen work."""
    return Store(cache_folder(config.paths.cache), round(config.cache.limit * 1e9))


def pooled_features(config: TrainConfig, model: VisionLanguageModel, rows: RowDataset) -> dict[str, Pooled]:
    """What the encoders as they are make of each row, by modality that the config reads.

    With `cache` they are read from the store, which is filled with them. Training that freezes an encoder, whose fusion
    reads pooled features, reads the same entry.

    Args:
        config: with hardware chosen.
        model: moved to its device; no tuning method is applied yet.
        rows: of a split.
    """
    device, cache = _moved(config, model)
    found = {}
    for encoder in (getattr(model, name) for name in ENCODERS if config.reads(name.removesuffix("_encoder"))):
        part = FrozenPart(encoder, None, "pooled", is_exact(device, config.trainer.precision))
        try:
            part.check()
        except CannotSplitError:  # a text's features depend on its padding, which is then that of the text alone
            part.exact = True
        found[part.modality] = cache.pooled(part, rows)
    return found


def read_pooled(config: TrainConfig, model: VisionLanguageModel, passes: Mapping[str, tuple[RowDataset, int]]) -> None:
    """Lets the model read from the store what its encoders, all of them frozen, make of rows, if that pays.

    Args:
        config: with hardware chosen.
        model: whose fusion reads pooled features; moved to its device.
        passes: rows and how often they are read, by split.
    """
    device, cache = _moved(config, model)
    exact = is_exact(device, config.trainer.precision)
    for name in (name for name in ENCODERS if config.reads(name.removesuffix("_encoder"))):
        if (part := frozen_part(model, name, None, exact)) is None:
            continue
        found = cache.filled(part, passes)
        for split, stored in found.items():
            passes[split][0].stored[part.modality] = stored
        if exact or found:
            model.frozen_parts[name] = part


def _moved(config: TrainConfig, model: VisionLanguageModel) -> tuple[torch.device, FrozenCache]:
    """The device, to which the model is moved, and the store that reads and fills with it."""
    device, precision = device_of(config.trainer.accelerator), config.trainer.precision
    model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32)
    context = partial(autocast, device, precision)
    return device, FrozenCache(build_store(config), config.cache.keep, precision, context, config.data)
