"""A linear head solved to the optimum of a task's own loss on fixed features, over several strengths of its L2 penalty.

The loss is the task's, with class weights, label smoothing and sample weights, divided by its normaliser, plus half the
strength times the squared weights on standardised features; biases are not penalised. It is minimised by L-BFGS along
the principal axes of the features, each scaled by the curvature to expect, which takes tens of steps for any strength.

Legend: R rows, F width of the features, K principal axes, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mmft.batch import Batch, Outputs
from mmft.tasks.base import Task

STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
"""From strong to weak, relative to the mean loss; each starts from the weights of the one before."""
_CONSTANT = 1e-6  # deviation, relative to the values, of a feature that carries nothing but rounding
_FLAT = 1e-12  # variance of an axis, relative to the largest, that is nothing but rounding


class Labelled(NamedTuple):
    """Rows with fixed features and labels."""

    features: Tensor  # (R, F)
    target: Tensor  # (R, ...) as the task encodes it
    weight: Tensor  # (R,) sample weights

    def where(self, chosen: Tensor) -> Labelled:
        """The rows at (R,) bool or (S,) positions."""
        return Labelled(*(column[chosen] for column in self))

    def batch(self) -> Batch:
        """A batch that a task can score: targets and weights, no inputs."""
        rows = len(self.weight)
        there = torch.ones(rows, dtype=torch.bool)
        return Batch(None, None, None, there, there, torch.arange(rows), self.weight, self.target)


class Linear(NamedTuple):
    """Weights of a linear head."""

    weight: Tensor  # (C, F), or (C, K) along the axes
    bias: Tensor  # (C,)

    def __call__(self, features: Tensor) -> Tensor:
        """(R, F) -> (R, C)."""
        return features @ self.weight.T + self.bias


class Standardised(NamedTuple):
    """How features are centred and scaled to a deviation of 1; constant ones become 0."""

    mean: Tensor  # (F,)
    scale: Tensor  # (F,)

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """From features (R, F)."""
        mean, std = features.mean(0), features.std(0, correction=0)
        varies = std > _CONSTANT * features.abs().amax(0)
        return cls(mean, torch.where(varies, 1 / std, 0.0))

    def __call__(self, features: Tensor) -> Tensor:
        """(R, F) -> (R, F)."""
        return (features - self.mean) * self.scale


class Axes:
    """The principal axes of standardised features.

    Args:
        features: (R, F) float64 of the training rows.
    """

    def __init__(self, features: Tensor) -> None:
        self.standard = Standardised.of(features)
        turned = self.standard(features)
        variances, axes = torch.linalg.eigh(turned.T @ turned / len(turned))  # ascending
        kept = variances > _FLAT * variances[-1]
        self.variances, self.axes = variances[kept], axes[:, kept]  # (K,), (F, K)

    def along(self, features: Tensor) -> Tensor:
        """(R, F) -> (R, K)."""
        turned: Tensor = self.standard(features) @ self.axes
        return turned

    def folded(self, head: Linear) -> Linear:
        """A head along the axes as one on the features themselves."""
        weight = head.weight @ self.axes.T * self.standard.scale  # (C, F)
        return Linear(weight, head.bias - weight @ self.standard.mean)


def solve_path(
    task: Task, rows: Labelled, variances: Tensor, strengths: Sequence[float], start: Linear | None = None
) -> Iterator[Linear]:
    """The heads for `strengths`, each from the one before; to the last digits in float64, roughly in float32.

    Args:
        task: fitted.
        rows: with features (R, K) along the axes.
        variances: (K,) of the axes.
        strengths: of the penalty.
        start: in place of zeros.
    """
    features = rows.features
    head = start or Linear(features.new_zeros(task.width, features.shape[1]), features.new_zeros(task.width))
    for strength in strengths:
        head = _solve(task, rows, variances.to(features), strength, head)
        yield head


def _solve(task: Task, rows: Labelled, variances: Tensor, strength: float, start: Linear) -> Linear:
    exact = rows.features.dtype == torch.float64
    batch = rows.batch()
    count = task.normaliser(batch).to(rows.features)
    size = (variances / task.width + strength).rsqrt()  # (K,) the curvature expected is 1 / C of a feature's variance
    weight = (start.weight / size).requires_grad_()
    bias = start.bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500 if exact else 100,
        tolerance_grad=1e-6 if exact else 1e-4,
        tolerance_change=1e-12 if exact else 1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        scaled = weight * size
        logits = rows.features @ scaled.T + bias  # (R, C)
        loss = task.loss_sum(Outputs(logits, logits, logits), batch) / count
        loss = loss + 0.5 * strength * scaled.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return Linear((weight * size).detach(), bias.detach())


def metric_of(task: Task, logits: Tensor, rows: Labelled, name: str | None = None) -> float:
    """A metric of outputs (R, C), or the mean `loss`; the task's monitored one by default."""
    outputs, batch = Outputs(logits, logits, logits), rows.batch()
    if name == "loss":
        return float(task.loss_sum(outputs, batch) / task.normaliser(batch))
    metrics = task.metrics()
    task.update(metrics, outputs, batch)
    return task.scalars(metrics)[name or task.monitor]
