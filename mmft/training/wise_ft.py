"""WiSE-FT: the fine-tuned model interpolated with its pretrained start (Wortsman et al. 2022, arXiv 2109.01903).

What began at random, such as a new head, has no start worth going back to and stays fine-tuned. What LoRA and its kin
add starts as no change, so interpolating it scales the change; see `TuningMethod.kept_factors`. Running statistics of a
trained BatchNorm are interpolated like weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.module import FineTuning
from mmft.training.soup import validated

log = logging.getLogger(__name__)

_ROUNDING = 1e-5  # 0.75 is within 0.01 of 0.74, although the difference of their floats is a little more


def interpolated(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) * start + alpha * tuned, in float64, returned in the dtypes and on the devices of `tuned`."""
    return {
        name: torch.lerp(start[name].to(value.device).double(), value.double(), alpha).to(value.dtype)
        for name, value in tuned.items()
    }


def finish_with_interpolation(
    module: FineTuning,
    start: VisionLanguageModel,
    alphas: Sequence[float],
    monitor: str,
    minimised: bool,
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """Interpolates the weights of `module` with the start, identically on all ranks.

    Args:
        module: its trainer has fitted it; it has the fine-tuned weights.
        start: the model as it was before training, tuning methods applied.
        alphas: shares of the fine-tuned weights; with several there are validation rows, and the best is taken, the
            smallest of equally good ones. nan is never the best.
        monitor: the validation metric.
        minimised: True if lower is better.
        tolerance: values that are no more than this worse than the best are equally good.

    Returns:
        Values for the summary: `alpha`, and with validation rows `alphas`, the metric by alpha, and `val`.
    """
    own, began = module.state_dict(), start.state_dict()
    names = [name for name in sorted(module.plan.started_names(module.model)) if began[name].is_floating_point()]
    tuned = {f"model.{name}": own[f"model.{name}"].detach().clone() for name in names}
    before = {f"model.{name}": began[name] for name in names}
    if "val" not in module.trainer.datamodule.rows:  # type: ignore[attr-defined]
        (alpha,) = alphas
        module.load_state_dict(interpolated(before, tuned, alpha), strict=False)
        log.info("finished model: alpha %g (0: the start, 1: as fine-tuned)", alpha)
        return {"alpha": alpha}
    found = {alpha: validated(module, interpolated(before, tuned, alpha)) for alpha in sorted(alphas)}
    values = {alpha: metrics[monitor] for alpha, metrics in found.items()}
    for alpha, value in values.items():
        log.info("wise_ft: alpha %g  val/%s %.4f", alpha, monitor, value)
    alpha = best_alpha(values, minimised, tolerance)
    module.load_state_dict(interpolated(before, tuned, alpha), strict=False)
    log.info("finished model: alpha %g (0: the start, 1: as fine-tuned), val/%s %.4f", alpha, monitor, values[alpha])
    listed = [{"alpha": alpha, f"val/{monitor}": value} for alpha, value in values.items()]
    return {"alpha": alpha, "alphas": listed, "val": found[alpha]}


def best_alpha(values: Mapping[float, float], minimised: bool, tolerance: float = 0.0) -> float:
    """The smallest alpha, nearest to the start, whose value is at most `tolerance` worse than the best.

    A nan is never good; if every value is nan, the largest alpha.
    """
    sign = 1 if minimised else -1
    losses = {alpha: sign * value for alpha, value in values.items() if value == value}
    if not losses:
        return max(values)
    limit = min(losses.values()) + tolerance * (1 + _ROUNDING)
    return min(alpha for alpha, loss in losses.items() if loss <= limit)
