"""Soups: one model with the mean of several checkpoints' weights (Wortsman et al. 2022, arXiv 2203.05482).

Floating point tensors are averaged, including a BatchNorm's running statistics: exact ones would take another pass over
the training rows. Integers (counters) are those of the best checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor

from mmft.ranks import beat
from mmft.training.callbacks.weight_averaging import validated_weights
from mmft.training.module import FineTuning

log = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]
Metrics = dict[str, float]


class Ingredient(NamedTuple):
    """A checkpoint: optimizer steps done, validation metrics, and its folder."""

    step: int
    metrics: Metrics
    folder: Path


class Soup:
    """The mean of its ingredients, of which the first is the best.

    Args:
        first: weights by name.
    """

    def __init__(self, first: Weights) -> None:
        self.first = first
        self._sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
        self.count = 1

    def with_(self, weights: Weights) -> Self:
        """Returns a soup with one more ingredient; this one is unchanged."""
        more = type(self)(self.first)
        more._sums = {name: value + weights[name].double() for name, value in self._sums.items()}
        more.count = self.count + 1
        return more

    def weights(self) -> dict[str, Tensor]:
        """The mean, summed in float64 and returned in the original dtypes."""
        means = {name: (value / self.count).to(self.first[name].dtype) for name, value in self._sums.items()}
        return {**self.first, **means}


class Cooked(NamedTuple):
    """A finished soup: weights, the optimizer steps it averages (best first), and validation metrics."""

    weights: Weights
    steps: list[int]
    metrics: Metrics


def uniform_soup(kept: Sequence[Ingredient], validate: Callable[[Weights], Metrics]) -> Cooked:
    """The mean of all checkpoints.

    Args:
        kept: best first.
        validate: weights -> their metrics.
    """
    soup = Soup(validated_weights(kept[0].folder))
    for other in kept[1:]:
        soup = soup.with_(validated_weights(other.folder))
    weights = soup.weights()
    return Cooked(weights, [one.step for one in kept], validate(weights))


def greedy_soup(
    kept: Sequence[Ingredient], validate: Callable[[Weights], Metrics], monitor: str, minimised: bool
) -> Cooked:
    """Starts from the best and adds each next one, best to worst, unless the soup gets worse on the validation rows.

    Args:
        kept: best first.
        validate: weights -> their metrics; called once for each but the first.
        monitor: the metric that decides; nan counts as worse.
        minimised: True if lower is better.
    """
    soup, steps, metrics = Soup(validated_weights(kept[0].folder)), [kept[0].step], kept[0].metrics
    for other in kept[1:]:
        tried = soup.with_(validated_weights(other.folder))
        found = validate(tried.weights())
        new, old = found[monitor], metrics[monitor]
        taken = new <= old if minimised else new >= old
        log.info("soup: step %d %s, val/%s %.4f", other.step, "added" if taken else "rejected", monitor, new)
        if taken:
            soup, steps, metrics = tried, [*steps, other.step], found
    return Cooked(soup.weights(), steps, metrics)


def finish_with_soup(
    kind: str, module: FineTuning, kept: Sequence[Ingredient], monitor: str, minimised: bool
) -> dict[str, Any]:
    """Loads a soup of the run's best checkpoints into `module` after training, identically on all ranks.

    Args:
        kind: `soup_uniform` or `soup_greedy`.
        module: its trainer has fitted it, and has validation rows.
        kept: best first, at least one.
        monitor: the validation metric.
        minimised: True if lower is better.

    Returns:
        Values for the summary: `soup_steps`, and `val`, the soup's own metrics.
    """
    if len(kept) == 1:
        log.warning("checkpoint.use=%s: only one checkpoint was validated, so the soup is that checkpoint", kind)

    def validate(weights: Weights) -> Metrics:
        return validated(module, weights)

    greedy = kind == "soup_greedy"
    cooked = greedy_soup(kept, validate, monitor, minimised) if greedy else uniform_soup(kept, validate)
    module.load_state_dict(cooked.weights, strict=False)
    both = cooked.metrics[monitor], kept[0].metrics[monitor]
    steps = ", ".join(map(str, cooked.steps))
    log.info("finished model: soup of optimizer steps %s, val/%s %.4f (best: %.4f)", steps, monitor, *both)
    return {"model_step": None, "soup_steps": cooked.steps, "val": cooked.metrics}


def validated(module: FineTuning, weights: Weights) -> Metrics:
    """Loads weights and runs the same validation as in training, without loggers, which go by optimizer steps."""
    module.load_state_dict(weights, strict=False)
    trainer: Any = module.trainer
    loggers, trainer.loggers = trainer.loggers, []
    try:
        trainer.validate(module, datamodule=trainer.datamodule, verbose=False)
    finally:
        trainer.loggers = loggers
        beat("idle")  # as after training: passes over test rows are not timed
    return module.results["val"]
