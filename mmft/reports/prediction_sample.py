"""A few test rows with the finished model's predictions, for loggers that can show images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmft.config.schema.root import TrainConfig
from mmft.data.loading import make_batches
from mmft.data.splitting.splits import Split
from mmft.data.spread import spread_evenly
from mmft.models.inference import outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.training.hardware import device_of
from mmft.training.loggers.base import Prediction


def sample_predictions(
    model: VisionLanguageModel, task: Task, split: Split, config: TrainConfig, count: int, name: str = "test"
) -> list[Prediction]:
    """At most `count` rows, spread evenly over the split, since a table may be sorted by label.

    Args:
        model: the finished model; moved to the run's device.
        task: fitted.
        split: the test rows; unreadable ones are skipped.
        config: the run's, with absolute paths.
        count: rows, at least 1.
        name: of the split.
    """
    chosen = spread_evenly(len(split), count)
    batches = make_batches(
        Split(split.table, split.rows[chosen]),
        replace(config.data, num_workers=0),
        tokenizer=model.text_encoder.tokenizer,
        max_length=model.text_encoder.max_length,
        image_size=model.image_encoder.image_size,
    )
    found = []
    for batch, outputs in outputs_of(model, batches, device_of(config.trainer.accelerator), config.trainer.precision):
        answers = [] if outputs is None else task.answers(outputs)
        for i, answer in enumerate(answers):
            there = batch.pixel_values is not None and bool(batch.image_present[i])
            image = batch.pixel_values[i] if batch.pixel_values is not None and there else None
            row = split.table.row(int(batch.row[i]))
            label = _label(task, row.label)
            predicted, score = str(answer["prediction"]), answer["score"]
            found.append(Prediction(row.row, row.id, image, row.text, label, predicted, score, name))
    return found


def _label(task: Task, label: Any) -> str:
    """The label for display; empty if it is missing or unusable, in which case the row is still predicted."""
    try:
        return ", ".join(task.label_names(label))
    except ValueError:
        return ""
