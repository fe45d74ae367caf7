"""`mmft test run=RUN data.path=FILE`: evaluates a finished run on rows, or with `data.test` on several tables."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmft import logs
from mmft.config.compose import Composed
from mmft.config.paths import rebase, table_files, tables_of
from mmft.config.schema.data import DataConfig
from mmft.config.schema.root import TestConfig
from mmft.data.images.memory import ImageMemory
from mmft.data.splitting.names import splits_to_test, table_of
from mmft.data.splitting.splits import Split, limited, load_rows, load_splits, load_tests
from mmft.errors import ExitCode, UserError
from mmft.reports import modalities
from mmft.reports.tables_compared import side_by_side
from mmft.run.before import run_before
from mmft.run.given_run import given_model
from mmft.run.loaded_model import LoadedModel
from mmft.run.run_data import data_of_run, is_own_table, typed_nulls
from mmft.training.table_evaluation import TableEvaluation

log = logging.getLogger(__name__)


def test(composed: Composed) -> int:
    """Prints the metrics on stdout, one `name value` per line, those of a named table as `table/name value`.

    Returns:
        The exit code.

    Raises:
        UserError: there is no such run, its rows are unusable, or too many are bad.
    """
    config: TestConfig = composed.config
    logs.configure(None)
    model = given_model(composed)
    saved = model.saved
    own = rebase(saved.config, saved.working_directory)
    _warn_of_trained_rows(config.data, own.data)
    other = config.data.path is not None and not is_own_table(own.data, config.data.path)
    data = data_of_run(own.data, config.data, typed_nulls(composed), without_text=config.zero_shot.labels is not None)
    if config.modalities:
        modalities.check_columns(data.columns)
    splits = _rows(data, saved.config.seed, config.data, other)
    asked = {name: model.asked(config.zero_shot, split) for name, split in splits.items()}
    prepared = {name: _prepared(asked[name], split, data) for name, split in splits.items()}
    _check_bad_rows(list(prepared.values()))
    found = {}
    for name, one in prepared.items():
        prefix = f"{table_of(name)}/" if table_of(name) else ""
        with asked[name].reading(one.rows, data, model.test_precision):
            found[table_of(name)] = tested = one.run()
            _print(tested.metrics, prefix)
            print(f"{prefix}rows {tested.rows}\n{prefix}bad_rows {tested.bad}", flush=True)
            if config.modalities:
                _report_modalities(asked[name], one, tested.metrics, prefix)
    if "" not in found:
        before = None
        if config.zero_shot.labels is None and own.init is not None:
            runs = Path(own.paths.runs)
            before = run_before(own.init, runs, saved.task, splits, data, model.device, model.test_precision)
        headlines = asked[next(iter(splits))].saved.task.headlines
        log.info("%s", side_by_side(headlines, found, before))
    return ExitCode.DONE


def _prepared(model: LoadedModel, split: Split, data: DataConfig) -> TableEvaluation:
    where = split.table.where if table_of(split.table.split) else ""
    return TableEvaluation(model.model, model.saved.task, split, data, model.device, model.test_precision, where)


def _check_bad_rows(prepared: list[TableEvaluation]) -> None:
    """Raises UserError, before anything is evaluated, with every table of which too many rows are bad."""
    wrong: list[str] = []
    for one in prepared:
        try:
            one.bad.check()
        except UserError as error:
            wrong += error.messages
    if wrong:
        raise UserError(wrong)


def _report_modalities(model: LoadedModel, test: TableEvaluation, both: modalities.Figures, prefix: str) -> None:
    """Prints each modality's contribution: all metrics on stdout, the monitored one as a table on stderr."""
    task, config = model.saved.task, model.saved.config
    rows = test.rows
    bad = {row.row: row for row in test.bad.rows}
    # The images are read four times.
    rows.images = ImageMemory(test.split, rows.images.reader, int(config.data.picture_memory * 2**30))
    found = modalities.measured(test.batches, bad, config.seed, task, test.measure)
    for name, figures in found.items():
        _print(figures, f"{prefix}{name}/")
    log.info("%s%s", f"{prefix[:-1]}:\n" if prefix else "", modalities.table(task, both, found))
    for note in modalities.notes(model.model, rows, bad, task):
        log.info("%s", note)


def _print(figures: dict[str, float], prefix: str = "") -> None:
    for name, value in sorted(figures.items()):
        print(f"{prefix}{name} {value:.6f}", flush=True)


def _rows(data: DataConfig, seed: int, given: Any, other: bool) -> dict[str, Split]:
    """The rows to test on by split, of each at most `data.limit`.

    Args:
        data: the run's, with the command's overrides.
        seed: the run's; the limit samples rows by it, as in training.
        given: the command's own `data`.
        other: whether `data.path` is not the run's.
    """
    id_is_typed = given.columns.id is not None
    if given.test is None and not other:
        # The run's own table: only rows that it was not trained on, however it was split.
        splits = load_splits(data, seed)
        if not splits_to_test(splits):
            raise UserError("The run's data has no test rows. Type data.path=FILE.")
        return {name: splits[name] for name in splits_to_test(splits)}
    splits = load_tests(data, id_is_typed) if given.test is not None else {"test": load_rows(data, "test", id_is_typed)}
    if given.test is None and (others := len(splits["test"].table) - len(splits["test"])):
        log.warning(
            "%d rows of %s are not tested: data.columns.split=%s gives them to another split, or to none. "
            "data.columns.split=null tests all",
            *(others, splits["test"].table.where, data.columns.split),
        )
    return {name: _limited(split, data, seed) for name, split in splits.items()}


def _limited(split: Split, data: DataConfig, seed: int) -> Split:
    if data.limit is None or len(split) <= data.limit:
        return split
    log.info("data.limit=%d: testing on %d of %d rows of %s", data.limit, data.limit, len(split), split.table.where)
    return limited(split, data.limit, seed, data.drawing)


def _warn_of_trained_rows(given: Any, own: DataConfig) -> None:
    """Warns of tables of `data.test` that the run was trained on: these are tested whole."""
    trained = {key: files for key, files in tables_of(own).items() if not key.startswith("data.test")}
    known = {file.resolve() for files in trained.values() for file in table_files(files)}
    for key, files in tables_of(given).items():
        if key.startswith("data.test") and any(file.resolve() in known for file in table_files(files)):
            log.warning("%s is a table of the run, whose training rows are tested, too", key)
