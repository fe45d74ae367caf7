"""`ValidationSample`: during training, texts are written for a sample of the validation rows alone."""

from __future__ import annotations

import logging

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch

from mmft.models.language.generative_model import GenerativeModel
from mmft.training.evaluating import Evaluating

log = logging.getLogger(__name__)
_PURPOSE = 7  # so that the sample is not drawn with the numbers of other draws


class ValidationSample(pl.Callback):
    """Has texts written for `count` of the validation rows, a function of the seed; losses are those of all rows.

    Args:
        rows: (R,) row numbers of the validation split.
        count: how many.
        seed: the run's.
    """

    def __init__(self, rows: npt.NDArray[np.int64], count: int, seed: int) -> None:
        drawn = np.random.default_rng([seed, _PURPOSE]).permutation(rows)[:count]
        self.rows = torch.from_numpy(np.sort(drawn))
        self._of = len(rows)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says what the metrics are of."""
        if trainer.is_global_zero:
            log.info(
                "validation: texts are written for %d of %d rows (task.validation_rows); the loss is that of all",
                *(len(self.rows), self._of),
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Chooses the rows."""
        self._model(pl_module).written_rows = self.rows

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Other evaluations write texts for every row."""
        self._model(pl_module).written_rows = None

    @staticmethod
    def _model(module: pl.LightningModule) -> GenerativeModel:
        assert isinstance(module, Evaluating)
        assert isinstance(module.evaluated, GenerativeModel)
        return module.evaluated
