"""Calibration: temperature scaling and the expected calibration error (Guo et al. 2017, arXiv 1706.04599).

Logits are divided by one number, the temperature, that maximises the likelihood of held-out rows. The predicted class
does not change.

Legend: R rows, C classes.
"""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional
from torchmetrics.classification import MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_calibration_error

from mmft.tasks.metrics.names import CALIBRATION_BINS

log = logging.getLogger(__name__)
COLDEST, HOTTEST = 0.05, 20.0
"""Search range of the temperature."""


class CalibrationError(MulticlassCalibrationError):
    """Torchmetrics' expected calibration error, for a collection whose other metrics receive other probabilities."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, n_bins=CALIBRATION_BINS, norm="l1")

    def update(self, probabilities: Tensor, target: Tensor) -> None:
        """Adds calibrated probabilities (B, C) and targets (B,)."""
        super().update(probabilities, target)


class Reliability(NamedTuple):
    """Negative log-likelihood (weighted mean over rows) and expected calibration error."""

    nll: float
    ece: float

    @classmethod
    def of(cls, logits: Tensor, target: Tensor, weight: Tensor, temperature: float) -> Reliability:
        """From logits (R, C), targets (R,) and weights (R,), not all 0."""
        logits = logits / temperature
        losses = functional.cross_entropy(logits, target, reduction="none")
        nll = (losses * weight).sum() / weight.sum()
        classes = logits.shape[1]
        ece = multiclass_calibration_error(logits.softmax(-1), target, classes, n_bins=CALIBRATION_BINS, norm="l1")
        return cls(float(nll), float(ece))


def calibrated(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[float, dict[str, Any]]:
    """The temperature fitted on held-out rows, and its entries in the run's summary.

    Args:
        logits: (R, C) float64.
        target: (R,) int64.
        weight: (R,) float64; if all are 0 the temperature stays 1, with a warning.
    """
    if not weight.any():
        log.warning("task.calibration: all validation rows have weight 0; the temperature stays 1")
        return 1.0, {}
    temperature = fit_temperature(logits, target, weight)
    before, after = (Reliability.of(logits, target, weight, t) for t in (1.0, temperature))
    log.info(
        "temperature %.3f, fitted on %d validation rows: negative log-likelihood %.4f, before %.4f; "
        "val/ece %.4f, before %.4f",
        *(temperature, len(logits), after.nll, before.nll, after.ece, before.ece),
    )
    if not COLDEST * 1.01 < temperature < HOTTEST / 1.01:
        log.warning("the temperature is at the edge of its range, %g to %g: do not trust it", COLDEST, HOTTEST)
    told = {name: {"before": getattr(before, name), "after": getattr(after, name)} for name in before._fields}
    return temperature, {"temperature": temperature, **told}


def fit_temperature(logits: Tensor, target: Tensor, weight: Tensor) -> float:
    """The temperature, from `COLDEST` to `HOTTEST`, with the lowest negative log-likelihood.

    The loss is convex in the inverse temperature b, a sum of log-sum-exps linear in b: its derivative increases and is
    0 where the expected logit equals, on average, that of the target. Bisection finds this root exactly, without a
    step size, and gives every rank the same result.

    Args:
        logits: (R, C) float64.
        target: (R,) int64.
        weight: (R,) float64, not all 0.
    """
    of_target = logits.gather(1, target[:, None])[:, 0]  # (R,) each row's logit of its own class

    def slope(log_temperature: float) -> float:
        """Derivative of the loss with respect to b."""
        expected = ((logits / math.exp(log_temperature)).softmax(-1) * logits).sum(-1)  # (R,)
        return float(((expected - of_target) * weight).sum())

    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2)
