"""The closing lines of a run: what each modality contributes.

The unimodal figures are those of a linear head on one encoder's final pooled features. They are cheap, and measure what
these features hold, not what a model fine-tuned on one modality would reach. `majority` is the task's constant
prediction (for classes the most frequent one), whatever the class weights. Thresholds and the like, tuned on the
model's own outputs, apply to the model alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mmft.batch import Batch
from mmft.config.schema.root import TrainConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.splitting.names import splits_to_test
from mmft.models.inference import outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.comments import modality_comment
from mmft.reports.embeddings import embedding_report
from mmft.reports.linear_heads import MOST_ROWS, Features, linear_head, spread
from mmft.reports.perplexities import perplexity_report
from mmft.tasks.base import Task
from mmft.tasks.generative import GenerativeTask
from mmft.tasks.metrics.names import lower_is_better
from mmft.training.hardware import device_of
from mmft.training.linear_head import metric_of
from mmft.training.module import FineTuning

log = logging.getLogger(__name__)


def report(config: TrainConfig, module: FineTuning, data: VisionLanguageData) -> dict[str, dict[str, Any]]:
    """What each modality gives on the test rows; for labelled pairs, how well embeddings predict the labels; for a task
    that generates, the perplexity of its answers without and with changed images and texts.

    Of several test tables, on the first.
    """
    device = device_of(config.trainer.accelerator)
    model, task = module.model.to(device), module.task
    test = splits_to_test(data.rows)[0]
    if task.closing_report == "perplexity":
        assert isinstance(task, GenerativeTask)
        return {"perplexity": perplexity_report(config, model, task, data.datasets[test].split, device, test)}
    loaders = data.evaluation_loader("train", whole=True), data.evaluation_loader(test, whole=True)
    precision = config.trainer.precision
    if task.closing_report == "none":
        return {}
    if task.closing_report == "embeddings":
        modalities = ("image", "text") if task.captions_of is None else ("image",)  # captions contain the labels
        return {"embeddings": embedding_report(model, task.state()["labels"], *loaders, precision, modalities, test)}
    found = modality_report(model, task, *loaders, module.results[test], precision, test)
    if config.data.columns.image is not None and config.data.columns.text is not None:
        for name, part in task.parts.items():
            if figures := found.get(name) if name else found:
                prefix = f"{name}: " if name else ""
                lower = lower_is_better(part.monitor, part.minimised)
                log.info("%s%s", prefix, modality_comment(figures, lower, data.rows[test]))
    return {"modalities": found}


def modality_report(
    model: VisionLanguageModel,
    task: Task,
    train: Iterable[Batch],
    test: Iterable[Batch],
    both: Mapping[str, float],
    precision: str,
    split: str = "test",
) -> dict[str, Any]:
    """The task's monitored metric on the test rows, for no modality, each alone, and both (the model itself).

    Several tasks are reported by name, each on the rows that have its label.

    Args:
        model: the finished model, on the device to run on.
        task: fitted.
        train: batches of the training rows; of many, a sample spread evenly over the table is used.
        test: batches of the test rows.
        both: the model's own metrics.
        precision: the run's.
        split: name of the test rows in the closing line.
    """
    task, device = task.untuned(), next(model.parameters()).device
    known = _features(model, spread(train, MOST_ROWS), device, precision)
    asked = _features(model, test, device, precision)
    if known is None or asked is None:
        log.warning("no modality report: no row of train or test could be read")
        return {}
    found: dict[str, Any] = {}
    for name, part in task.parts.items():
        own, own_asked = _of_part(task, name, known), _of_part(task, name, asked)
        if len(own.weight) and len(own_asked.weight):
            monitor, prefix = (f"{name}/{part.monitor}", f"{name}: ") if name else (part.monitor, "")
            found[name] = _figures(part, own, own_asked, both[monitor], f"{prefix}{split}")
    alone: dict[str, Any] = found.get("", found)
    return alone


def _figures(task: Task, known: Features, asked: Features, both: float, title: str) -> dict[str, float]:
    """The figures of one task."""
    constant = task.constant_outputs(known.target, known.weight)
    figures = {
        task.constant.partition(" ")[0]: metric_of(task, constant.expand(len(asked.weight), -1), asked.of("text")),
        "text": linear_head(task, known.of("text"), asked.of("text")),
        "image": linear_head(task, known.of("image"), asked.of("image")),
        "both": both,
    }
    read = [name for name, own in (("text", known.text), ("image", known.image)) if bool((own != own[:1]).any())]
    told = [(task.constant, next(iter(figures.values()))), *((f"{name} only", figures[name]) for name in read)]
    told.append(("both" if len(read) > 1 else "the model", both))
    log.info(
        "%s %s: %s (%s only: a linear head on the encoder's features)",
        title,
        task.monitor,
        ", ".join(f"{name} {value:.3f}" for name, value in told),
        " and ".join(read),
    )
    return figures


def _of_part(task: Task, name: str, features: Features) -> Features:
    """The rows that have a label for a subtask, with that label as target."""
    there, target = task.part_targets(name, features.target)
    return Features(features.image[there], features.text[there], target, features.weight[there])


def _features(
    model: VisionLanguageModel, batches: Iterable[Batch], device: torch.device, precision: str
) -> Features | None:
    """Features of all readable rows; None if there are none."""
    parts: list[Features] = []
    for batch, outputs in outputs_of(model, batches, device, precision):
        if outputs is not None and batch.target is not None:
            parts.append(Features(outputs.image.float().cpu(), outputs.text.float().cpu(), batch.target, batch.weight))
    return Features(*(torch.cat(column) for column in zip(*parts, strict=True))) if parts else None
