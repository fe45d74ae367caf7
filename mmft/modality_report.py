"""What each modality gives: the closing line of a run (DESIGN 8.4).

The unimodal figures are those of a linear head, trained alone on one tower's final pooled features; this
is cheap and says what the tower's features hold, not what a model fine-tuned on one modality would reach.
The heads are trained with the task's own loss, class weights included; `majority` is the task's constant
prediction (for classes the most frequent one), whatever they are. What the task has tuned on the model's own
outputs (thresholds) is left aside for all but the model itself.

Legend: R rows, D pooled width, C outputs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmft.batch import Batch, Outputs
from mmft.data.loading import make_loader
from mmft.inference import outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.tasks.several import Several

log = logging.getLogger(__name__)
_L2 = 1e-2  # on standardised features, of the mean loss
MOST_ROWS = 20_000
"""Training rows; more tell a linear head little."""


class Features(NamedTuple):
    """Pooled features of a split."""

    image: Tensor  # (R, D_image) float32
    text: Tensor  # (R, D_text) float32
    target: Tensor  # (R, ...)
    weight: Tensor  # (R,)


def modality_report(
    model: VisionLanguageModel,
    task: Task,
    train: Iterable[Batch],
    test: Iterable[Batch],
    both: Mapping[str, float],
    precision: str,
) -> dict[str, Any]:
    """The task's monitored metric on the test rows, for no modality, each alone, and the model's own.

    Of several tasks each has its own figures, by its name, on the rows that have its label.

    Args:
        model: the finished model, on the device where it is to run.
        task: fitted.
        train: batches of the training rows; of many, some that are spread evenly over the table are taken.
        test: batches of the test rows.
        both: the model's own metrics.
        precision: the run's.
    """
    task, device = task.untuned(), next(model.parameters()).device
    known = _features(model, spread(train, MOST_ROWS), device, precision)
    asked = _features(model, test, device, precision)
    if known is None or asked is None:
        log.warning("no modality report: no row of train or test could be read")
        return {}
    if not isinstance(task, Several):
        return _figures(task, known, asked, both[task.monitor])
    found: dict[str, Any] = {}
    for name, part in task.parts.items():
        own, own_asked = _of_part(task, name, known), _of_part(task, name, asked)
        if len(own.weight) and len(own_asked.weight):
            found[name] = _figures(part, own, own_asked, both[f"{name}/{part.monitor}"], f"{name}: ")
    return found


def _figures(task: Task, known: Features, asked: Features, both: float, prefix: str = "") -> dict[str, float]:
    """One task's."""
    constant = task.constant_outputs(known.target, known.weight)
    figures = {
        task.constant.partition(" ")[0]: _metric(task, constant.expand(len(asked.weight), -1), asked),
        "text": linear_head(task, known.text, asked.text, known, asked),
        "image": linear_head(task, known.image, asked.image, known, asked),
        "both": both,
    }
    log.info(
        "%stest %s: %s %.3f, text only %.3f, picture only %.3f, both %.3f "
        "(text and picture only: a linear head on the tower's features)",
        prefix,
        task.monitor,
        task.constant,
        *figures.values(),
    )
    return figures


def _of_part(task: Several, name: str, features: Features) -> Features:
    """The rows that have a label for one of several tasks, and what it is."""
    there = task.labelled(name, features.target)
    target = task.targets_of(name, features.target[there])
    return Features(features.image[there], features.text[there], target, features.weight[there])


def _features(
    model: VisionLanguageModel, batches: Iterable[Batch], device: torch.device, precision: str
) -> Features | None:
    """Features of all rows that can be read; None where none can."""
    parts: list[Features] = []
    for batch, outputs in outputs_of(model, batches, device, precision):
        if outputs is not None and batch.target is not None:
            parts.append(Features(outputs.image.float().cpu(), outputs.text.float().cpu(), batch.target, batch.weight))
    return Features(*(torch.cat(column) for column in zip(*parts, strict=True))) if parts else None


def spread(loader: Iterable[Batch], most: int) -> Iterable[Batch]:
    """About `most` rows of a loader at most: every k-th batch, since a table may be sorted by label."""
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
    """Trains a linear head on features (R, D) to its optimum; its metric on the test features."""
    mean, std = x.mean(0), x.std(0).clamp_min(1e-6)
    with torch.enable_grad():
        head = _fit(task, (x - mean) / std, known)
    with torch.no_grad():
        return _metric(task, head((x_test - mean) / std), asked)


def _metric(task: Task, logits: Tensor, asked: Features) -> float:
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
