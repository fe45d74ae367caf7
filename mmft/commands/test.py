"""`mmft test run=RUN data.path=FILE`: evaluates a finished run on rows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from mmft import logs
from mmft.batch import BadRow, Batch
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema.data import DataConfig
from mmft.config.schema.root import TestConfig
from mmft.data.bad_rows import BadRows
from mmft.data.image_memory import ImageMemory
from mmft.data.loading import make_batches
from mmft.data.splits import Split, limited, load_rows, load_splits
from mmft.data.targets import Encode
from mmft.errors import ExitCode, UserError
from mmft.reports import modalities
from mmft.runs.given_run import given_model
from mmft.runs.loaded_model import LoadedModel
from mmft.runs.run_data import data_of_run, is_own_table, typed_nulls
from mmft.training.callbacks.bad_rows import BadRowReport
from mmft.training.evaluating import Evaluating
from mmft.training.half_precision import precision_plugin

log = logging.getLogger(__name__)


def test(composed: Composed) -> int:
    """Prints the metrics on stdout, one `name value` per line.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run, its rows are unusable, or too many are bad.
    """
    config: TestConfig = composed.config
    logs.configure(None)
    model = given_model(config)
    own = rebase(model.saved.config, model.saved.working_directory).data
    other = config.data.path is not None and not is_own_table(own, config.data.path)
    data = data_of_run(own, config.data, typed_nulls(composed), without_text=config.zero_shot.labels is not None)
    if config.modalities:
        modalities.check_columns(data.columns)
    split = _rows(data, model.saved.config.seed, other, config.data.columns.id is not None)
    model = model.asked(config.zero_shot, split)
    bad = BadRows(len(split), data.max_bad_fraction)
    batches = make_batches(split, data, **model.input_options(), encode=Encode.of(model.saved.task))
    rows: Any = batches.dataset
    bad.add(rows.known_bad())  # all at once instead of batch by batch
    bad.check()
    if config.modalities:  # the images are read four times
        rows.images = ImageMemory(split, rows.images.reader, int(data.picture_memory * 2**30))
    module = Evaluating(model.model, model.saved.task)
    trainer = _trainer(model.device.type, model.test_precision, bad)

    def measure(loader: DataLoader[Batch]) -> dict[str, float]:
        trainer.test(module, loader, verbose=False)
        return module.results["test"]

    both = measure(batches)
    _print(both)
    print(f"rows {len(split) - bad.count}\nbad_rows {bad.count}", flush=True)
    bad.check()
    if config.modalities:
        _report_modalities(model, batches, {row.row: row for row in bad.rows}, both, measure)
    return ExitCode.DONE


def _report_modalities(
    model: LoadedModel,
    batches: DataLoader[Batch],
    bad: dict[int, BadRow],
    both: modalities.Figures,
    measure: modalities.Measure,
) -> None:
    """Prints each modality's contribution: all metrics on stdout, the monitored one as a table on stderr."""
    task, seed = model.saved.task, model.saved.config.seed
    rows: Any = batches.dataset
    found = modalities.measured(batches, bad, seed, task, measure)
    for name, figures in found.items():
        _print(figures, f"{name}/")
    log.info("%s", modalities.table(task, both, found))
    for note in modalities.notes(model.model, rows, bad, task):
        log.info("%s", note)


def _print(figures: dict[str, float], prefix: str = "") -> None:
    for name, value in sorted(figures.items()):
        print(f"{prefix}{name} {value:.6f}", flush=True)


def _rows(data: DataConfig, seed: int, other: bool, id_is_typed: bool) -> Split:
    """The rows to test on, at most `data.limit` of them.

    Args:
        data: the run's, with the command's overrides.
        seed: the run's; the limit samples rows by it, as in training.
        other: whether the table is not the run's.
        id_is_typed: as in `load_rows`.
    """
    if other:
        split = load_rows(data, "test", id_is_typed)
        if data.limit is None or len(split) <= data.limit:
            return split
        log.info("data.limit=%d: testing on %d of %d rows", data.limit, data.limit, len(split))
        return limited(split, data.limit, seed, data.drawing)
    # The run's own table: only rows that it was not trained on, however it was split.
    splits = load_splits(data, seed)
    if "test" not in splits:
        raise UserError("The run's data has no test rows. Type data.path=FILE.")
    return splits["test"]


def _trainer(device: str, precision: str, bad: BadRows) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        plugins=[precision_plugin(precision, device)],
        callbacks=[BadRowReport(bad)],
        logger=False,
        default_root_dir=Path.cwd(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
