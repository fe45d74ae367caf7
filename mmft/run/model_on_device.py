"""A finished model on its device, and what it makes of the rows of a split; commands and `mmft.load` build on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Self

from mmft.config.schema.data import DataConfig
from mmft.data.dataset import RowDataset
from mmft.data.images.image import background_of
from mmft.data.loading import make_batches
from mmft.data.splitting.splits import Split
from mmft.models.inference import full_precision, fused_of, outputs_of
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.reports.explain.rows import Explained, Explainer
from mmft.run.by_row import answers_of, embeddings_of, in_order, widths_of
from mmft.run.frozen_rows import FrozenRows
from mmft.run.saved_model import SavedModel
from mmft.training.hardware import device_of, has_bf16


class ModelOnDevice:
    """A finished model and the device it runs on.

    Attributes:
        saved: model, task and config.
        device: the device it runs on.
        labels: label names in score order; empty if the task has no labels.
        frozen: reads what frozen layers compute from the store; from none unless set.

    Raises:
        UserError: a GPU is requested but there is none.
    """

    def __init__(self, saved: SavedModel, accelerator: str = "auto") -> None:
        self.device = device_of(accelerator)
        self.frozen = FrozenRows(None)
        self._take(saved)

    def with_saved(self, saved: SavedModel) -> Self:
        """Another model on the same device."""
        other = copy.copy(self)
        other._take(saved)
        return other

    def _take(self, saved: SavedModel) -> None:
        self.saved = saved
        self.labels: list[str] = list(saved.task.state().get("labels", []))

    @property
    def model(self) -> VisionLanguageModel:
        """The torch module."""
        return self.saved.model

    def answers(self, split: Split, config: DataConfig) -> Iterator[dict[str, Any]]:
        """One prediction per row of `split`, in order; an unreadable row has an `error` instead."""
        precision = full_precision(self.saved.config.trainer.precision)
        batches = self.batches(split, config)
        with self.reading(batches.dataset, config, precision):
            for batch, outputs in outputs_of(self.model, batches, self.device, precision):
                found = {} if outputs is None else answers_of(batch, outputs, self.saved.task)
                yield from in_order(batch, found, self.columns(), split)

    def reading(self, rows: RowDataset, config: DataConfig, precision: str) -> AbstractContextManager[None]:
        """Context in which what frozen layers compute of the rows is read from the store, if there is one."""
        return self.frozen.read(self.saved, rows, config, self.device, precision)

    def explained(self, split: Split, config: DataConfig, label: str | None, points: int) -> Iterator[Explained]:
        """Yields `explain` for a split's rows, one by one, computing `config.batch_size` points at once."""
        answers = {answer["row"]: answer for answer in self.answers(split, config)}  # moves the model to its device
        batches = self.batches(split, replace(config, batch_size=1))
        explainer = Explainer(
            model=self.model,
            task=self.saved.task,
            background=background_of(config),
            label=label,
            points=points,
            at_once=config.batch_size,
            read=batches.dataset.images.reader.decoded,
        )
        return explainer.explained(split.table, batches, answers)

    @property
    def embedded(self) -> dict[str, int]:
        """Names and widths of the embeddings from `embed`.

        For pairwise tasks `image` and `text` in their shared space, normalised to length 1; otherwise both encoders'
        pooled features, and `fused`, the input of the head.
        """
        return widths_of(self.saved)

    def embeddings(self, split: Split, config: DataConfig) -> Iterator[dict[str, Any]]:
        """One dict per row of `split`: `row`, `id`, `error`, and (D,) arrays by name, None if missing."""
        precision = full_precision(self.saved.config.trainer.precision)
        batches = self.batches(split, config)
        with self.reading(batches.dataset, config, precision):
            for batch, fused in fused_of(self.saved.model, batches, self.device, precision):
                found = {} if fused is None else embeddings_of(batch, fused, self.saved)
                yield from in_order(batch, found, ["row", "id", *self.embedded, "error"], split)

    def batches(self, split: Split, config: DataConfig) -> Any:
        """Batches of a split without targets, as the model needs them."""
        return make_batches(split, config, **self.input_options())

    def input_options(self) -> dict[str, Any]:
        """What `make_batches` needs to know about the model and the device."""
        return {
            "tokenizer": self.model.text_encoder.tokenizer,
            "max_length": self.model.text_encoder.max_length,
            "image_size": self.model.image_encoder.image_size,
            "pin": self.device.type == "cuda",
        }

    @property
    def test_precision(self) -> str:
        """Precision of `mmft test`: the run's if the device supports it in hardware, else float32."""
        precision = self.saved.config.trainer.precision
        slow = {"bf16-mixed": not has_bf16(self.device), "16-mixed": self.device.type != "cuda"}
        return full_precision(precision) if slow.get(precision) else precision

    def columns(self) -> list[str]:
        """Column names of a prediction."""
        return ["row", "id", *self.saved.task.answer_columns, "error"]
