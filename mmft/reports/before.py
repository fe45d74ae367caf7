"""What a pretrained pair reaches on the test rows before any training, for comparison with the finished model.

Legend: R rows, C labels, P width of the shared space.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mmft.batch import Batch
from mmft.config.schema.root import TrainConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.split_names import splits_to_test, table_of
from mmft.models.inference import fused_of, outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.tasks.prompts import label_embeddings, prompts_of
from mmft.training.hardware import device_of
from mmft.training.prompts import fused_texts

log = logging.getLogger(__name__)
_ACCURACY = "zero_shot/accuracy"


def before_training(
    config: TrainConfig, model: VisionLanguageModel, task: Task, data: VisionLanguageData
) -> dict[str, dict[str, Any]]:
    """The headlines and zero-shot accuracy of a pair as it is on the test rows, as `before`; empty if there are none.

    With several test tables, `tests_before` has those of each, and `before` those of the first.

    Args:
        config: the run's.
        model: untrained; its mode and device are restored.
        task: fitted.
        data: the run's.
    """
    splits = splits_to_test(data.rows)
    if not splits or not model.fusion.facts.of_pair:
        return {}
    device, precision = device_of(config.trainer.accelerator), config.trainer.precision
    told = {}
    for split in splits:
        found = zero_shot_metrics(model, task, data.evaluation_loader(split, whole=True), device, precision)
        told[split] = {name: value for name, value in found.items() if name in (*task.headlines, _ACCURACY)}
    if not told[splits[0]]:
        return {}
    named = {table_of(split): metrics for split, metrics in told.items() if table_of(split)}
    return {"before": told[splits[0]], **({"tests_before": named} if named else {})}


def log_before(summary: Mapping[str, Any]) -> None:
    """Logs what `before_training` has found, from the run's summary."""
    if before := summary.get("before"):
        log.info("before training: %s", "  ".join(f"test/{name} {before[name]:.4f}" for name in before))


def zero_shot_metrics(
    model: VisionLanguageModel, task: Task, test: Iterable[Batch], device: torch.device, precision: str
) -> dict[str, float]:
    """The metrics of a pair as it is: those of a pairwise task, or `zero_shot/accuracy` of a task with classes.

    Args:
        model: with `model/fusion=pretrained`; its mode and device are restored.
        task: fitted.
        test: batches of the test rows.
        device: where to run.
        precision: the run's.

    Returns:
        Metrics by name; empty for a task that zero-shot prediction has no answer to.
    """
    was, home = model.training, next(model.parameters()).device
    try:
        if task.facts.pairwise:
            return _own_metrics(model, task, test, device, precision)
        labels = task.state().get("labels", []) if task.facts.has_classes else []
        return _zero_shot(model, task, labels, test, device, precision) if len(labels) > 1 else {}
    finally:
        model.train(was).to(home)


def _own_metrics(
    model: VisionLanguageModel, task: Task, test: Iterable[Batch], device: torch.device, precision: str
) -> dict[str, float]:
    metrics = task.metrics().to(device)
    for batch, outputs in outputs_of(model, test, device, precision):
        if outputs is not None:
            task.update(metrics, outputs, batch.to(device))
    if prompts := task.prompts():
        task.take_prompts(fused_texts(model, prompts, device).clone())
    return task.scalars(metrics)


def _zero_shot(
    model: VisionLanguageModel,
    task: Task,
    labels: list[str],
    test: Iterable[Batch],
    device: torch.device,
    precision: str,
) -> dict[str, float]:
    """The share of rows with an image that is nearest to its own label's prompts."""
    model.to(device).eval()
    texts = label_embeddings(fused_texts(model, prompts_of(labels, task.label_templates), device), len(labels))
    right, rows = 0, 0
    for batch, fused in fused_of(model, test, device, precision):
        if fused is None or batch.target is None:
            continue
        classes = task.classes(batch.target)
        assert classes is not None
        image = fused.features.chunk(2, dim=-1)[0]  # (R, P)
        found = (image @ texts.to(image).T).argmax(1).cpu()  # (R,)
        right += int(((found == classes) & batch.image_present).sum())
        rows += int(batch.image_present.sum())
    return {_ACCURACY: right / rows} if rows else {}
