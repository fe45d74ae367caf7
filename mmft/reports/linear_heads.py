"""A linear probe: a linear head trained to its optimum on fixed features, a cheap measure of what they hold.

It is trained with the task's own loss, including class weights.

Legend: R rows, D width of the features, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmft.batch import Batch, Outputs
from mmft.data.loading import make_loader
from mmft.tasks.base import Task

_L2 = 1e-2  # on standardised features, relative to the mean loss
MOST_ROWS = 20_000
"""Training rows; more hardly improve a linear head."""


class Features(NamedTuple):
    """Features of a split."""

    image: Tensor  # (R, D) float32, of the image
    text: Tensor  # (R, D) float32, of the text
    target: Tensor  # (R, ...)
    weight: Tensor  # (R,)


def spread(loader: Iterable[Batch], most: int) -> Iterable[Batch]:
    """Every k-th batch, so that about `most` rows remain: a table may be sorted by label."""
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return loader
    batches = list(loader.batch_sampler)
    step = math.ceil(sum(map(len, batches)) / most)
    if step <= 1:
        return loader
    dataset: Any = loader.dataset
    collate: Any = loader.collate_fn
    return make_loader(dataset, batches[::step], collate, num_workers=loader.num_workers, pin=loader.pin_memory)


def linear_head(task: Task, x: Tensor, x_test: Tensor, known: Features, asked: Features) -> float:
    """Trains a linear head on features (R, D) to its optimum; returns its metric on the test features."""
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    with torch.enable_grad():
        head = _fit(task, (x - mean) / std, known)
    with torch.no_grad():
        return metric_of(task, head((x_test - mean) / std), asked)


def metric_of(task: Task, logits: Tensor, asked: Features) -> float:
    """The monitored metric of outputs (R, C)."""
    metrics = task.metrics()
    task.update(metrics, _outputs(logits), _batch(asked))
    return task.scalars(metrics)[task.monitor]


def _fit(task: Task, x: Tensor, known: Features) -> nn.Linear:
    head = nn.Linear(x.shape[1], task.width)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    batch = _batch(known)
    rows = task.normaliser(batch)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss_sum(_outputs(head(x)), batch) / rows + 0.5 * _L2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


def _outputs(logits: Tensor) -> Outputs:
    return Outputs(logits, logits, logits)


def _batch(features: Features) -> Batch:
    """A batch that a task can score: targets and weights, no inputs."""
    rows = len(features.weight)
    there = torch.ones(rows, dtype=torch.bool)
    return Batch(
        pixel_values=None,
        input_ids=None,
        attention_mask=None,
        image_present=there,
        text_present=there,
        row=torch.arange(rows),
        weight=features.weight,
        target=features.target,
    )
