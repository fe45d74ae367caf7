"""Rows of which a store has what frozen encoders compute, and batches of them compared."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from built import built

from mmft import build
from mmft.batch import Batch, Features
from mmft.data.datamodule import VisionLanguageData
from mmft.models.precision import autocast
from mmft.training.frozen_cache import FrozenCache, frozen_part


def stored_data(typed: list[str], store: Path, modalities: tuple[str, ...]) -> VisionLanguageData:
    config, model, data = built([*typed, f"paths.cache={store}", "cache=always"])
    rows = data.datasets["train"]
    cache = FrozenCache(
        build.build_store(config), "always", "32-true", lambda: autocast(torch.device("cpu"), "32-true"), config.data
    )
    for modality in modalities:
        part = frozen_part(model, f"{modality}_encoder", None, exact=True)
        assert part is not None
        rows.stored[modality] = cache.filled(part, {"train": (rows, 2)})["train"]
    return data


def same_batches(one: Batch, other: Batch) -> None:
    for f in fields(Batch):
        a, b = getattr(one, f.name), getattr(other, f.name)
        if isinstance(a, Features):
            a, b = (a.there, *a.values), (b.there, *b.values)
        else:
            a, b = (a,), (b,)
        for left, right in zip(a, b, strict=True):
            if isinstance(left, torch.Tensor):
                assert left.dtype == right.dtype, f.name
                assert torch.equal(left, right), f.name
            else:
                assert left == right, f.name
