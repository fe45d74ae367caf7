"""`task`: what is learned: loss, metrics, targets, answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class TaskConfig(OptionConfig):
    """`task`: base of all tasks."""

    has_classes: ClassVar[bool] = False  # whether each row is of one class; what the task itself says in `Task.classes`
    over_pairs: ClassVar[bool] = False  # whether its loss is over all pairs of rows; what the task says, too
    several_columns: ClassVar[bool] = False  # whether `data.columns.label` may name several


@option("task", "classification", builds="mmft.tasks.classification:Classification")
@dataclass(kw_only=True)
class ClassificationConfig(TaskConfig):
    """One of several classes per row, by cross-entropy."""

    has_classes = True

    labels: list[str] | None = None
    """Label names in order; null: those of the training rows, sorted (numbers by value)."""
    label_smoothing: float = field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] | list[float] = "none"
    """`balanced`: rows / (classes x rows of the class) on the training rows; a list: one number per label."""


@option("task", "regression", builds="mmft.tasks.regression:Regression")
@dataclass(kw_only=True)
class RegressionConfig(TaskConfig):
    """A number per row, or several (`data.columns.label=[a,b]`)."""

    several_columns = True

    loss: Literal["mse", "l1", "huber"] = "mse"
    """Squared error, absolute error, or Huber's: squared where it is small, absolute where it is large."""
    huber_delta: float | None = field(None, gt=0)
    """Where Huber's loss goes over, in standard deviations of the target if they are scaled; null: 1."""
    scale: Literal["standard", "none"] = "standard"
    """`standard`: the model learns targets of mean 0 and deviation 1; predictions are in the targets' own units."""


@option("task", "contrastive", builds="mmft.tasks.contrastive:Contrastive")
@dataclass(kw_only=True)
class ContrastiveConfig(TaskConfig):
    """Which picture and which text belong together, over all pairs of a batch; needs no label."""

    over_pairs = True

    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    """`info_nce`: each row among all others, both ways (CLIP); `sigmoid`: each pair by itself (SigLIP)."""
    temperature: float | None = field(None, gt=0)
    """What similarities are divided by at first; it is learned; null: 0.07, or 0.1 for `sigmoid`."""
    batch_size: int = field(32, ge=1)
    """Rows that are compared at once, which follows `data.batch_size`: the bias of `sigmoid` begins at minus its
    logarithm. SigLIP's own -10 is that of 22,000 rows; it is learned, but short training would hardly move it."""
