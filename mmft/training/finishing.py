"""After the last step: selects the weights of the finished model and evaluates it on the test rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl

from mmft.config.schema.root import TrainConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.data.splitting.names import file_of, splits_to_test, table_of
from mmft.errors import TrainingError, UserError
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.run_folder import RunFolder
from mmft.training.callbacks.checkpointing import Checkpointing, step_folder
from mmft.training.callbacks.weight_averaging import validated_weights
from mmft.training.loggers.base import RunLogger
from mmft.training.module import FineTuning
from mmft.training.soup import Ingredient, finish_with_soup
from mmft.training.wise_ft import finish_with_interpolation

log = logging.getLogger(__name__)
_ALPHA = 0.5

MakeStart = Callable[[], VisionLanguageModel]
"""Builds the model as it was before training, tuning methods applied."""


def finish(
    config: TrainConfig, module: FineTuning, callbacks: Sequence[pl.Callback], make_start: MakeStart
) -> dict[str, Any]:
    """Loads the finished model's weights (best, last, a soup or `wise_ft`) into `module`.

    Args:
        config: the whole config.
        module: its trainer has fitted it.
        callbacks: the trainer's.
        make_start: called if `checkpoint.use` needs the start.

    Returns:
        Values for the summary.

    Raises:
        TrainingError: a checkpoint was damaged since it was written.
    """
    checkpointing = next(c for c in callbacks if isinstance(c, Checkpointing))
    if checkpointing.stopped_early:
        total = module.trainer.datamodule.plan.total  # type: ignore[attr-defined]
        log.info("stopped early after optimizer step %d of %d", module.trainer.global_step, total)
    try:
        return {"stopped_early": checkpointing.stopped_early, **_chosen(config, module, checkpointing, make_start)}
    except UserError as error:  # a checkpoint was damaged since it was written; the user has named none
        raise TrainingError(str(error)) from error


def _chosen(
    config: TrainConfig, module: FineTuning, checkpointing: Checkpointing, make_start: MakeStart
) -> dict[str, Any]:
    best, monitor = checkpointing.best_step, checkpointing.monitor
    if config.checkpoint.use.startswith("soup") and best is not None:
        kept = [Ingredient(**one, folder=step_folder(checkpointing.folder, one["step"])) for one in checkpointing.kept]
        said = finish_with_soup(config.checkpoint.use, module, kept, monitor, checkpointing.minimised)
        return {"monitor": f"val/{monitor}", "best_step": best, **said}
    if config.checkpoint.use != "last":
        checkpointing.warn_without_best()
    use_best = config.checkpoint.use in ("best", "wise_ft") and best is not None
    if use_best:
        module.load_state_dict(validated_weights(checkpointing.best), strict=False)
    step = best if use_best else module.trainer.global_step
    found = {"monitor": None if best is None else f"val/{monitor}", "best_step": best, "model_step": step}
    if config.checkpoint.use == "wise_ft":
        given = _ALPHA if config.checkpoint.alpha is None else config.checkpoint.alpha
        alphas = given if isinstance(given, list) else [given]
        log.info("wise_ft: interpolating the weights of optimizer step %s with their start", step)
        tolerance, minimised = config.checkpoint.alpha_tolerance, checkpointing.minimised
        return found | finish_with_interpolation(module, make_start(), alphas, monitor, minimised, tolerance)
    log.info("finished model: weights of optimizer step %s", step)
    return found | ({"val": checkpointing.best_metrics} if use_best else {})


def test_finished(
    trainer: pl.Trainer, module: FineTuning, data: VisionLanguageData, folder: RunFolder, logger: RunLogger
) -> None:
    """Evaluates the finished model on the test rows; results go to the run folder and the logger.

    With several test tables, the summary has the metrics of each under `tests`, and those of the first also as `test`.
    """
    splits = splits_to_test(data.rows)
    for split in splits:
        module.tested = split
        trainer.test(module, data.evaluation_loader(split), verbose=False)
        found = module.results[split]
        folder.write_tables({file_of(name, split): rows for name, rows in module.tables.items()})
        for name, rows in module.tables.items():
            logger.log_table(f"{split}/{name}", rows)
        log.info("%s", "  ".join(f"{split}/{name} {found[name]:.4f}" for name in (*module.task.headlines, "loss")))
    named = {table_of(split): module.results[split] for split in splits if table_of(split)}
    folder.update_summary(test=module.results[splits[0]], **({"tests": named} if named else {}))
