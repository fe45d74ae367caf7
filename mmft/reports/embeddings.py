"""How well embeddings predict labels that they were not trained on: the closing line of a run over pairs.

Measured by a linear probe (trained to its optimum on the training rows, as in `closing.py`) and by nearest neighbours
among them. Zero-shot accuracy, from prompts, is one of the task's own metrics.

Legend: R rows, P width of the embeddings, C labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch

from mmft.batch import Batch
from mmft.models.inference import fused_of
from mmft.models.nearest_neighbours import COSINE, nearest
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.linear_heads import MOST_ROWS, Features, linear_head, spread
from mmft.tasks.classification import Classification
from mmft.tasks.identities import LABEL

log = logging.getLogger(__name__)
_NEIGHBOURS = 20  # Caron et al. 2021, arXiv 2104.14294


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
        found[f"{name}/linear_probe"] = linear_head(classes, known.of(name), asked.of(name))
        near = nearest(rows, queries, _NEIGHBOURS)
        votes = near.mean_votes(classes.votes(known.target), torch.ones(len(rows)), _NEIGHBOURS, COSINE)
        found[f"{name}/knn"] = float((votes.argmax(1) == asked.target).double().mean())
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
