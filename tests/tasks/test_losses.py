"""Focal and asymmetric loss against formulas written apart, in float64; their gradients; micro-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from task_batches import batch, outputs
from torch import Tensor

from mmft.tasks.base import Task
from mmft.tasks.classification import Classification
from mmft.tasks.losses import asymmetric_loss, focal_loss
from mmft.tasks.multi_label import MultiLabel

R, C = 48, 5


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (R, C), classes (R,), labels (R, C)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(R, C, generator=generator, dtype=torch.float64)
    classes = torch.randint(C, (R,), generator=generator)
    return logits, classes, torch.rand(R, C, generator=generator) < 0.3


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 0.0, 3.0]])
def test_focal_loss_is_the_papers(gamma: float, weights: list[float] | None) -> None:
    logits, classes, _ = drawn()
    z, y = logits.numpy(), classes.numpy()
    p = (np.exp(z) / np.exp(z).sum(1, keepdims=True))[np.arange(R), y]
    expected = -((1 - p) ** gamma) * np.log(p) * (1 if weights is None else np.array(weights)[y])
    found = focal_loss(logits, classes, gamma, None if weights is None else torch.tensor(weights, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("gammas", [(0.0, 4.0), (1.0, 1.0), (0.0, 0.0), (0.5, 2.0)])
def test_asymmetric_loss_is_the_papers(gammas: tuple[float, float], clip: float) -> None:
    logits, _, labels = drawn()
    p = 1 / (1 + np.exp(-logits.numpy()))
    q = np.maximum(p - clip, 0)
    there = (1 - p) ** gammas[0] * np.log(p)
    absent = q ** gammas[1] * np.log(1 - q)
    expected = -np.where(labels.numpy(), there, absent)
    np.testing.assert_allclose(asymmetric_loss(logits, labels, *gammas, clip).numpy(), expected, rtol=1e-10, atol=1e-15)


def test_gradients_are_those_of_differences() -> None:
    logits, classes, labels = drawn()
    x = logits[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, classes[:6], 2.0), (x,))
    assert torch.autograd.gradcheck(lambda z: asymmetric_loss(z, labels[:6], 1.0, 4.0, 0.05), (x,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [0.0, 30.0, 200.0])
def test_sure_logits_have_finite_losses_and_gradients(gamma: float, size: float) -> None:
    """Where a probability is rounded to 0 or 1, a power's gradient or a logarithm may be infinite."""
    for sign in (1, -1):
        x = torch.tensor([[sign * size, -sign * size]], requires_grad=True)
        loss = focal_loss(x, torch.tensor([0]), gamma).sum()
        for clip in (0.0, 0.05):
            for there in (True, False):
                loss = loss + asymmetric_loss(x, torch.full((1, 2), there), gamma, gamma, clip).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite()
        assert x.grad is not None
        assert x.grad.isfinite().all()


CASES: list[tuple[Task, bool]] = [
    (Classification(loss="focal"), False),
    (Classification(loss="focal", focal_gamma=0.5, class_weights="balanced"), False),
    (MultiLabel(), True),
    (MultiLabel(pos_weight="balanced", label_smoothing=0.1), True),
    (MultiLabel(loss="asymmetric"), True),
    (MultiLabel(loss="asymmetric", gamma_pos=1, gamma_neg=2, clip=0), True),
]


@pytest.mark.parametrize(("task", "several"), CASES)
def test_parts_of_a_batch_add_up_to_the_whole(task: Task, several: bool) -> None:
    """What micro-batches and ranks rely on: losses and weights of parts add up, and so do gradients."""
    logits, classes, labels = drawn()
    task.fit(["abcde"[i % 5] + "|b" * (several and i % 3 == 1) for i in range(11)])
    target: Any = labels if several else classes
    assert task.width == C
    weight = torch.rand(R, generator=torch.Generator().manual_seed(1))

    def loss_and_gradient(size: int) -> tuple[float, float, Tensor]:
        x = logits.clone().requires_grad_()
        parts = [slice(start, start + size) for start in range(0, R, size)]
        divisor = sum(float(task.normaliser(batch(target[s], weight[s]))) for s in parts)
        loss = sum(float(_backward(task.loss_sum(outputs(x[s]), batch(target[s], weight[s])) / divisor)) for s in parts)
        assert x.grad is not None
        return divisor, loss, x.grad

    whole = loss_and_gradient(R)
    for size in (1, 7, 16):
        divisor, loss, gradient = loss_and_gradient(size)
        assert divisor == pytest.approx(whole[0], rel=1e-12)
        assert loss == pytest.approx(whole[1], abs=1e-10)
        assert (gradient - whole[2]).abs().max() < 1e-10


def _backward(loss: Tensor) -> Tensor:
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()
