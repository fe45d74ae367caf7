"""How well embeddings predict labels that they were not trained on: the closing line of a run over pairs.

Measured by a linear probe (trained to its optimum on the training rows, as in `closing.py`) and by nearest neighbours
among them. Zero-shot accuracy, from prompts, is one of the task's own metrics.

Legend: R rows, P width of the embeddings, C labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmft.batch import Batch
from mmft.models.inference import fused_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.linear_heads import MOST_ROWS, Features, linear_head, spread
from mmft.tasks.classification import Classification
from mmft.tasks.identities import LABEL

log = logging.getLogger(__name__)
_NEIGHBOURS, _TEMPERATURE = 20, 0.07  # Caron et al. 2021, arXiv 2104.14294
_BLOCK = 1024  # rows compared at once


def embedding_report(
    model: VisionLanguageModel,
    labels: Sequence[str],
    train: Iterable[Batch],
    test: Iterable[Batch],
    precision: str,
    modalities: Sequence[str] = ("image", "text"),
    split: str = "test",
) -> dict[str, float]:
    """Accuracy on the labelled test rows, by `image/linear_probe`, `image/knn`, `text/linear_probe`, `text/knn`.

    Args:
        model: the finished model, on the device to run on.
        labels: label names of the training rows; targets of a pairwise task index them.
        train: batches of the training rows; of many, a sample spread evenly over the table is used.
        test: batches of the test rows.
        precision: the run's.
        modalities: whose embeddings are measured.
        split: name of the test rows in the closing line.
    """
    if len(labels) < 2:
        log.warning("no accuracy of embeddings: the training rows have a single label, %s", *labels)
        return {}
    known, asked = (_labelled(model, rows, precision) for rows in (spread(train, MOST_ROWS), test))
    if known is None or asked is None:
        log.warning("no accuracy of embeddings: train or test has no labelled row")
        return {}
    classes = Classification(list(labels))
    classes.fit(labels)
    found = {}
    for name in modalities:
        rows, queries = getattr(known, name), getattr(asked, name)
        found[f"{name}/linear_probe"] = linear_head(classes, rows, queries, known, asked)
        votes = neighbours(rows, known.target, queries, len(labels))
        found[f"{name}/knn"] = float((votes == asked.target).double().mean())
    shown = [f"{name} {value:.3f}" for name, value in found.items()]
    log.info("accuracy of labels predicted from %s embeddings: %s", split, ", ".join(shown))
    return found


def _labelled(model: VisionLanguageModel, batches: Iterable[Batch], precision: str) -> Features | None:
    """Embeddings and classes of the labelled rows; None if there are none."""
    parts = []
    for batch, fused in fused_of(model, batches, next(model.parameters()).device, precision):
        if fused is not None and batch.target is not None:
            label = batch.target[:, LABEL]
            image, text = fused.features.float().cpu()[label >= 0].chunk(2, dim=-1)
            parts.append(Features(image, text, label[label >= 0], batch.weight[label >= 0]))
    together = Features(*(torch.cat(column) for column in zip(*parts, strict=True))) if parts else None
    return together if together is not None and len(together.weight) else None


def neighbours(rows: Tensor, classes: Tensor, queries: Tensor, count: int) -> Tensor:
    """(Q,) each query's class by weighted vote of its 20 nearest rows, with weights exp(cosine / 0.07).

    Args:
        rows: (R, P), normalised to length 1.
        classes: (R,) int64, below `count`.
        queries: (Q, P), normalised to length 1.
        count: C.
    """
    found = []
    for block in queries.split(_BLOCK):
        near, at = (block @ rows.T).topk(min(_NEIGHBOURS, len(rows)), dim=1)
        votes = torch.zeros(len(block), count).scatter_add_(1, classes[at], (near / _TEMPERATURE).exp())
        found.append(votes.argmax(1))
    return torch.cat(found)
