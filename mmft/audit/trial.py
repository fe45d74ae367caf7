"""One batch forward and backward, as a step of training would do it, and nothing is changed by it."""

from __future__ import annotations

import time

import numpy as np
import torch

from mmft.batch import Batch
from mmft.data.datamodule import VisionLanguageData
from mmft.errors import UserError
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task


def longest_rows(data: VisionLanguageData, count: int) -> Batch:
    """A batch of the training rows with the longest texts, without those that are known to be bad.

    Args:
        data: of the run.
        count: rows at most.
    """
    rows = data.datasets["train"]
    lengths = np.diff(rows.tokens.offsets)
    usable = [at for at in np.argsort(-lengths, kind="stable").tolist() if int(rows.split.rows[at]) not in rows.bad]
    collate = data.evaluation_loader("train", whole=True).collate_fn  # type: ignore[union-attr]
    batch: Batch = collate([rows[at] for at in usable[:count]])
    return batch


def try_batch(model: VisionLanguageModel, task: Task, batch: Batch, device: torch.device, precision: str) -> float:
    """Runs the batch forward and backward twice.

    Args:
        model: is moved to `device`; its weights stay as they are.
        task: fitted.
        batch: at least one row.
        device: where training would run.
        precision: `32-true`, `64-true` or `bf16-mixed`.

    Returns:
        The seconds of the second time.

    Raises:
        UserError: the batch does not fit into memory, or its loss is not finite.
    """
    model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32).train()
    batch = batch.to(device)
    try:
        _run(model, task, batch, precision)
        started = time.perf_counter()
        loss = _run(model, task, batch, precision)
        seconds = time.perf_counter() - started
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"data.micro_batch_size: a batch of {len(batch)} rows does not fit into the memory of {device}. Try a "
            f"smaller one, such as data.micro_batch_size={max(1, len(batch) // 4)}; the result stays the same."
        ) from error
    finally:
        model.zero_grad(set_to_none=True)
    if not np.isfinite(loss):
        raise UserError(f"the loss of the first batch is {loss}: look at the encoders' weights and trainer.precision")
    return seconds


def _run(model: VisionLanguageModel, task: Task, batch: Batch, precision: str) -> float:
    with torch.autocast(batch.row.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
        outputs = model(batch)
        loss = task.loss_sum(outputs, batch) / task.normaliser(batch)
    loss.backward()
    return float(loss.detach())  # waits for a GPU
