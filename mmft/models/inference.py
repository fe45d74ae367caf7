"""Runs a finished model without the Trainer: on a given device, in a given precision, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

import torch

from mmft.batch import Batch, Fused, Outputs
from mmft.models.frozen_layers import computing_dtype
from mmft.models.precision import autocast
from mmft.models.vision_language_model import VisionLanguageModel

T = TypeVar("T")


def full_precision(precision: str) -> Literal["32-true", "64-true"]:
    """The precision in which a row's outputs do not depend on the rest of its batch, for a run of `precision`.

    The batch determines padding and batch size, and thereby the rounding of sums; in bfloat16 this can flip a label,
    see docs/decisions.md.
    """
    return "64-true" if precision == "64-true" else "32-true"


def outputs_of(
    model: VisionLanguageModel, batches: Iterable[Batch], device: torch.device, precision: str
) -> Iterator[tuple[Batch, Outputs | None]]:
    """Yields every batch with the model's outputs, None if none of its rows could be read.

    Args:
        model: is moved to `device` and set to eval mode.
        batches: of a split.
        device: where the model runs.
        precision: `32-true`, `64-true`, `bf16-mixed` or `16-mixed`.
    """
    return _each(model, batches, device, precision, model.__call__)


def scores_of(
    model: VisionLanguageModel, batches: Iterable[Batch], device: torch.device, precision: str
) -> Iterator[tuple[Batch, Outputs | None]]:
    """As `outputs_of`; a model that writes texts does not write any."""
    return _each(model, batches, device, precision, model.score)


def fused_of(
    model: VisionLanguageModel, batches: Iterable[Batch], device: torch.device, precision: str
) -> Iterator[tuple[Batch, Fused | None]]:
    """As `outputs_of`, with the fused features before the head."""
    return _each(model, batches, device, precision, model.fuse)


def _each(
    model: VisionLanguageModel,
    batches: Iterable[Batch],
    device: torch.device,
    precision: str,
    compute: Callable[[Batch], T],
) -> Iterator[tuple[Batch, T | None]]:
    model.to(device).eval()
    dtype = torch.float64 if precision == "64-true" else torch.float32
    if computing_dtype(model) != dtype:
        model.to(dtype)
    for batch in batches:
        yield batch, _computed(compute, batch.to(device), precision) if len(batch) else None


def _computed(compute: Callable[[Batch], T], batch: Batch, precision: str) -> T:
    # Contexts end with the batch: around a `yield` they would also apply to the caller's code.
    with torch.inference_mode(), autocast(batch.row.device, precision):
        return compute(batch)
