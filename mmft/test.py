"""`mmft test run=RUN data.path=FILE`: evaluates a finished run on rows."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning.pytorch as pl

from mmft import logs
from mmft.callbacks.bad_rows import BadRowReport
from mmft.config.compose import Composed
from mmft.config.paths import rebase
from mmft.config.schema import TestConfig
from mmft.config.schema.data import DataConfig
from mmft.data.bad_rows import BadRows
from mmft.data.loading import make_batches
from mmft.data.splits import Split, limited, load_rows, load_splits
from mmft.data.targets import Encode
from mmft.errors import ExitCode, UserError
from mmft.loaded_model import data_of_run, is_own_table, load
from mmft.training.evaluating import Evaluating

log = logging.getLogger(__name__)


def test(composed: Composed) -> int:
    """Prints the metrics on stdout, one `name value` per line.

    Returns:
        The exit code.

    Raises:
        UserError: no such run, unusable rows, or too many bad ones.
    """
    config: TestConfig = composed.config
    logs.configure(None)
    model = load(config.run, config.paths.runs, config.trainer.accelerator)
    own = rebase(model.saved.config, model.saved.working_directory).data
    other = config.data.path is not None and not is_own_table(own, config.data.path)
    data = data_of_run(model.saved, config.data)
    split = _rows(data, model.saved.config.seed, other)
    bad = BadRows(len(split), data.max_bad_fraction)
    batches = make_batches(split, data, **model.input_options(), encode=Encode.of(model.saved.task))
    module = Evaluating(model.model, model.saved.task)
    _trainer(model.device.type, model.test_precision, bad).test(module, batches, verbose=False)
    for name, value in sorted(module.results["test"].items()):
        print(f"{name} {value:.6f}")
    print(f"rows {len(split) - bad.count}\nbad_rows {bad.count}", flush=True)
    bad.check()
    return ExitCode.DONE


def _rows(data: DataConfig, seed: int, other: bool) -> Split:
    """The rows to test on, at most `data.limit` of them.

    Args:
        data: the run's, with what was typed for this command.
        seed: of the run; the limit is drawn by it, as in training.
        other: whether they are another table's than the run's.
    """
    if other:
        split = load_rows(data, "test")
        if data.limit is None or len(split) <= data.limit:
            return split
        log.info("data.limit=%d: %d of %d rows are tested", data.limit, data.limit, len(split))
        return limited(split, data.limit, seed)
    # The run's own table: of the rows that it was not trained on, however they were split off.
    splits = load_splits(data, seed)
    if "test" not in splits:
        raise UserError("The run's data has no test rows. Type data.path=FILE.")
    return splits["test"]


def _trainer(device: str, precision: str, bad: BadRows) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        callbacks=[BadRowReport(bad)],
        logger=False,
        default_root_dir=Path.cwd(),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
