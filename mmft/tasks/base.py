"""The interface of a task.

Legend: B batch, C outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import TaskConfig
from mmft.tasks.labels import label_name


class Subject(NamedTuple):
    """What an explanation of a row is of.

    Attributes:
        name: what is told: a label, a target.
        value: outputs of S rows -> (S,) the number that is explained.
        part: what tells it from the others of a row: a task among several, a target among several; "": it is alone.
    """

    name: str
    value: Callable[[Outputs], Tensor]
    part: str = ""


class Task(ABC):
    """What is learned. Knows nothing of encoders, fusion or the trainer.

    Attributes:
        monitor: the validation metric that chooses the best checkpoint by default.
        constant: what a prediction that sees no input is called; see `constant_outputs`.
        loss_terms: the K terms of the loss, weight by name; "" for the only one.
        width: C, the number of outputs that the head must give; known after `fit`.
        facts: its config's class, which says what it needs and what its labels are. Where it `needs_both`, `encode`
            takes a `Pair`; where it is `pairwise`, it is a `PairwiseTask`.
        candidates: of how many other rows' texts a row of a batch may be given one to learn from, which does not
            belong to its image; where there are any, it is measured with one, too. See `mmft.data.candidates`.
        templates: of the prompts that make it a zero-shot classifier of images; None: it cannot be one.
        softmax: whether probabilities are the outputs' softmax, so that only differences of outputs mean something.
    """

    monitor: ClassVar[str]
    constant: ClassVar[str]
    loss_terms: Mapping[str, float] = MappingProxyType({"": 1.0})
    width: int
    facts: ClassVar[type[TaskConfig]] = TaskConfig
    candidates: int = 0
    softmax: bool = False
    templates: list[str] | None = None

    @property
    def parts(self) -> Mapping[str, Task]:
        """The tasks that it consists of, by name; a single task is its own only part, without a name."""
        return {"": self}

    def part_targets(self, name: str, target: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - there is one part
        """Targets (R, ...) -> (R,) bool, True = the row has a label for the part, and these rows' targets of it."""
        return torch.ones(len(target), dtype=torch.bool), target

    @property
    def closing_report(self) -> Literal["modalities", "embeddings", "none"]:
        """What a run ends with: what each modality gives, or how well the embeddings tell labels apart."""
        return "modalities"

    def make_head(self, width: int) -> nn.Module:
        """What turns fused features (B, width) into outputs (B, C): a linear layer."""
        return nn.Linear(width, self.width)

    @abstractmethod
    def fit(self, labels: Sequence[Any]) -> None:
        """Learns what it needs of the training rows' labels (names, weights). Raises UserError."""

    @abstractmethod
    def encode(self, label: Any) -> Any:
        """One label as a target, for `torch.as_tensor`. Raises ValueError with the reason where it is none."""

    def empty_target(self) -> Tensor:
        """A target of zeros, of the shape and type that `encode` gives; known after `fit`."""
        return torch.zeros((), dtype=torch.int64)

    def classes(self, target: Tensor) -> Tensor | None:  # noqa: ARG002 - there are none
        """Targets (R, ...) -> (R,) int64 the class of each row, for `data.sampler=balanced`; None: there are none.

        A task that has them says `has_classes` in its facts.
        """
        return None

    @abstractmethod
    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """() the weighted sum of the rows' losses; `normaliser` of the logical batch divides it."""

    def normaliser(self, batch: Batch) -> Tensor:
        """() float64 the sum of the weights that `loss_sum` gives the rows of `batch`: their sample weights.

        In float64, so that the sum of ranks' sums is that of one process.
        """
        return batch.weight.double().sum()

    def loss_sums(self, outputs: Outputs, batch: Batch) -> Tensor:
        """(K,) `loss_sum` of each term."""
        return self.loss_sum(outputs, batch)[None]

    def normalisers(self, batch: Batch) -> Tensor:
        """(K,) float64 `normaliser` of each term."""
        return self.normaliser(batch)[None]

    @abstractmethod
    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:
        """Targets (R, ...) and weights (R,) of training rows -> (C,) the outputs of a model that sees no input.

        Every row gets the same; it is what `monitor` makes best on the training rows. A figure to compare with.
        """

    def prompts(self) -> list[str]:
        """Texts whose fused features the task wants to know for an evaluation; see `take_prompts`."""
        return []

    def take_prompts(self, fused: Tensor) -> None:
        """Gets the features (prompts, F) of `prompts`, of the model that is evaluated, in rows without an image."""
        raise NotImplementedError(f"{type(self).__name__} has no prompts")

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Fresh metrics, named as they are logged after the split's name."""

    @abstractmethod
    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds the rows of `batch` to `metrics`."""

    @abstractmethod
    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """What `metrics` come to, as numbers."""

    @property
    def headlines(self) -> list[str]:
        """The metrics that are told where there is room for few."""
        return [self.monitor]

    def metric_names(self) -> list[str]:
        """The names of `scalars`."""
        return [str(name) for name in self.metrics()]

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:  # noqa: ARG002 - there are none
        """What `metrics` hold besides numbers: rows of a CSV file, header first, by the file's name."""
        return {}

    @property
    @abstractmethod
    def answer_columns(self) -> list[str]:
        """What `answers` have: `prediction` and `score`, and what the task adds."""

    @property
    def answer_texts(self) -> list[str]:
        """Those of `answer_columns` that hold texts; the others hold numbers."""
        return [] if self.facts.predicts_numbers else ["prediction"]

    @abstractmethod
    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """One dict per row, with `answer_columns` as its keys."""

    @property
    def output_names(self) -> list[str]:
        """What each of the C outputs speaks for, once the task is fitted: labels, or targets ("": the only one)."""
        return [str(name) for name in self.state().get("labels", [])]

    def subjects(self, outputs: Outputs, name: str | None) -> list[Subject]:
        """What there is to explain of a row.

        Args:
            outputs: of the one row.
            name: one of `output_names`; None: what the row's prediction says, else what is likeliest.

        Returns:
            Of a label its logit, less the mean of all where `softmax` is: a shift of all changes no probability.
            Nothing where there is no such name.
        """
        names = self.output_names
        if name is None:
            name = str(self.answers(outputs)[0]["prediction"])
            name = name if name in names else names[int(outputs.logits[0].argmax())]
        return [Subject(name, self._speaking(names.index(name)))] if name in names else []

    def _speaking(self, index: int) -> Callable[[Outputs], Tensor]:
        def value(outputs: Outputs) -> Tensor:
            logits = outputs.logits
            return logits[:, index] - logits.mean(1) if self.softmax else logits[:, index]

        return value

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What the finished model must keep, as JSON can hold it."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave."""

    @abstractmethod
    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether another run's task, of which this is the `state`, means the same by each output of the head."""

    def label_names(self, label: Any) -> list[str]:
        """The names that a row's label is shown and counted under, before `fit` as well; ValueError with the reason."""
        if label is None:
            raise ValueError("no label")
        return [label_name(label)]

    @property
    def tunes(self) -> bool:
        """Whether `tune` is to be called, with the finished model's outputs of the validation rows."""
        return False

    def tune(self, logits: Tensor, target: Tensor, weight: Tensor) -> dict[str, Any]:
        """Sets how outputs become answers (thresholds, a temperature) by what is best on rows not trained on.

        What it sets is in `state`. With several ranks each gets all rows, in the same order.

        Args:
            logits: (R, C) the finished model's, R at least 1, on the CPU.
            target: (R, ...) as the task encodes it.
            weight: (R,).

        Returns:
            What was found, for the run's summary.
        """
        raise NotImplementedError(f"{type(self).__name__} tunes nothing")

    def untuned(self) -> Self:
        """This task as it is in training, to measure other models with."""
        return self


class PairwiseTask(Task):
    """A task whose loss is over all pairs of the logical batch's rows.

    Fused features and head must be such that a row's outputs come from that row alone.
    """

    @abstractmethod
    def pairwise_loss_sum(self, outputs: Outputs, batch: Batch, own: slice) -> Tensor:
        """() the weighted sum of the losses of the rows `own`, each against all rows.

        Args:
            outputs: of all R rows of the logical batch.
            batch: their targets and weights.
            own: the rows of this rank.
        """

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """() the weighted sum of the losses where the batch is all there is."""
        return self.pairwise_loss_sum(outputs, batch, slice(None))

    def constant_outputs(self, target: Tensor, weight: Tensor) -> Tensor:  # noqa: ARG002 - the same for all
        """(2,) the same for every image and every text."""
        return torch.zeros(2)
