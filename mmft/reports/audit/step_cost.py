"""Tries a few optimizer steps on the device, as in training: whether they fit, their time and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mmft.batch import Batch
from mmft.data.datamodule import VisionLanguageData
from mmft.errors import UserError
from mmft.models.precision import autocast
from mmft.training.frozen_cache import frozen_part, is_exact
from mmft.training.hard_negatives import with_negatives
from mmft.training.memory import forget_peak, held_bytes, peak_bytes, release_unused
from mmft.training.module import FineTuning

_STEPS = 3  # enough to allocate optimizer state and glibc's arenas


@dataclass(frozen=True)
class StepCost:
    """The cost of optimizer steps.

    Attributes:
        seconds: duration of the last one.
        grown: peak growth in bytes of the memory held by the device, or on a CPU by the process.
        weights, gradients, optimizer: bytes of the model, of its trained part's gradients, and of the optimizer state.
            On a CPU the weights are allocated before, so `grown` excludes them.
    """

    seconds: float
    grown: int
    weights: int
    gradients: int
    optimizer: int


def longest_rows(data: VisionLanguageData, count: int) -> Batch:
    """A logical batch of the training rows with the longest texts, without known bad rows.

    Args:
        data: the run's.
        count: maximum number of rows.
    """
    rows = data.datasets["train"]
    lengths = np.diff(rows.tokens.offsets)
    usable = [at for at in np.argsort(-lengths, kind="stable").tolist() if int(rows.split.rows[at]) not in rows.bad]
    return data.training_batch(np.array(usable[:count], dtype=np.int64))


def try_steps(
    module: FineTuning,
    batch: Batch,
    evaluated: Batch,
    device: torch.device,
    precision: str,
    apart: Sequence[str] = (),
) -> StepCost:
    """Runs some optimizer steps with learning rates of 0, and an evaluation.

    All parameters that are ever trained are trained in them. Memory is measured, not computed: on a CPU much of it can
    be glibc's arenas (MALLOC_MMAP_THRESHOLD_=1000000 in the environment halves it, and slows the steps down).

    Args:
        module: its model is moved to `device` and keeps its weights.
        batch: a share of a logical batch; at least one row. Two micro-batches show the whole cost.
        evaluated: a batch of an evaluation.
        device: the device to train on.
        precision: `32-true`, `64-true`, `bf16-mixed` or `16-mixed`.
        apart: encoders whose frozen layers training computes apart, where it does so in other groups than batches.

    Raises:
        UserError: the batch does not fit into memory, or its loss is not finite.
    """
    release_unused()
    forget_peak(device)
    before, model = held_bytes(device), module.model
    module.modality_dropout = 0.0  # a dropped modality costs nothing; measure the maximum
    model.to(device=device, dtype=torch.float64 if precision == "64-true" else torch.float32).train()
    module.plan.activate(model, module.plan.names)
    _compute_apart(module, apart if is_exact(device, precision) else ())
    try:
        optimizer = _without_rates(module)
        batch = batch.to(device)
        for step in range(_STEPS):
            started = time.perf_counter()
            with autocast(device, precision):
                losses, _, _ = module.update(batch, optimizer, step, Tensor.backward)
            last = float(losses.sum())  # synchronises with a GPU
            seconds = time.perf_counter() - started
        with torch.inference_mode(), autocast(device, precision):
            with_negatives(model.eval(), evaluated.to(device))
        trained = [p for p in model.parameters() if p.grad is not None]
        state = [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)]
        grown = peak_bytes(device) - before
    except torch.OutOfMemoryError as error:
        tokens = module.micro_batch_tokens
        key = "data.micro_batch_size" if tokens is None else "data.micro_batch_tokens"
        smaller = max(1, (tokens or min(len(batch), module.micro_batch_size or len(batch))) // 4)
        raise UserError(
            f"{key}: a batch of {len(batch)} rows does not fit into the memory of {device}. Try a smaller one, such "
            f"as {key}={smaller}; the result stays the same."
        ) from error
    finally:
        model.zero_grad(set_to_none=True)
        model.frozen_parts.clear()
    if not np.isfinite(last):
        raise UserError(f"the loss of the first batch is {last}: check the encoders' weights and trainer.precision")
    weights = [*chain(model.parameters(), model.buffers())]
    return StepCost(seconds, grown, _bytes(weights), _bytes(trained), _bytes(state))


def _compute_apart(module: FineTuning, encoders: Sequence[str]) -> None:
    """Sets the frozen parts of encoders, as training does."""
    parts = {name: frozen_part(module.model, name, module.plan.lowest_trained(name), exact=True) for name in encoders}
    module.model.frozen_parts |= {name: part for name, part in parts.items() if part is not None}


def _without_rates(module: FineTuning) -> torch.optim.Optimizer:
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
