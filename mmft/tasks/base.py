"""The task interface.

Legend: B batch, C outputs, R rows, K loss terms, S samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import TaskConfig
from mmft.errors import UserError
from mmft.tasks.labels import label_name
from mmft.tasks.prompts import NAME_ALONE
from mmft.tasks.subject import Subject


class Task(ABC):
    """Labels, loss, metrics and predictions. Independent of encoders, fusion and trainer.

    Attributes:
        monitor: the validation metric that selects the best checkpoint by default.
        minimised: its metrics that are better when lower, besides those of mmft (`mmft.tasks.metrics.names`).
        constant: name of the baseline that sees no input; see `constant_outputs`.
        loss_terms: weight of each of the K loss terms by name; a single term is named "".
        width: C, the number of outputs of the head; known after `fit`.
        facts: the config class, which declares the task's requirements and label type. With `needs_both`, `encode`
            takes a `Pair`; with `pairwise`, the task is a `PairwiseTask`.
        candidates: number of other rows' texts from which a negative is drawn for each training row. If not 0,
            evaluation rows get one negative each, too. See `mmft.data.candidates`.
        templates: prompt templates for zero-shot image classification; None if the task does not support it.
        label_templates: prompt templates of its labels where a pretrained pair classifies by them.
        softmax: whether probabilities are the softmax of the outputs, so that only output differences matter.
    """

    monitor: str
    minimised: Collection[str] = ()
    constant: ClassVar[str]
    loss_terms: Mapping[str, float] = MappingProxyType({"": 1.0})
    width: int
    facts: ClassVar[type[TaskConfig]] = TaskConfig
    candidates: int = 0
    softmax: bool = False
    templates: list[str] | None = None
    label_templates: Sequence[str] = NAME_ALONE

    @property
    def parts(self) -> Mapping[str, Task]:
        """The tasks it consists of, by name; a single task is its own only part, named ""."""
        return {"": self}

    def part_targets(self, name: str, target: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - a single part
        """Targets (R, ...) -> (R,) bool, True = the row has a label for the part, and the part's targets of these."""
        return torch.ones(len(target), dtype=torch.bool), target

    @property
    def captions_of(self) -> Callable[[Any], list[str]] | None:
        """Label -> its captions, which take the place of a row's text, as many for each; None: texts are the table's.

        A training row gets one of them at random, an evaluated row the first.
        """
        return None

    @property
    def closing_report(self) -> Literal["modalities", "embeddings", "perplexity", "none"]:
        """The report at the end of a run: contribution of each modality, or how well embeddings separate labels."""
        return "modalities"

    def make_head(self, width: int) -> nn.Module:
        """The head, fused features (B, width) -> outputs (B, C): a linear layer."""
        return nn.Linear(width, self.width)

    @abstractmethod
    def fit(self, labels: Sequence[Any]) -> None:
        """Collects what the task needs from the training labels (names, weights). Raises UserError."""

    @abstractmethod
    def encode(self, label: Any) -> Any:
        """One label as a target, for `torch.as_tensor`. Raises ValueError with the reason if it is unusable."""

    def encode_evaluated(self, label: Any, unseen: list[str]) -> Any:  # noqa: ARG002 - no labels
        """As `encode`, for an evaluated row; a label that no training row has is a mistake, appended to `unseen`."""
        return self.encode(label)

    def empty_target(self) -> Tensor:
        """A target of zeros with the shape and dtype that `encode` returns; known after `fit`."""
        return torch.zeros((), dtype=torch.int64)

    def classes(self, target: Tensor) -> Tensor | None:  # noqa: ARG002 - no classes
        """Targets (R, ...) -> (R,) int64 class of each row, for `data.sampler=balanced`; None without classes.

        A task with classes declares `has_classes` in its facts.
        """
        return None

    @abstractmethod
    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """() the weighted sum of the rows' losses; it is divided by the `normaliser` of the logical batch."""

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the sum of the row weights used by `loss_sum`: the sample weights.

        In float64, so that the sum over ranks equals that of one process.
        """
        return batch.weight.double().sum()

    def loss_sums(self, outputs: Outputs, batch: Batch) -> Tensor:
        """(K,) `loss_sum` of each term."""
        loss = self.loss_sum(outputs, batch)
        if loss.dim():
            raise UserError(f"{type(self).__name__}.loss_sum gives {tuple(loss.shape)}, and not the sum over the rows")
        return loss[None]

    def normalisers(self, batch: Batch) -> Tensor:
        """(K,) float64 `normaliser` of each term."""
        return self.normaliser(batch)[None]

    def votes(self, target: Tensor) -> Tensor:  # noqa: ARG002 - none
        """Targets (R, ...) -> (R, C) what each row says of each output, to be averaged. Raises UserError without."""
        raise UserError(f"tune.probe=knn: task={self.facts.type} has no votes to average. Type tune.probe=linear")

    def outputs_of_votes(self, mean: Tensor) -> Tensor:
        """Mean votes (..., C) -> (..., C) the outputs that predict them."""
        return mean

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R, ...) and weights (R,) of training rows -> (C,) outputs of a baseline: of their mean vote."""
        return self.outputs_of_votes(weight @ self.votes(target).to(weight) / weight.sum())

    def head_prompts(self) -> list[str]:
        """Texts whose fused features the head starts from; see `start_head`. Empty: it starts from random weights."""
        return []

    def start_head(self, head: nn.Module, fused: Tensor, scale: float) -> None:
        """Starts the head as a pretrained pair's zero-shot classifier.

        Args:
            head: of `make_head`.
            fused: (prompts, F) fused features of `head_prompts`, encoded without an image.
            scale: factor of similarities in the pair's pretraining.
        """
        raise NotImplementedError(f"{type(self).__name__} has a head of random weights")

    def prompts(self) -> list[str]:
        """Texts whose fused features the task needs for an evaluation; see `take_prompts`."""
        return []

    def take_prompts(self, fused: Tensor) -> None:
        """Receives the evaluated model's fused features (prompts, F) of `prompts`, encoded without an image."""
        raise NotImplementedError(f"{type(self).__name__} has no prompts")

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics, under the names they are logged with after the split's prefix."""

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds the rows of `batch` to `metrics`."""

    @abstractmethod
    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """The computed values of `metrics`."""

    @property
    def headlines(self) -> list[str]:
        """The metrics to show where there is room for only a few."""
        return [self.monitor]

    def metric_names(self) -> list[str]:
        """The names of `scalars`."""
        return [str(name) for name in self.metrics()]

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:  # noqa: ARG002 - no tables
        """Tabular results in `metrics`: rows of a CSV file, header first, by file name."""
        return {}

    @property
    @abstractmethod
    def answer_columns(self) -> list[str]:
        """Keys of each of `answers`: `prediction`, `score` and what the task adds."""

    @property
    def answer_texts(self) -> list[str]:
        """The `answer_columns` that hold text; the others hold numbers."""
        return [] if self.facts.predicts_numbers else ["prediction"]

    @abstractmethod
    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """One dict per row, with `answer_columns` as its keys."""

    @property
    def output_names(self) -> list[str]:
        """Names of the C outputs of a fitted task: labels, or targets ("" for a single one)."""
        return [str(name) for name in self.state().get("labels", [])]

    def subjects(self, outputs: Outputs, name: str | None) -> list[Subject]:
        """The quantities of a row to explain.

        Args:
            outputs: of one row.
            name: one of `output_names`; None for the row's prediction, or its likeliest output.

        Returns:
            A label's logit, minus the mean logit with `softmax`: shifting all logits leaves probabilities unchanged.
            Empty if there is no output of that name.
        """
        names = self.output_names
        if name is None:
            name = str(self.answers(outputs)[0]["prediction"])
            name = name if name in names else names[int(outputs.logits[0].argmax())]
        return [Subject(name, self._speaking(names.index(name)))] if name in names else []

    def _speaking(self, index: int) -> Callable[[Outputs], Tensor]:
        def value(outputs: Outputs) -> Tensor:
            logits = outputs.logits
            return logits[:, index] - logits.mean(1) if self.softmax else logits[:, index]  # (S,)

        return value

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON-serialisable state to save with the finished model."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""

    @abstractmethod
    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether another run's task with this `state` gives each output of the head the same meaning."""

    def label_names(self, label: Any) -> list[str]:
        """Names under which a row's label is shown and counted, also before `fit`. Raises ValueError if unusable."""
        if label is None:
            raise ValueError("no label")
        return [label_name(label)]

    def shown_label(self, label: Any) -> Any:
        """A row's label in the form of `prediction`; None without one. Raises ValueError if it is unusable."""
        return ", ".join(self.label_names(label)) or None

    @property
    def tunes(self) -> bool:
        """Whether to call `tune` with the finished model's outputs on the validation rows."""
        return False

    def tune(self, logits: Tensor, target: Tensor, weight: Tensor) -> dict[str, Any]:
        """Fits the step from outputs to answers (thresholds, temperature) on held-out rows.

        The result is part of `state`. Every rank receives all rows, in the same order.

        Args:
            logits: (R, C) of the finished model, R at least 1, on the CPU.
            target: (R, ...) as the task encodes it.
            weight: (R,).

        Returns:
            The fitted values, for the run's summary.
        """
        raise NotImplementedError(f"{type(self).__name__} tunes nothing")

    def untuned(self) -> Self:
        """This task as it was during training, to evaluate other models with."""
        return self


class PairwiseTask(Task):
    """A task whose loss runs over all pairs of rows of the logical batch.

    A row's outputs must depend on that row alone.
    """

    @abstractmethod
    def pairwise_loss_sum(self, outputs: Outputs, batch: Batch, own: slice) -> Tensor:
        """() the weighted sum of the losses of the rows `own`, each against all rows.

        Args:
            outputs: of all R rows of the logical batch.
            batch: targets and weights of the same rows.
            own: this rank's rows.
        """

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """() the weighted sum of the losses when `batch` is the whole logical batch."""
        return self.pairwise_loss_sum(outputs, batch, slice(None))

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:  # noqa: ARG002 - constant
        """(2,) identical for every image and every text."""
        return torch.zeros(2)
