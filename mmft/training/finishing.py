"""After the last step: selects the weights of the finished model and evaluates it on the test rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from mmft.config.schema.root import TrainConfig
from mmft.data.datamodule import VisionLanguageData
from mmft.errors import TrainingError, UserError
from mmft.run_folder import RunFolder
from mmft.training.callbacks.checkpointing import Checkpointing, step_folder
from mmft.training.callbacks.weight_averaging import validated_weights
from mmft.training.loggers.base import RunLogger
from mmft.training.module import FineTuning
from mmft.training.soup import Ingredient, finish_with_soup

log = logging.getLogger(__name__)


def finish(config: TrainConfig, module: FineTuning, callbacks: Sequence[pl.Callback]) -> dict[str, Any]:
    """Loads the finished model's weights (best, last or a soup) into `module`; returns values for the summary.

    Raises:
        TrainingError: a checkpoint was damaged since it was written.
    """
    checkpointing = next(c for c in callbacks if isinstance(c, Checkpointing))
    if checkpointing.stopped_early:
        total = module.trainer.datamodule.plan.total  # type: ignore[attr-defined]
        log.info("stopped early after optimizer step %d of %d", module.trainer.global_step, total)
    try:
        return {"stopped_early": checkpointing.stopped_early, **_chosen(config, module, checkpointing)}
    except UserError as error:  # a checkpoint was damaged since it was written; the user has named none
        raise TrainingError(str(error)) from error


def _chosen(config: TrainConfig, module: FineTuning, checkpointing: Checkpointing) -> dict[str, Any]:
    best, monitor = checkpointing.best_step, checkpointing.monitor
    if config.checkpoint.use.startswith("soup") and best is not None:
        kept = [Ingredient(**one, folder=step_folder(checkpointing.folder, one["step"])) for one in checkpointing.kept]
        said = finish_with_soup(config.checkpoint.use, module, kept, monitor, checkpointing.minimised)
        return {"monitor": f"val/{monitor}", "best_step": best, **said}
    if config.checkpoint.use != "last":
        checkpointing.warn_without_best()
    use_best = config.checkpoint.use == "best" and best is not None
    if use_best:
        module.load_state_dict(validated_weights(checkpointing.best), strict=False)
    step = best if use_best else module.trainer.global_step
    log.info("finished model: weights of optimizer step %s", step)
    found = {"monitor": None if best is None else f"val/{monitor}", "best_step": best, "model_step": step}
    return found | ({"val": checkpointing.best_metrics} if use_best else {})


def test_finished(
    trainer: pl.Trainer, module: FineTuning, data: VisionLanguageData, folder: RunFolder, logger: RunLogger
) -> None:
    """Evaluates the finished model on the test rows; results go to the run folder and the logger."""
    trainer.test(module, datamodule=data, verbose=False)
    found = module.results["test"]
    folder.update_summary(test=found)
    folder.write_tables(module.tables)
    for name, rows in module.tables.items():
        logger.log_table(f"test/{name}", rows)
    log.info("%s", "  ".join(f"test/{name} {found[name]:.4f}" for name in (*module.task.headlines, "loss")))
