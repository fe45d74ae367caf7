"""What image and prompt add to a language model's answers: the closing report of tasks that generate.

The perplexity of the rows' own answers on all test rows, as they are and with changed inputs (see
`mmft.reports.modalities`). No texts are generated, which would take several times as long; for the metrics of texts
type `mmft test run=last data.path=FILE modalities=true`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

import torch

from mmft.batch import BadRow, Batch
from mmft.config.schema.root import TrainConfig
from mmft.data.splitting.splits import Split
from mmft.models.inference import scores_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports import modalities
from mmft.tasks.generative import GenerativeTask
from mmft.tasks.metrics.texts import Perplexity
from mmft.training.table_evaluation import TableEvaluation

log = logging.getLogger(__name__)
_TITLES = {
    "both": "",
    "image_shuffled": "images shuffled between rows",
    "text_only": "no images",
    "text_shuffled": "texts shuffled between rows",
    "image_only": "no texts",
}


def perplexity_report(
    config: TrainConfig, model: VisionLanguageModel, task: GenerativeTask, split: Split, device: torch.device, name: str
) -> dict[str, float]:
    """The perplexity of the answers by what the model reads; empty without readable rows.

    Args:
        config: the run's.
        model: the finished model, on the device to run on.
        task: its task.
        split: the test rows.
        device: where the model is.
        name: of the test rows in the closing line.
    """
    precision = config.trainer.precision
    given = TableEvaluation(model, task, split, config.data, device, precision)
    bad: dict[int, BadRow] = {}
    figures = {"both": _perplexity(model, task, given.batches, device, precision, bad)}
    if math.isnan(figures["both"]):
        log.warning("no report of what the image adds: no row of %s could be read", name)
        return {}
    changed = modalities.changes(given.rows, bad, config.seed, alone=True)
    asked = [key for key in _TITLES if key in changed and (config.data.columns.text or not _of_texts(key))]
    for key in asked:
        batches = modalities.changed_loader(given.batches, changed[key], bad)
        figures[key] = _perplexity(model, task, batches, device, precision, bad)
    others = ", ".join(f"{_TITLES[key]} {figures[key]:.2f}" for key in asked)
    log.info("%s perplexity of the answers: %.2f, %s (all rows; no texts are generated)", name, figures["both"], others)
    for note in modalities.notes(model, given.rows, bad, task):
        log.info("%s", note)
    return figures


def _of_texts(key: str) -> bool:
    """Whether a pass changes texts."""
    return key in ("text_shuffled", "image_only")


def _perplexity(
    model: VisionLanguageModel,
    task: GenerativeTask,
    batches: Iterable[Batch],
    device: torch.device,
    precision: str,
    bad: dict[int, BadRow],
) -> float:
    """Of the answers; nan without rows. Adds bad rows to `bad`."""
    metric = Perplexity()
    for batch, outputs in scores_of(model, batches, device, precision):
        bad.update((row.row, row) for row in batch.bad)
        if outputs is not None:
            metric.update(*(part.cpu() for part in task.learned(outputs, batch.to(device))))
    return float(metric.compute())
