"""After training: tunes the task on the validation rows, from the finished model's outputs (`Task.tune`).

Legend: R rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mmft.batch import Batch
from mmft.data.dataset import RowDataset
from mmft.models.inference import full_precision, outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.ranks import beat
from mmft.tasks.base import Task
from mmft.training.parallel.collectives import gathered

log = logging.getLogger(__name__)


@contextmanager
def computed_anew(model: VisionLanguageModel, rows: RowDataset) -> Iterator[None]:
    """Context in which nothing of `rows` comes from the store, which has it in the precision of training."""
    parts, stored = model.frozen_parts, rows.stored
    model.frozen_parts, rows.stored = {}, {}
    try:
        yield
    finally:
        model.frozen_parts, rows.stored = parts, stored


def tune_on_validation(
    model: VisionLanguageModel, task: Task, batches: Iterable[Batch], device: torch.device, precision: str
) -> dict[str, Any]:
    """Tunes `task` alike on all ranks, in the full precision of `mmft predict`; a no-op for tasks that tune nothing.

    Args:
        model: the finished model; moved to `device`.
        task: fitted; changed in place.
        batches: this rank's validation batches; empty without validation rows.
        device: this rank's.
        precision: the run's.

    Returns:
        `tuned` for the run's summary; empty if nothing was tuned.
    """
    if not task.tunes:
        return {}
    parts = [
        (batch.row, outputs.logits.cpu(), batch.target, batch.weight)
        for batch, outputs in outputs_of(model, batches, device, full_precision(precision))
        if outputs is not None and batch.target is not None
    ]
    own = [torch.cat(column) for column in zip(*parts, strict=True)]
    ranks = [rank for rank in gathered(own) if rank]
    beat("idle")  # as after training: passes over test rows are not timed
    if not ranks:
        log.warning("no validation rows: the task is not tuned")
        return {}
    row, logits, target, weight = (torch.cat(column) for column in zip(*ranks, strict=True))
    order = row.argsort()  # the same for any number of ranks
    return {"tuned": task.tune(logits[order], target[order], weight[order])}
