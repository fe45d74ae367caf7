"""`mmft train`: the whole program on one screen.

config -> splits -> task -> model -> plan -> data -> module + callbacks + trainer -> fit -> best -> test -> model/
"""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmft import build, clock, logs
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema import TrainConfig
from mmft.data.bad_rows import BadRows
from mmft.data.datamodule import VisionLanguageData
from mmft.data.kept import KEPT
from mmft.data.splits import Split, groups_of_earlier_splits, load_splits
from mmft.errors import ExitCode, MmftError, TrainingError, dead_workers
from mmft.files import settled
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.ranks import Ranks, started
from mmft.reports.closing import report
from mmft.reports.prediction_sample import sample_predictions
from mmft.run_folder import RunFolder
from mmft.runs.initialise import initialise_from
from mmft.runs.saved_model import save_model
from mmft.shipped import located
from mmft.signals import Stopped, StopRequest, stop_signals
from mmft.training.calibrate import tune_on_validation
from mmft.training.callbacks.checkpointing import Checkpointing, resumed_best, step_folder
from mmft.training.callbacks.pruning import Pruned
from mmft.training.callbacks.weight_averaging import validated_weights
from mmft.training.checkpoint import read
from mmft.training.collectives import end_collectives
from mmft.training.csv_log import CsvLog
from mmft.training.hardware import choose_hardware
from mmft.training.loggers.base import RunLogger
from mmft.training.module import FineTuning
from mmft.training.soup import Ingredient, finish_with_soup
from mmft.tuning.table import plan_rows, show_plan, write_plan

log = logging.getLogger(__name__)
_jobs = 0


def train(composed: Composed, path: Path) -> int:
    """Trains by `composed` in the run folder `path`; prints the folder on stdout's last line.

    Returns:
        The exit code.

    Raises:
        MmftError: config, data or training failed; summary.json says `failed` or `stopped`.
    """
    ranks = started()
    folder = RunFolder(path, writes=ranks.is_first)
    if folder.is_completed:
        print(f"{folder.path} is already completed; there is nothing to resume.", file=sys.stderr)
        print(folder.path, flush=True)
        return ExitCode.DONE
    job_started = _job_start()
    base = _working_directory(folder)
    logger = build.build_logger(composed.config.logger) if ranks.is_first else RunLogger()
    with (
        stop_signals() as request,
        folder.owned(),
        logger,
        _recorded(folder, composed.config.seed, ranks, request),
    ):
        here = {"working_directory": str(base)}
        folder.write_config(composed.resolved_for_disk() | here, composed.typed, composed.choices)  # before the imports
        build.preload()
        KEPT.next_job()
        choose_hardware(composed.config.trainer, ranks.local_world)
        resolved = composed.resolved_for_disk() | here
        folder.write_config(resolved, composed.typed, composed.choices)
        logger.start(folder, resolved)
        try:
            run(composed.config, rebase(composed.config, base), folder, base, job_started, request, logger)
        finally:
            end_collectives(together=False)
    if ranks.is_first:
        print(folder.path, flush=True)
    return ExitCode.DONE


def run(
    typed: TrainConfig,
    config: TrainConfig,
    folder: RunFolder,
    base: Path,
    job: clock.Spent,
    request: StopRequest,
    logger: RunLogger,
) -> None:
    """The program: `config` is `typed` with its paths made absolute."""
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    build.check_monitoring(config, task, splits)
    model = build.build_model(config.model, task.make_head, config.seed)
    changed = set() if config.init is None else initialise_from(config.init, located(config.paths.runs), model, task)
    build.add_auxiliary(config, model, task)
    plan = build.build_plan(config, model, changed)
    data = build.build_data(config, splits, model, task)
    if folder.writes:
        show_plan(plan)
        write_plan(plan, folder.path / "tuning.csv")
    logger.log_table("tuning", plan_rows(plan))
    bad = BadRows(sum(data.rows.values()), config.data.max_bad_fraction, folder.bad_rows if folder.writes else None)
    bad.add(data.table_bad)
    bad.check()
    folder.update_summary(parameters=plan.counts(), rows={**data.rows, "bad": bad.count})
    _tell(config, model, data, splits)

    module = build.build_module(config, model, task, plan)
    last, rows_before = resume_point(folder)
    metrics = CsvLog(folder.metrics, keep_rows=rows_before, writes=folder.writes)
    callbacks = build.build_callbacks(config, folder, data, task, plan, metrics, bad, job, request)
    trainer = build.build_trainer(config, folder, data, callbacks, [metrics, logger])
    trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=False)
    model = module.finished()
    checkpointing = next(c for c in callbacks if isinstance(c, Checkpointing))
    if checkpointing.stopped_early:
        log.info("stopped early after optimizer step %d of %d", trainer.global_step, data.plan.total)
    folder.update_summary(stopped_early=checkpointing.stopped_early, **finish(config, module, checkpointing))
    model.auxiliary = None
    place, batches = trainer.strategy.root_device, data.evaluation_loader("val")
    folder.update_summary(**tune_on_validation(model, task, batches, place, config.trainer.precision))
    if "test" in data.rows:
        evaluate(trainer, module, data, folder, logger)
    end_collectives(together=True)
    if not folder.writes:  # what is left takes one rank
        return
    save_model(folder.model, model, task, plan, typed, base)
    logger.log_model(folder.model)
    if "test" in data.rows and logger.predictions:
        logger.log_predictions(sample_predictions(model, task, splits["test"], config, logger.predictions))
    folder.update_summary(rows={**data.rows, "bad": bad.count})
    wanted = folder.sweep is None if config.modality_report is None else config.modality_report
    if wanted and "test" in data.rows:
        folder.update_summary(**report(config, module, data))
    bad.check()


def finish(config: TrainConfig, module: FineTuning, checkpointing: Checkpointing) -> dict[str, Any]:
    """Puts the finished model's weights into `module`: best, last or a soup. Gives what the summary says of it."""
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
    log.info("the finished model is that of optimizer step %s", step)
    found = {"monitor": None if best is None else f"val/{monitor}", "best_step": best, "model_step": step}
    return found | ({"val": checkpointing.best_metrics} if use_best else {})


def evaluate(
    trainer: pl.Trainer, module: FineTuning, data: VisionLanguageData, folder: RunFolder, logger: RunLogger
) -> None:
    """Tests the finished model on the test rows; what comes out goes into the run folder and to the logger."""
    trainer.test(module, datamodule=data, verbose=False)
    found = module.results["test"]
    folder.update_summary(test=found)
    folder.write_tables(module.tables)
    for name, rows in module.tables.items():
        logger.log_table(f"test/{name}", rows)
    log.info("%s", "  ".join(f"test/{name} {found[name]:.4f}" for name in (*module.task.headlines, "loss")))


def resume_point(folder: RunFolder) -> tuple[Path | None, int | None]:
    """The last checkpoint of a run that goes on and the rows of metrics.csv up to it; None, None: a new run.

    A new run's folder is made for it alone, so that whatever is in it is an earlier attempt's.
    """
    if not folder.metrics.exists() and settled(folder.checkpoints / "last") is None:
        return None, None
    if settled(folder.checkpoints / "last") is None:
        log.info("%s was stopped before its first checkpoint; it starts anew", folder.path)
        return None, 0
    last = folder.checkpoints / "last"
    state = read(last, plain=True)
    kept = state["callbacks"]["Checkpointing"]
    if folder.writes:
        resumed_best(folder.checkpoints, kept, state["global_step"])  # a kill may have cut the copies off
    resumed = [*folder.read_summary().get("resumed_from", []), state["global_step"]]
    folder.update_summary(resumed_from=resumed)
    log.info("resuming %s after optimizer step %d", folder.path, state["global_step"])
    return last, kept["metrics_rows"]


def _working_directory(folder: RunFolder) -> Path:
    """What relative paths are relative to: where the run was first started."""
    return Path(folder.read_config()["working_directory"] if folder.config.exists() else Path.cwd())


@contextmanager
def _recorded(folder: RunFolder, seed: int, ranks: Ranks, request: StopRequest) -> Iterator[None]:
    """Keeps `status` true to what happens, and the log open as long."""
    folder.path.mkdir(parents=True, exist_ok=True)
    logs.configure(folder.path / "train.log", ranks.rank)
    status = "failed"
    try:
        folder.start(seed=seed, versions=_versions())
        with request.told(), dead_workers():
            yield
        status = "completed"
    except Pruned as pruned:  # how a trial of a search may end, and nothing to raise
        status = "pruned"
        folder.update_summary(**pruned.summary)
        log.info("%s", pruned)
    except (Stopped, SystemExit) as stop:
        status = "stopped"
        log.info("%s To go on: mmft train resume=%s", stop, folder.path)
        raise
    except MmftError as error:
        folder.update_summary(error=str(error))
        log.debug("failed: %s", error)
        raise
    except torch.OutOfMemoryError as error:
        folder.update_summary(error=str(error))
        raise TrainingError(
            f"Out of memory: {str(error).splitlines()[0]} Try a smaller data.micro_batch_size (the result stays the "
            "same), a smaller model.image_encoder.image_size, or tune=head_only."
        ) from error
    except Exception as error:
        folder.update_summary(error=f"{type(error).__name__}: {error}")
        log.debug("a defect of mmft", exc_info=True)
        raise
    finally:
        with request.held():
            folder.update_summary(status=status)
            logs.close()


def _job_start() -> clock.Spent:
    """When this job began: with the process, unless it has run another job before (a sweep)."""
    global _jobs
    _jobs += 1
    return clock.Spent(0.0, 0.0) if _jobs == 1 else clock.since_start()


def _tell(
    config: TrainConfig, model: VisionLanguageModel, data: VisionLanguageData, splits: Mapping[str, Split]
) -> None:
    """Says what is going to happen, and what a user should know of the rows."""
    log.info("accelerator %s, precision %s", config.trainer.accelerator, config.trainer.precision)
    rows = "  ".join(f"{name} {count}" for name, count in data.rows.items())
    log.info("rows: %s  optimizer steps: %d", rows, data.plan.total)
    for split, cut in data.texts_cut.items():
        if cut:
            log.info("%d of %d texts of %s are cut by model.text_encoder.max_length", cut, data.rows[split], split)
    if leaks := len(list(groups_of_earlier_splits(splits))):
        log.warning("%d rows are of groups that an earlier split has rows of too; mmft check lists them", leaks)
    for modality, tower in (("image", "image_encoder"), ("text", "text_encoder")):
        if getattr(config.data.columns, modality) is None:
            log.warning("data.columns.%s is null: the %s gets nothing and does not change", modality, tower)
    normed = any(isinstance(module, _BatchNorm) and module.training for module in model.modules())
    if config.data.micro_batch_size is not None and normed:
        log.warning("BatchNorm is trained on micro-batches: here the result depends on data.micro_batch_size")


def _versions() -> dict[str, str]:
    packages = ("mmft", "torch", "lightning", "transformers", "timm", "hydra-core")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
