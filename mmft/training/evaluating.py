"""`Evaluating`: the LightningModule that evaluates a model on a task."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from mmft.batch import Batch
from mmft.errors import UserError
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tasks.base import Task
from mmft.training.hard_negatives import with_negatives
from mmft.training.parallel.collectives import gathered
from mmft.training.parallel.merging import merge_metrics
from mmft.training.prompts import fused_texts


class Evaluating(pl.LightningModule):
    """Evaluates a model on a task; all that `mmft test` needs.

    Args:
        model: the model.
        task: provides loss and metrics.

    Attributes:
        tested: the split that `test_step` is given, as `test` or, of several tables, `test/photo`.
        results: metrics of the last evaluation, by split.
        tables: tables of the last evaluation, by name.
    """

    def __init__(self, model: VisionLanguageModel, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.tested = "test"
        self.results: dict[str, dict[str, float]] = {}
        self.tables: dict[str, list[list[Any]]] = {}
        self.metrics = task.metrics()
        self._losses: list[tuple[int, Tensor, Tensor]] = []  # batch number, (K,) loss sums, (K,) weights

    @property
    def evaluated(self) -> VisionLanguageModel:
        """The model that is evaluated."""
        return self.model

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the metrics with a validation batch."""
        self._evaluate(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Resets the metrics, also after an interrupted evaluation."""
        self._losses = []
        self.metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Logs `val/...`."""
        self._log_evaluation("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the metrics with a test batch."""
        self._evaluate(batch, batch_idx)

    def on_test_epoch_start(self) -> None:
        """Resets the metrics."""
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        """Logs `test/...`, or `test/photo/...` of a named table."""
        self._log_evaluation(self.tested)

    def _evaluate(self, batch: Batch, index: int) -> None:
        if not len(batch):
            return
        outputs, batch = with_negatives(self.evaluated, batch)
        self.task.update(self.metrics, outputs, batch)
        number = index * self.trainer.world_size + self.global_rank  # among the batches of all ranks
        self._losses.append((number, self.task.loss_sums(outputs, batch), self.task.normalisers(batch)))

    def _mean_losses(self) -> dict[str, float]:
        """The mean loss over the rows of all ranks, summed in batch order: the same for any number of ranks.

        With several terms each is returned too, and the loss is the weighted sum of those that have rows. Empty without
        rows, nan if no row has a weight.
        """
        own = [(number, losses.tolist(), weights.tolist()) for number, losses, weights in self._losses]
        parts = sorted(part for rank in gathered(own) for part in rank)
        if not parts:
            return {}
        means, terms = [], self.task.loss_terms
        for k in range(len(terms)):
            weight = math.fsum(part[2][k] for part in parts)
            means.append(math.fsum(part[1][k] for part in parts) / weight if weight > 0 else math.nan)
        if len(means) == 1:
            return {"loss": means[0]}
        known = [w * mean for w, mean in zip(terms.values(), means, strict=True) if not math.isnan(mean)]
        named = {f"loss/{name}": mean for name, mean in zip(terms, means, strict=True)}
        return {"loss": math.fsum(known) if known else math.nan, **named}

    def _log_evaluation(self, split: str) -> None:
        losses = self._mean_losses()
        if not losses:
            raise UserError(f"No row of {split} could be read, so nothing can be evaluated; see bad_rows.csv.")
        merge_metrics(self.metrics, [number for number, _, _ in self._losses])
        if prompts := self.task.prompts():
            self.task.take_prompts(fused_texts(self.evaluated, prompts, self.device))
        values = self.task.scalars(self.metrics) | losses
        # The monitored one first, by which listings know a run that had no validation rows.
        first = {name: value for name, value in values.items() if name == self.task.monitor}
        self.results[split], self.tables = first | values, self.task.tables(self.metrics)
        named = {f"{split}/{name}": value for name, value in values.items()}
        self.log_dict(named, logger=False)  # for EarlyStopping; the same on every rank
        self._write(named)

    def _write(self, values: dict[str, float]) -> None:
        """Logs one line to every logger, by optimizer step."""
        for logger in self.trainer.loggers if self.trainer.is_global_zero else ():
            logger.log_metrics({"epoch": self.current_epoch, **values}, step=self.global_step)
