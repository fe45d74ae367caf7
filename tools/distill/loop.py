"""One resumable training loop for both students: the batch is a function of the step, the state is saved often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SAVE_SECONDS = 120


def batches(count: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of `size` row numbers, each epoch in an order of its own."""
    epoch = 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        yield from np.split(order[: count - count % size], count // size)
        epoch += 1


def fit(
    name: str, student: nn.Module, loss_at: Callable[[int], Tensor], steps: int, lr: float, decay: float, work: Path
) -> None:
    """AdamW with a linear warm-up of 5 % and a cosine to zero; goes on from `work/<name>.pt` where that is there.

    Args:
        name: of the state file, and in what is printed.
        student: what is trained, in place.
        loss_at: the loss, a scalar, of a step's batch; a pure function of the step.
        steps: the whole run's optimizer steps.
        lr: the highest learning rate.
        decay: weight decay of matrices; vectors have none.
        work: the folder of the state.
    """
    matrices = [p for p in student.parameters() if p.ndim > 1]
    vectors = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    state = work / f"{name}.pt"
    first = _restore(state, student, optimizer)
    saved = began = time.monotonic()
    mean = 0.0
    student.train()
    for step in range(first, steps):
        rate = lr * min((step + 1) / (0.05 * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == first else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 99:
            seconds = (time.monotonic() - began) / (step + 1 - first)
            left = seconds * (steps - step - 1) / 60
            print(
                f"{name}: step {step + 1}/{steps} loss {mean:.4f} {seconds:.3f} s/step, {left:.0f} min left", flush=True
            )
        if time.monotonic() - saved > SAVE_SECONDS or step + 1 == steps:
            _save(state, student, optimizer, step + 1)
            saved = time.monotonic()


def _save(state: Path, student: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    part = state.with_suffix(".part")
    torch.save({"student": student.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(state)


def _restore(state: Path, student: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not state.is_file():
        return 0
    saved = torch.load(state, weights_only=True)
    student.load_state_dict(saved["student"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])
