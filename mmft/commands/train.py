"""`mmft train`: the whole program on one screen.

config -> splits -> subset -> task -> model -> plan -> data -> module + callbacks + trainer -> fit -> best -> test ->
model/ (`tune=probe` solves the head in place of fit and best)
"""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl

from mmft import build, clock
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import TrainConfig
from mmft.data.bad_rows import BadRows
from mmft.data.datamodule import VisionLanguageData
from mmft.data.job_cache import JOB_CACHE
from mmft.data.splitting.names import splits_to_test, table_of
from mmft.data.splitting.splits import Split, load_splits
from mmft.errors import ExitCode
from mmft.files import located
from mmft.models.inference import full_precision
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.ranks import started
from mmft.reports.closing import report
from mmft.reports.logged_curves import log_curves
from mmft.reports.opening import announce, report_bad_rows
from mmft.reports.prediction_sample import sample_predictions
from mmft.reports.probes import compare_with_probe, tell_contradicted
from mmft.reports.tables_compared import side_by_side
from mmft.run.attributions_file import attributed_rows, write_attributions
from mmft.run.before import log_before, pair_before, run_before
from mmft.run.initialise import initialise_from
from mmft.run.loaded_model import LoadedModel
from mmft.run.logged_not_raised import logged_not_raised
from mmft.run.predictions_file import write_predictions
from mmft.run.report import write_report
from mmft.run.resume import longer
from mmft.run.saved_model import SavedModel, save_model
from mmft.run_folder import RunFolder, init_folder
from mmft.signals import stop_signals
from mmft.tasks.base import Task
from mmft.training.calibrate import computed_anew, tune_on_validation
from mmft.training.callbacks.bad_rows import BadRowReport
from mmft.training.csv_log import CsvLog
from mmft.training.distillation import Distillation
from mmft.training.finishing import finish, test_finished
from mmft.training.hardware import choose_hardware, device_of
from mmft.training.loggers.base import RunLogger
from mmft.training.module import FineTuning
from mmft.training.parallel.collectives import end_collectives
from mmft.training.recording import recorded
from mmft.training.resuming import ResumePoint, check_rows, resume_point
from mmft.training.space import check_space
from mmft.training.table_evaluation import Evaluated
from mmft.tuning.plan import TuningPlan
from mmft.tuning.table import plan_rows, show_plan, write_plan

log = logging.getLogger(__name__)


def train(composed: Composed, path: Path) -> int:
    """Trains `composed` in the run folder `path`; prints the folder on stdout's last line.

    Returns:
        The exit code.

    Raises:
        MmftError: config, data or training failed; summary.json has the status `failed` or `stopped`.
    """
    ranks = started()
    folder = RunFolder(path, writes=ranks.is_first)
    if folder.is_finished and not longer(composed.typed, folder.read_config()):
        print(f"{folder.path} is already completed; there is nothing to resume.", file=sys.stderr)
    else:
        since, base = clock.job_start(), folder.working_directory()
        logger = build.build_logger(composed.config.logger) if ranks.is_first else RunLogger()
        with stop_signals() as request, folder.owned(), logger, recorded(folder, composed.config.seed, ranks, request):
            run = build.Run(composed, folder, base, since, request, logger)
            run.write_config()  # before the slow imports
            build.preload()
            JOB_CACHE.next_job()
            choose_hardware(composed.config.trainer, ranks.local_world)
            if composed.config.init == "last":  # config.yaml tells which run it was
                composed.config.init = str(init_folder("last", located(composed.config.paths.runs, base)).parent)
            build.choose_for_pair(composed.config, base)
            build.choose_for_whole(composed.config, base)
            run.write_config()
            logger.start(folder, run.on_disk())
            try:
                train_run(run)
            finally:
                end_collectives(together=False)
        if ranks.is_first and _has_report(composed.config, folder):
            with logged_not_raised():
                print(f"mmft: {write_report(folder).path.absolute()} shows the run", file=sys.stderr)
    if ranks.is_first:
        print_path(folder.path)
    return ExitCode.DONE


def _has_report(config: TrainConfig, folder: RunFolder) -> bool:
    """Whether the run gets predictions.csv and report.html."""
    return _wanted(config.report, folder)


def _wanted(chosen: bool | None, folder: RunFolder) -> bool:
    """What is chosen; otherwise whether the run is by itself, not one of a sweep."""
    return folder.sweep is None if chosen is None else chosen


def train_run(run: build.Run) -> None:
    """The whole program."""
    config, folder, logger = run.config, run.folder, run.logger
    splits, module, data = assemble(config, folder)
    model, task, plan = module.model, module.task, module.plan
    if folder.writes:
        if config.tune.probe is None:  # whose head is solved whatever the plan's rates
            show_plan(plan)
        write_plan(plan, folder.tuning)
    logger.log_table("tuning", plan_rows(plan))
    bad = BadRows(data.rows_read, config.data.max_bad_fraction, folder.bad_rows if folder.writes else None)
    bad.add(data.table_bad)
    bad.check()
    known = bad.count
    monitor = build.monitored(config, task, splits)
    of_task = {"monitor": monitor, "minimised": sorted(task.minimised)}
    folder.update_summary(parameters=plan.counts(), rows=_row_counts(data, bad), **of_task)
    announce(config, model, data, splits, bad)

    if folder.writes:
        check_space(config, folder.path, model, plan, "val" in data.rows)
    start = resume_point(folder)
    check_rows(folder, splits, start)
    if _wanted(config.modality_report, folder) and folder.writes and start.checkpoint is None:
        folder.update_summary(**pair_before(config, _pair_as_it_was(config, module), task, data))
    metrics = CsvLog(folder.metrics, keep_rows=start.rows, writes=folder.writes)
    solves = config.tune.probe is not None
    trainer = _solve(run, module, data, bad, metrics) if solves else _fit(run, module, data, bad, metrics, start)
    model = module.model
    model.auxiliary = None
    device, precision = trainer.strategy.root_device, config.trainer.precision
    rows = data.datasets.get("val")
    is_full = full_precision(precision) == precision
    with nullcontext() if rows is None or is_full else computed_anew(model, rows):
        batches = data.evaluation_loader("val")
        folder.update_summary(**tune_on_validation(model, task, batches, device, precision))
    if splits_to_test(data.rows):
        test_finished(trainer, module, data, folder, logger)
    end_collectives(together=True)
    if not folder.writes:  # the rest runs on one rank
        return
    save_model(folder.model, model, task, plan, run.typed, run.base)
    logger.log_model(folder.model)
    folder.update_summary(rows=_row_counts(data, bad))
    if bad.count > known:
        report_bad_rows(data, bad)
    if splits_to_test(data.rows):
        _report_tests(run, module, data, {name: splits[name] for name in splits_to_test(splits)}, bad)
    if _has_report(config, folder):
        _show_predictions(run, model, task, splits)
    if solves:
        tell_contradicted(folder, data.usable_rows(bad.rows)["train"])
    bad.check()


def _show_predictions(run: build.Run, model: VisionLanguageModel, task: Task, splits: dict[str, Split]) -> None:
    """Writes what the report shows of single rows, and logs the curves of their scores."""
    config, folder = run.config, run.folder
    model.end_training()
    loaded = LoadedModel(SavedModel(model, task, config, run.base, {}, frozenset()), config.trainer.accelerator)
    with logged_not_raised():
        write_predictions(folder.path, loaded, splits, config.data)
        log_curves(run.logger, folder, config.task, splits_to_test(splits))
    with logged_not_raised("explaining predictions for the report"):
        write_attributions(folder, loaded, attributed_rows(config))


def assemble(config: TrainConfig, folder: RunFolder) -> tuple[dict[str, Split], FineTuning, VisionLanguageData]:
    """The rows by split, the module with model, task and plan, and the data module."""
    splits = load_splits(config.data, config.seed)
    splits = build.choose_subset(config, splits, folder, lambda task: _untuned(config, task)[0])
    task = build.build_task(config.task)
    build.fit_task(task, splits["train"])
    build.check_monitoring(config, task, splits)
    model, plan, distillation = _model_and_plan(config, task)
    data = build.build_data(config, splits, model, task)
    return splits, build.build_module(config, model, task, plan, distillation), data


def _fit(
    run: build.Run, module: FineTuning, data: VisionLanguageData, bad: BadRows, metrics: CsvLog, start: ResumePoint
) -> pl.Trainer:
    """Trains, and gives `module` the finished model's weights; returns the trainer."""
    config, folder, task, plan = run.config, run.folder, module.task, module.plan
    callbacks = build.build_callbacks(run, data, task, plan, metrics, bad) + build.train_on(config, folder, start, data)
    trainer = build.build_trainer(config, folder, data, callbacks, [metrics, run.logger])
    trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint, weights_only=False)
    module.finished()
    folder.update_summary(**finish(config, module, callbacks, lambda: _start(config, task)))
    return trainer


def _solve(run: build.Run, module: FineTuning, data: VisionLanguageData, bad: BadRows, metrics: CsvLog) -> pl.Trainer:
    """Gives `module` the head that `tune.probe` solves in place of training; returns the trainer to evaluate with."""
    exact = replace(run.config.trainer, precision=full_precision(run.config.trainer.precision))  # as mmft predict
    evaluated = replace(run.config, trainer=exact)
    trainer = build.build_trainer(evaluated, run.folder, data, [BadRowReport(bad)], [metrics, run.logger])
    run.folder.update_summary(**build.solve_probe(evaluated, run.folder, module.model, module.task, data, bad))
    if "val" in data.rows:
        trainer.validate(module, data.evaluation_loader("val"), verbose=False)
        run.folder.update_summary(val=module.results["val"])
    return trainer


def _model_and_plan(config: TrainConfig, task: Task) -> tuple[VisionLanguageModel, TuningPlan, Distillation | None]:
    """The model at the start of training, what of it is trained, and what keeps it near its start."""
    model, changed = _untuned(config, task)
    distillation = build.build_distillation(config, model)
    build.add_auxiliary(config, model, task)
    return model, build.build_plan(config, model, changed), distillation


def _untuned(config: TrainConfig, task: Task) -> tuple[VisionLanguageModel, set[str]]:
    """The model before tuning methods are applied, and the encoders whose weights come from another run."""
    frozen = build.frozen_layers(config)
    model = build.build_model(config.model, build.head_maker(config, task), config.seed, frozen=frozen)
    build.start_head(model, task)
    build.prepare_generation(model, task)
    if config.init is None:
        return model, set()
    return model, initialise_from(config.init, located(config.paths.runs), model, task)


def _start(config: TrainConfig, task: Task) -> VisionLanguageModel:
    """The model as it was before training, built once more instead of being kept."""
    model, _ = _untuned(config, task)
    build.apply_tuning(config, model)
    return model


def _pair_as_it_was(config: TrainConfig, module: FineTuning) -> VisionLanguageModel:
    """The model before training, without what changes at once what a pair computes: prompts and prefixes."""
    begins_as_it = all(getattr(config.tune, encoder).interpolates for encoder in ENCODERS)
    return module.model if begins_as_it or not module.model.fusion.facts.of_pair else _untuned(config, module.task)[0]


def _row_counts(data: VisionLanguageData, bad: BadRows) -> dict[str, int]:
    """Numbers of usable rows by split, and of `bad` ones; `test` is that of the first test table."""
    usable = data.usable_rows(bad.rows)
    if found := splits_to_test(usable):
        usable["test"] = usable[found[0]]
    return usable | {"bad": bad.count}


def _report_tests(
    run: build.Run, module: FineTuning, data: VisionLanguageData, splits: dict[str, Split], bad: BadRows
) -> None:
    """What there is to say about the finished model on the test rows, beyond its metrics."""
    config, folder, model, task = run.config, run.folder, module.model, module.task
    if run.logger.predictions:
        each = -(-run.logger.predictions // len(splits))
        samples = (sample_predictions(model, task, split, config, each, name) for name, split in splits.items())
        run.logger.log_predictions([row for sample in samples for row in sample])
    if _wanted(config.modality_report, folder):
        folder.update_summary(**report(config, module, data))
    if "test" in splits:
        log_before(folder.read_summary())
        compare_with_probe(folder, run.on_disk(), config.paths.runs, task.headlines[0])
        return
    usable = data.usable_rows(bad.rows)
    after = {
        table_of(name): Evaluated(module.results[name], usable[name], len(split) - usable[name])
        for name, split in splits.items()
    }
    if config.init is not None:
        device, precision = device_of(config.trainer.accelerator), config.trainer.precision
        before = run_before(config.init, Path(config.paths.runs), task, splits, config.data, device, precision)
        folder.update_summary(**({} if before is None else {"tests_before": before}))
    log.info("%s", side_by_side(task.headlines, after, folder.read_summary().get("tests_before")))
