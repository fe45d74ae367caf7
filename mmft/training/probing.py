"""`tune=probe`: a linear head or nearest neighbours on fixed features, and how their strength is chosen.

Legend: R training rows, Q asked rows, F width of the features, C outputs.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmft.errors import TrainingError
from mmft.models.nearest_neighbours import COSINE, NearestNeighbours, directions, nearest
from mmft.tasks.base import Task
from mmft.tasks.metrics.names import lower_is_better
from mmft.training.linear_head import STRENGTHS, Axes, Labelled, Linear, metric_of, solve_path

_COUNTS = (1, 3, 5, 10, 20, 50, 100)  # neighbours
CERTAIN = 0.9
"""Probability of another label from which a prediction contradicts a row's own."""


class Probe(ABC):
    """What is solved on fixed features, for several strengths.

    Args:
        task: fitted; one of several tasks by itself.
        rows: of training, with features (R, F) float64, those of images first.
        image_width: width of the images' features.

    Attributes:
        strengths: to choose from, the strongest first.
        usual: the one to take where nothing can be chosen by.
        knows_certainty: whether a probability near 1 means more than that few rows were asked.
    """

    strengths: Sequence[Any]
    usual: Any
    knows_certainty = False

    def __init__(self, task: Task, rows: Labelled, image_width: int) -> None:
        self.task, self.rows, self.image_width = task, rows, image_width

    @abstractmethod
    def outputs(self, learned: Tensor, asked: Labelled, strengths: Sequence[Any]) -> Iterator[Tensor]:
        """(Q, C) float32 outputs for the rows `asked` by each strength, learned from those at `learned` (R,) bool."""

    @abstractmethod
    def solve(self, strength: Any, head: nn.Module) -> None:
        """Sets `head`, which reads features as they are, to what all training rows give with this strength."""

    @abstractmethod
    def named(self, strength: Any) -> dict[str, Any]:
        """A strength for the summary."""


class LinearProbe(Probe):
    """A linear head, whose strength is that of its L2 penalty."""

    strengths = STRENGTHS
    usual = 0.01
    knows_certainty = True

    def __init__(self, task: Task, rows: Labelled, image_width: int) -> None:
        super().__init__(task, rows, image_width)
        self._axes = Axes(rows.features)
        self._exact = rows._replace(features=self._axes.along(rows.features))
        self._rough = self._exact._replace(features=self._exact.features.float())

    def outputs(self, learned: Tensor, asked: Labelled, strengths: Sequence[Any]) -> Iterator[Tensor]:
        """Each strength starts from the weights of the one before."""
        rows = self._rough if bool(learned.all()) else self._rough.where(learned)
        along = self._axes.along(asked.features).float()
        for head in solve_path(self.task, rows, self._axes.variances, strengths):
            yield head(along)

    def solve(self, strength: float, head: nn.Module) -> None:
        """In float64, from the rough solution."""
        assert isinstance(head, nn.Linear)
        before = [one for one in self.strengths if one >= strength]
        *_, rough = solve_path(self.task, self._rough, self._axes.variances, before)
        start = Linear(rough.weight.double(), rough.bias.double())
        (found,) = solve_path(self.task, self._exact, self._axes.variances, [strength], start)
        folded = self._axes.folded(found)
        with torch.no_grad():
            head.weight.copy_(folded.weight)
            head.bias.copy_(folded.bias)

    def named(self, strength: float) -> dict[str, Any]:
        """The factor of the penalty."""
        return {"l2": strength}


class NeighbourProbe(Probe):
    """Nearest neighbours, whose strength is their number and how they are weighted."""

    strengths = tuple(itertools.product(reversed(_COUNTS), (math.inf, COSINE)))
    usual = (20, COSINE)

    def __init__(self, task: Task, rows: Labelled, image_width: int) -> None:
        super().__init__(task, rows, image_width)
        self._votes = task.votes(rows.target).float()
        self._directions = self._of(rows)

    def _of(self, rows: Labelled) -> Tensor:
        return directions(rows.features.float(), self.image_width)

    def outputs(self, learned: Tensor, asked: Labelled, strengths: Sequence[Any]) -> Iterator[Tensor]:
        """All from one search."""
        near = nearest(self._directions[learned], self._of(asked), max(count for count, _ in strengths))
        votes, weight = self._votes[learned], self.rows.weight[learned]
        for count, temperature in strengths:
            yield self.task.outputs_of_votes(near.mean_votes(votes, weight, count, temperature))

    def solve(self, strength: tuple[int, float], head: nn.Module) -> None:
        """Copies the rows."""
        assert isinstance(head, NearestNeighbours)
        found = {
            "rows": self._directions,
            "votes": self._votes,
            "weight": self.rows.weight,
            "image_width": torch.tensor(self.image_width),
            "count": torch.tensor(strength[0]),
            "temperature": torch.tensor(strength[1]),
        }
        head.hold(**{name: value.to(head.rows.device) for name, value in found.items()})

    def named(self, strength: tuple[int, float]) -> dict[str, Any]:
        """The number of neighbours, and how they are weighted."""
        return {"neighbours": strength[0], "weighting": "uniform" if strength[1] == math.inf else "cosine"}


PROBES: dict[str, Callable[[Task, Labelled, int], Probe]] = {"linear": LinearProbe, "knn": NeighbourProbe}
"""By `tune.probe`."""


class Choice(NamedTuple):
    """A strength, and by which value of what it was chosen; None and "" for the usual one."""

    strength: Any
    value: float | None
    by: str


def choose(probe: Probe, metric: str, val: Labelled | None, folds: npt.NDArray[np.int64]) -> Choice:
    """The strength that is best by a metric, of equally good ones by the loss: on the validation rows, or across folds.

    Args:
        probe: of the training rows.
        metric: of the task, or `loss`.
        val: None without validation rows.
        folds: (R,) of the training rows, for want of others.

    Raises:
        TrainingError: no strength gives a finite metric.
    """
    task, rows = probe.task, probe.rows
    if val is not None:
        all_of_them = torch.ones(len(rows.weight), dtype=torch.bool)
        asked, by, found = val, f"val/{metric}", probe.outputs(all_of_them, val, probe.strengths)
    elif len(np.unique(folds)) > 1:
        asked, by, found = rows, f"cross-validated {metric}", iter(cross_validated(probe, folds, probe.strengths))
    else:
        return Choice(probe.usual, None, "")
    values = [[metric_of(task, outputs, asked, name) for name in (metric, "loss")] for outputs in found]
    sign = -1 if lower_is_better(metric, task.minimised) else 1
    finite = [(sign * value, -loss, -at) for at, (value, loss) in enumerate(values) if math.isfinite(value)]
    if not finite:
        raise TrainingError(
            f"tune=probe: {by} is finite for no strength. Type checkpoint.monitor=loss, or another metric"
        )
    best = -max(finite)[2]
    return Choice(probe.strengths[best], values[best][0], by)


def cross_validated(probe: Probe, folds: npt.NDArray[np.int64], strengths: Sequence[Any]) -> list[Tensor]:
    """For each strength, (R, C) outputs for every training row, learned from the rows of the other folds."""
    found = [torch.zeros(len(folds), probe.task.width) for _ in strengths]
    for fold in np.unique(folds):
        held = torch.from_numpy(folds == fold)
        for every, outputs in zip(found, probe.outputs(~held, probe.rows.where(held), strengths), strict=True):
            every[held] = outputs
    return found


class Contradicted(NamedTuple):
    """A training row whose label a probe of other rows contradicts."""

    at: int
    label: int
    predicted: int
    probability: float


def contradicted(probe: Probe, strength: Any, folds: npt.NDArray[np.int64]) -> list[Contradicted] | None:
    """The training rows whose labels a probe of the other folds contradicts with certainty, most certain first.

    None for a task without classes, and where nothing is certain or there is one fold.
    """
    classes = probe.task.classes(probe.rows.target)
    if classes is None or not (probe.task.softmax and probe.knows_certainty) or len(np.unique(folds)) < 2:
        return None
    (outputs,) = cross_validated(probe, folds, [strength])
    likely = outputs.softmax(1).max(1)
    wrong = ((likely.indices != classes) & (likely.values >= CERTAIN)).nonzero().squeeze(1).tolist()
    found = [Contradicted(at, int(classes[at]), int(likely.indices[at]), float(likely.values[at])) for at in wrong]
    return sorted(found, key=lambda one: -one.probability)
