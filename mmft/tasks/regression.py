"""Regression: one number per row, or several.

Legend: B batch, R rows, T targets.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection

from mmft.batch import Batch, Outputs
from mmft.config.schema.task import RegressionConfig
from mmft.errors import UserError
from mmft.models.precision import at_least_float32
from mmft.tasks.base import Task
from mmft.tasks.labels import shown
from mmft.tasks.numbers import numbers_of
from mmft.tasks.subject import Subject

log = logging.getLogger(__name__)
_METRICS = ("rmse", "mae", "r2", "pearson", "spearman")


class Regression(Task):
    """Squared, absolute or Huber error of T targets.

    Targets are standardised with the training rows' mean and standard deviation (unless `scale=none`), which are saved
    with the model; predictions and metrics are in the targets' own units. A row's loss is the mean over its targets,
    times its sample weight.

    With several targets, `rmse` and `mae` average each target's error in units of its standard deviation over the
    training rows, so that no target dominates because of its unit; `r2`, `pearson` and `spearman` are means over
    targets. The table `targets` has each target's own metrics, in its own units. If a split has one row, or a target or
    its predictions are constant in it, correlations (and R2 of such a target) are nan. Metrics ignore sample weights.

    Args:
        loss: `mse`, `l1` or `huber`.
        huber_delta: where Huber's loss changes from squared to absolute, in standardised units; None for 1.
        scale: `standard` or `none`.
    """

    facts = RegressionConfig
    monitor = "rmse"
    constant = "mean"

    def __init__(self, loss: str = "mse", huber_delta: float | None = None, scale: str = "standard") -> None:
        self._loss, self._scale = loss, scale
        self.delta = 1.0 if huber_delta is None else huber_delta
        self._set([""], [0.0], [1.0])

    def _set(self, names: list[str], mean: list[float], std: list[float]) -> None:
        self.names, self.width = names, len(names)
        self.mean, self.std = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)  # (T,)

    def fit(self, labels: Sequence[Any]) -> None:
        """Collects the targets' names, means and standard deviations from the training rows."""
        usable, reason = [], "no label"
        for label in labels:
            try:
                usable.append(numbers_of(label))
            except ValueError as error:
                reason = str(error)
        if not usable:
            raise UserError(f"data.columns.label: no training row has a number as its label: {reason}.")
        values = torch.tensor([list(numbers.values()) for numbers in usable], dtype=torch.float64)  # (R, T)
        names, std = list(usable[0]), values.std(0, correction=0)
        others = len(labels) - len(usable)
        told = f" {others} more {'has' if others == 1 else 'have'} no usable label: {reason}." if others else ""
        _check_spread(names, values, std, told)
        if self._scale == "none":
            self._set(names, [0.0] * len(names), [1.0] * len(names))
        else:
            self._set(names, values.mean(0).tolist(), std.tolist())
        self._spread = std
        if self.width > 1:
            log.info(
                "rmse and mae average %d targets in units of their standard deviation (%s); targets.csv has each "
                "target's metrics in its own units",
                *(self.width, shown([f"{name} {one:.4g}" for name, one in zip(names, std.tolist(), strict=True)])),
            )

    def encode(self, label: Any) -> list[float]:
        """(T,) the standardised targets."""
        values = torch.tensor(list(numbers_of(label).values()), dtype=torch.float64)
        scaled: list[float] = ((values - self.mean) / self.std).tolist()
        return scaled

    def shown_label(self, label: Any) -> Any:
        """The number; with several targets a JSON object."""
        found = numbers_of(label)
        return json.dumps(found) if self.width > 1 else next(iter(found.values()))

    def empty_target(self) -> Tensor:
        """(T,) float32."""
        return torch.zeros(self.width)

    def loss_sum(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Outputs (B, T) and targets (B, T) -> () sum over rows of weight times the mean error of the targets."""
        assert batch.target is not None
        found = at_least_float32(outputs.logits)  # (B, T)
        target = batch.target.to(found.dtype)
        if self._loss == "mse":
            errors = functional.mse_loss(found, target, reduction="none")  # (B, T)
        elif self._loss == "l1":
            errors = functional.l1_loss(found, target, reduction="none")
        else:
            errors = functional.huber_loss(found, target, reduction="none", delta=self.delta)
        return (errors.mean(1) * batch.weight.to(found.dtype)).sum()

    def votes(self, target: Tensor) -> Tensor:
        """Targets (R, T) themselves."""
        return target

    def metrics(self) -> MetricCollection:
        """Root mean squared error, mean absolute error, R2, Pearson and Spearman correlation."""
        return MetricCollection({name: _OverRows(self, name) for name in _METRICS})

    def update(self, metrics: MetricCollection, outputs: Outputs, batch: Batch) -> None:
        """Adds predictions (B, T) and targets (B, T), in their own units."""
        assert batch.target is not None
        metrics.update(self.unscaled(outputs.logits), self.unscaled(batch.target))

    def unscaled(self, values: Tensor) -> Tensor:
        """Standardised values (..., T) -> (..., T) float64 in the targets' own units."""
        return values.double() * self.std.to(values.device) + self.mean.to(values.device)

    def scalars(self, metrics: MetricCollection) -> dict[str, float]:
        """One number each."""
        return {name: float(value) for name, value in metrics.compute().items()}

    def tables(self, metrics: MetricCollection) -> dict[str, list[list[Any]]]:
        """With several targets, `targets`: the metrics of each target in its own units."""
        if self.width == 1:
            return {}
        single = {name: cast("_OverRows", metrics[name]).of_targets().tolist() for name in _METRICS}
        rows = [[target, *(single[name][t] for name in _METRICS)] for t, target in enumerate(self.names)]
        return {"targets": [["target", *_METRICS], *rows]}

    @property
    def answer_columns(self) -> list[str]:
        """`prediction`, an empty `score`, and with several targets one column per target."""
        several = [f"prediction_{name}" for name in self.names] if self.width > 1 else []
        return ["prediction", "score", *several]

    @property
    def answer_texts(self) -> list[str]:
        """`prediction` with several targets, where it is a JSON object."""
        return [] if self.width == 1 else ["prediction"]

    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """The predicted numbers in their own units; with several targets also as one JSON object."""
        found = self.unscaled(outputs.logits).cpu().tolist()
        if self.width == 1:
            return [{"prediction": row[0], "score": None} for row in found]
        named = [dict(zip(self.names, row, strict=True)) for row in found]
        return [
            {"prediction": json.dumps(row), "score": None, **{f"prediction_{name}": v for name, v in row.items()}}
            for row in named
        ]

    @property
    def output_names(self) -> list[str]:
        """Names of the targets."""
        return self.names

    def subjects(self, outputs: Outputs, name: str | None) -> list[Subject]:  # noqa: ARG002 - the same for every row
        """Each target, or the named one, in its own units."""
        wanted = [index for index, target in enumerate(self.names) if name in (None, target)]
        alone = self.width == 1
        return [Subject(self.names[i], partial(self._target, i), "" if alone else self.names[i]) for i in wanted]

    def _target(self, index: int, outputs: Outputs) -> Tensor:
        return self.unscaled(outputs.logits)[:, index]

    def state(self) -> dict[str, Any]:
        """Names, scaling means and deviations of the targets, and their spread over the training rows."""
        return {
            "targets": self.names,
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "spread": self._spread.tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `state`."""
        self._set(list(state["targets"]), state["mean"], state["std"])
        self._spread = torch.tensor(state["spread"], dtype=torch.float64)

    def same_outputs(self, state: Mapping[str, Any]) -> bool:
        """Whether the targets and their scale are the same."""
        return all(state.get(name) == self.state()[name] for name in ("targets", "mean", "std"))


class _OverRows(Metric):
    """One metric over all rows. Stores all rows, so that the result does not depend on their order over ranks.

    Args:
        task: the fitted task.
        name: one of `_METRICS`.
    """

    found: list[Tensor]
    target: list[Tensor]

    def __init__(self, task: Regression, name: str) -> None:
        super().__init__()
        self._task, self._name = task, name
        self.add_state("found", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, found: Tensor, target: Tensor) -> None:
        """Adds rows (B, T) float64."""
        self.found.append(found)
        self.target.append(target)

    def compute(self) -> Tensor:
        """() the mean over targets; rmse and mae of several targets in units of their spread."""
        each = self.of_targets()
        if self._name in ("rmse", "mae") and len(each) > 1:
            each = each / self._task._spread.to(each.device)
        return each.mean()

    def of_targets(self) -> Tensor:
        """(T,) float64 the metric of each target, in its own units."""
        found, target = torch.cat(self.found), torch.cat(self.target)
        if self._name == "rmse":
            return (found - target).square().mean(0).sqrt()
        if self._name == "mae":
            return (found - target).abs().mean(0)
        return torch.stack([_related(self._name, found[:, t], target[:, t]) for t in range(found.shape[1])])


def _related(name: str, found: Tensor, target: Tensor) -> Tensor:
    """() R2 or a correlation of predictions (R,) and targets (R,); nan if undefined.

    Replaces torchmetrics': its R2 treats sums of squares below 1e-4 as 0 and loses precision for numbers far from 0,
    such as timestamps; its ranks overflow when some 65,000 rows tie.
    """
    fixed = [target] if name == "r2" else [target, found]
    if len(target) < 2 or any(bool((values == values[0]).all()) for values in fixed):
        return target.new_tensor(math.nan)
    if name == "r2":
        unexplained: Tensor = (target - found).square().sum() / (target - target.mean()).square().sum()
        return 1 - unexplained
    return _pearson(found, target) if name == "pearson" else _pearson(_ranks(found), _ranks(target))


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    """() Pearson's correlation of (R,) and (R,), neither constant."""
    similarity: Tensor = functional.cosine_similarity(_centred(one), _centred(other), dim=0, eps=0)
    return similarity


def _centred(values: Tensor) -> Tensor:
    """(R,) minus the mean, divided by the largest magnitude so that squares neither overflow nor vanish."""
    values = values - values.mean()
    return values / values.abs().max()


def _ranks(values: Tensor) -> Tensor:
    """(R,) -> (R,) float64 ranks from the smallest, from 1; ties share their mean rank."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    counts = counts.double()
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2)[which]
    return ranks


def _check_spread(names: Sequence[str], values: Tensor, std: Tensor, others: str) -> None:
    """Raises UserError if a target of values (R, T) with deviations (T,) is constant or cannot be scaled.

    Args:
        names: (T,) of the targets.
        values: of the rows with usable labels.
        std: of `values`.
        others: what to say of the rows without.
    """
    for name, column, spread in zip(names, values.T, std.tolist(), strict=True):
        which = f" in column {name}" if name else ""
        if bool((column == column[0]).all()):  # rounding can give equal numbers a nonzero deviation
            raise UserError(
                f"data.columns.label: all training rows have the same number{which}, {column[0]:g}.{others}"
            )
        if spread == 0 or not math.isfinite(spread):
            low, high = column.min(), column.max()
            raise UserError(f"data.columns.label: numbers{which} from {low:g} to {high:g} have no scale in 64 bits.")
