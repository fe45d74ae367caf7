"""A linear probe as a measure of what fixed features hold: a linear head at its optimum.

Its strength of L2 is the same for all but few rows, of which a fifth chooses it: with hundreds of features a head could
fit anything to the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmft.batch import Batch
from mmft.data.loading import make_loader
from mmft.tasks.base import Task
from mmft.training.linear_head import Axes, Labelled, metric_of, solve_path

_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_FEW, _FEWEST = 1_000, 10
MOST_ROWS = 20_000
"""Training rows; more hardly improve a linear head."""


class Features(NamedTuple):
    """Features of a split; R rows, D width."""

    image: Tensor  # (R, D) float32, of the image
    text: Tensor  # (R, D) float32, of the text
    target: Tensor  # (R, ...)
    weight: Tensor  # (R,)

    def of(self, modality: str) -> Labelled:
        """Those of `image` or `text`."""
        return Labelled(getattr(self, modality), self.target, self.weight)


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


def linear_head(task: Task, known: Labelled, asked: Labelled) -> float:
    """The task's monitored metric on `asked` of a linear head that was trained on `known`."""
    axes = Axes(known.features.double())
    along = known._replace(features=axes.along(known.features.double()).float())
    strengths = _STRENGTHS[-1:] if len(along.features) >= _FEW else _STRENGTHS[: _chosen(task, known) + 1]
    *_, head = solve_path(task, along, axes.variances, strengths)
    with torch.no_grad():
        return metric_of(task, head(axes.along(asked.features.double()).float()), asked)


def _chosen(task: Task, known: Labelled) -> int:
    """The place of the strength with the least loss on every fifth row, of heads that were trained on the others."""
    held = torch.arange(len(known.features)) % 5 == 0
    if len(held) < _FEWEST:
        return 0
    rest, fifth = known.where(~held), known.where(held)
    axes = Axes(rest.features.double())
    along = rest._replace(features=axes.along(rest.features.double()).float())
    asked = axes.along(fifth.features.double()).float()
    losses = []
    for head in solve_path(task, along, axes.variances, _STRENGTHS):
        with torch.no_grad():
            losses.append(metric_of(task, head(asked), fifth, "loss"))
    return min(range(len(losses)), key=losses.__getitem__)
