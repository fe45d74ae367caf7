"""What a training started from reaches on the test rows, for comparison with the finished model.

That is a pretrained pair as it was, or the run that `init` names.

Legend: R rows, C labels, P width of the shared space.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from mmft.batch import Batch
from mmft.config.schema.data import DataConfig
from mmft.config.schema.root import TrainConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.splitting.names import splits_to_test, table_of
from mmft.data.splitting.splits import Split
from mmft.errors import UserError
from mmft.models.inference import fused_of, outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run.saved_model import load_model
from mmft.run_folder import init_folder
from mmft.tasks.base import Task
from mmft.tasks.prompts import label_embeddings, prompts_of
from mmft.training.hardware import device_of
from mmft.training.prompts import fused_texts
from mmft.training.table_evaluation import evaluate_tables

log = logging.getLogger(__name__)
_ACCURACY = "zero_shot/accuracy"


def pair_before(
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
        found = _pair_metrics(model, task, data.evaluation_loader(split, whole=True), device, precision)
        told[split] = {name: value for name, value in found.items() if name in (*task.headlines, _ACCURACY)}
    if not told[splits[0]]:
        return {}
    named = {table_of(split): metrics for split, metrics in told.items() if table_of(split)}
    return {"before": told[splits[0]], **({"tests_before": named} if named else {})}


def log_before(summary: Mapping[str, Any]) -> None:
    """Logs what `pair_before` has found, from the run's summary."""
    if before := summary.get("before"):
        log.info("before training: %s", "  ".join(f"test/{name} {before[name]:.4f}" for name in before))


def _pair_metrics(
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


def run_before(
    run: str,
    runs: Path,
    task: Task,
    splits: Mapping[str, Split],
    data: DataConfig,
    device: torch.device,
    precision: str,
) -> dict[str, dict[str, float]] | None:
    """The metrics of the run that `init` names, by table, in this process alone.

    Args:
        run: as typed for `init`.
        runs: see `init_folder`.
        task: the finished model's.
        splits: the test splits by name, as `test/photo`.
        data: the finished model's.
        device: where the model runs.
        precision: it runs in.

    Returns:
        None, after saying why, if that run is gone, or its results mean something else.
    """
    try:
        saved = load_model(init_folder(run, runs))
    except UserError as error:
        log.warning("no figures from before the training: init=%s: %s", run, error)
        return None
    if not comparable(saved.task, task):
        log.info("no figures from before the training: init=%s has another task, or other labels or targets", run)
        return None
    found = evaluate_tables(saved.model, saved.task, splits, data, device, precision)
    return {table: evaluated.metrics for table, evaluated in found.items()}


def comparable(one: Task, other: Task) -> bool:
    """Whether the metrics of two fitted tasks mean the same."""
    if type(one) is not type(other) or one.output_names != other.output_names:
        return False
    # With several targets, metrics are means in units of the training rows' deviations.
    return len(one.output_names) == 1 or one.same_outputs(other.state())
