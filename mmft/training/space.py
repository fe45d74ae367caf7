"""Free disk space, looked at before training: what the run's checkpoints and its model take, and what is free."""

from __future__ import annotations

from pathlib import Path

from mmft.config.schema.root import TrainConfig
from mmft.errors import UserError, free_bytes
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.tuning.plan import TuningPlan


def check_space(config: TrainConfig, run: Path, model: VisionLanguageModel, plan: TuningPlan, validates: bool) -> None:
    """Checks that checkpoints and model fit on the run folder's disk.

    A checkpoint is replaced by one that is written beside it, so there is one more than is kept.

    Args:
        config: the run's.
        run: the run folder; what a resumed run has written already is counted.
        model: before training.
        plan: what of it is trained.
        validates: whether best checkpoints are kept, too.

    Raises:
        UserError: they do not fit.
    """
    saved = plan.saved_names(model)
    weights = sum(value.nbytes for name, value in model.state_dict().items() if name in saved)
    trained = sum(value.nbytes for value in plan.parameters)
    averages = 0 if config.callbacks.ema.decay is None else trained
    checkpoint = int(weights + averages + config.optim.state_bytes * trained)
    kept = 1 + (config.checkpoint.keep if validates else 0)
    need = max((kept + 1) * checkpoint + weights - _used(run), checkpoint)
    free = free_bytes(run)
    if free < need:
        raise UserError(
            f"paths.runs: {run} has {free:,} bytes free, but the checkpoints and the model of this run take about "
            f"{need:,} more ({kept + 1} checkpoints of {checkpoint:,}, one of them while it is written). Free some "
            "space, or type paths.runs=FOLDER on another disk"
        )


def _used(run: Path) -> int:
    """Bytes of the checkpoints and the model that exist; links count once."""
    files = [path.stat() for part in ("checkpoints", "model") for path in (run / part).rglob("*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())
