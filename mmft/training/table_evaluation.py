"""Evaluates a model on tables of rows in this process alone, whatever trained it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import lightning.pytorch as pl
import torch

from mmft.batch import Batch
from mmft.config.schema.data import DataConfig
from mmft.data.bad_rows import BadRows
from mmft.data.dataset import RowDataset
from mmft.data.loading import make_batches
from mmft.data.splitting.names import table_of
from mmft.data.splitting.splits import Split
from mmft.data.targets import Encode
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.training.callbacks.bad_rows import BadRowReport
from mmft.training.evaluating import Evaluating
from mmft.training.half_precision import precision_plugin


class Evaluated(NamedTuple):
    """Metrics by name, and on how many rows; `bad` ones were left out."""

    metrics: dict[str, float]
    rows: int
    bad: int


class TableEvaluation:
    """A model and a table that it is evaluated on.

    Args:
        model: moved to `device`.
        task: fitted.
        split: the rows.
        data: how they are read and batched.
        device: where the model runs.
        precision: it runs in.
        where: the config key of the table, for messages about bad rows; empty if it is the only one.

    Attributes:
        batches: of the rows.
        rows: as a data set.
        bad: the bad rows known so far.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        task: Task,
        split: Split,
        data: DataConfig,
        device: torch.device,
        precision: str,
        where: str = "",
    ) -> None:
        self.split = split
        self.batches = make_batches(
            split,
            data,
            tokenizer=model.text_encoder.tokenizer,
            max_length=model.text_encoder.max_length,
            image_size=model.image_encoder.image_size,
            encode=Encode.of(task),
            pin=device.type == "cuda",
        )
        self.bad = BadRows(len(split), data.max_bad_fraction, where=where)
        self.rows = cast("RowDataset", self.batches.dataset)
        self.rows.find_missing_images()
        self.bad.add(self.rows.known_bad())  # at once, not batch by batch
        self._module = Evaluating(model, task)
        self._module.tested = split.table.split or "test"
        self._trainer = _trainer(device.type, precision, self.bad)

    def run(self) -> Evaluated:
        """Evaluates the model.

        Raises:
            UserError: too many rows are bad.
        """
        self.bad.check()
        metrics = self.measure(self.batches)
        self.bad.check()
        return Evaluated(metrics, len(self.split) - self.bad.count, self.bad.count)

    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The metrics on other batches of these rows."""
        self._trainer.test(self._module, batches, verbose=False)
        return self._module.results[self._module.tested]


def evaluate_tables(
    model: VisionLanguageModel,
    task: Task,
    splits: Mapping[str, Split],
    data: DataConfig,
    device: torch.device,
    precision: str,
) -> dict[str, Evaluated]:
    """Evaluates a model on test tables, whatever share of their rows is bad.

    Args:
        model: moved to `device`.
        task: fitted.
        splits: the test splits by name, as `test/photo`.
        data: how the rows are read and batched.
        device: where the model runs.
        precision: it runs in.

    Returns:
        The results by table: `photo`.
    """
    data = replace(data, max_bad_fraction=1.0)
    return {
        table_of(name): TableEvaluation(model, task, split, data, device, precision).run()
        for name, split in splits.items()
    }


def _trainer(device: str, precision: str, bad: BadRows) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        plugins=[precision_plugin(precision, device)],
        callbacks=[BadRowReport(bad)],
        logger=False,
        default_root_dir=Path.cwd(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
